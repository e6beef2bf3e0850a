"""A finished run in another runtime's format: written, read back from disk, run on the run's own examples, compared.

`ctranslate` and `programs` and `weights` write one format each and read it back; `verify` compares what was read back
with the model that it came from; `places` finds the examples and puts a folder in place when it is whole.
"""
