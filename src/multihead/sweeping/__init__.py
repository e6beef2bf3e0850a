"""Sweeps on this machine or on several.

`frozen` copies what a sweep consists of, and `ledger` records its trials. `runner` starts workers; a `worker` claims
trials, and `trial` runs one. `report` has the table and the page of pictures. `multihead.config.sweep` reads the file.
"""
