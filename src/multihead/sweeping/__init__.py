"""Sweeps on this machine or on several: the ledger (`ledger`), a worker's loop (`worker`), one trial (`trial`), the
table and the page of pictures (`report`). `multihead.config.sweep` reads the file; `multihead.commands.sweep` is the
verb."""
