"""A report of your own: TRAIN

This one writes the metrics of the test as a table of LaTeX. A plugin's reports are written at the end of every run.
"""

import json

from multihead.plugin import Plugin


def my_report(run_dir):
    """Called with the run directory, a `pathlib.Path`, when result.json is written; if it fails, the result stands."""
    result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    rows = [(name, value) for name, value in result.items() if name.startswith("test/") and isinstance(value, float)]
    lines = [f"{name.removeprefix('test/').replace('_', ' ')} & {value:.3f} \\\\" for name, value in rows]
    table = "\n".join(["\\begin{tabular}{lr}", *lines, "\\end{tabular}", ""])
    (run_dir / "my_report.tex").write_text(table, encoding="utf-8")


PLUGIN = Plugin(reports={"my_report": my_report})
