"""Published models in Hugging Face's layout: their weights under our names, and our weights under theirs.

`names` holds a table of tensor names for each family, `folder` opens a folder safely, `source` reads one as the start
of a run. What a ``config.json`` means in our options stands in `multihead.config.families`.
"""
