"""Published models in Hugging Face's layout: their weights under our names, and our weights under theirs.

`names` holds a table of tensor names for each family. `folder` opens a folder safely, and `source` reads the model of
a folder. `target` writes our models. `multihead.config.families` says which of our options a ``config.json`` means.
"""
