"""Checks of a model before it trains: whether a changed Transformer still is one, on the user's own configuration.

`subject` builds the model and what it is compared with, `look` runs it twice and says which module made a difference.
Each other module holds some checks; `examination` runs them in order, and `report` shows the result.
"""
