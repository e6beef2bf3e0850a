"""A finished run in another runtime's format: written, read back from disk, and compared with the run's own model.

`formats` has the order of events. `ctranslate`, `programs`, `huggingface`, `remote` and `lora` write a format.
`ctranslate_runtime` and these modules read back what was written. `verify` compares it with the model that it came
from. `places` finds the inputs, and moves the new folder to its place when it is whole. `hub` uploads it.

`remote` writes the model's code too: `modeling` with what `bundle` collects for it from our other modules.
"""
