"""Runs the fault matrix: it injects each fault for real, and checks what was promised.

    python benchmarks/fault_matrix.py                       # all rows, and each again with its defect put back
    python benchmarks/fault_matrix.py only=C,12 seeded=false

The second run of a row has a seeded defect, which shows that the check can fail. `only` takes sections and row numbers.
`seeded=false` leaves the second run out. `out` is the file of the table. If a row needs what this machine does not
allow (mounting, tracing), the table gives the reason. All rows take about 25 minutes on two cores.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from faults.harness import Bench, Row, all_rows, seeded  # noqa: E402

WORDS = {"only": "", "seeded": "true", "out": str(ROOT / "benchmarks" / "results" / "fault_matrix")}


def tried(row: Row, folder: Path, shared: Path, defect: str = "") -> tuple[bool, str, float]:
    """Returns whether the check of a row passed, what it saw, and the seconds it took."""
    bench, began = Bench(folder, shared, defect), time.monotonic()
    try:
        with seeded(defect):
            seen, passed = row.check(bench) or "as promised", True
    except Exception as error:
        seen, passed = f"{type(error).__name__}: {error}", False
    finally:
        bench.end()
        shutil.rmtree(folder, ignore_errors=True)
    return passed, " ".join(seen.replace(str(folder), "...").split())[:200], time.monotonic() - began


def run_row(row: Row, folder: Path, shared: Path, with_defect: bool) -> dict:
    """Returns one line of the table."""
    line = {"row": row.number, "section": row.section, "fault": row.title, "promised": row.promise}
    if why := row.needs():
        return line | {"held": None, "seen": f"not run: {why}", "seconds": 0.0, "caught": None}
    held, seen, seconds = tried(row, folder / row.number, shared)
    caught = None
    if with_defect:
        caught = not tried(row, folder / f"{row.number}_seeded", shared, row.defect)[0]
    return line | {"held": held, "seen": seen, "seconds": round(seconds, 1), "caught": caught}


def table(lines: list[dict]) -> str:
    """Returns the lines as Markdown."""
    mark = {True: "yes", False: "**no**", None: "-"}
    head = (
        "| row | fault | promised | held | seen | s | defect caught |\n| --- | --- | --- | --- | --- | ---: | --- |\n"
    )
    body = ""
    for line in lines:
        texts = [line[name].replace("|", "\\|") for name in ("row", "fault", "promised")]
        seen = line["seen"].replace("|", "\\|")
        body += (
            f"| {' | '.join(texts)} | {mark[line['held']]} | {seen} | {line['seconds']} | {mark[line['caught']]} |\n"
        )
    return head + body


def main(words: list[str]) -> int:
    """Runs the rows and writes the table. The status is 1 if a promise was not kept or a defect was not seen."""
    options = WORDS | dict(word.split("=", 1) for word in words)
    if unknown := set(options) - set(WORDS):
        sys.exit(f"no such word: {', '.join(sorted(unknown))}; there are {', '.join(WORDS)}")
    only = [part for part in options["only"].split(",") if part]
    rows = [row for row in all_rows() if not only or row.section in only or row.number in only]
    lines = []
    with tempfile.TemporaryDirectory(prefix="multihead-faults-") as folder:
        for row in rows:
            line = run_row(row, Path(folder), Path(folder) / "shared", options["seeded"] == "true")
            lines.append(line)
            print(
                f"{row.number:>4} held={line['held']} caught={line['caught']} {line['seconds']:>6} s  {line['seen']}",
                flush=True,
            )
    out = Path(options["out"])
    if str(out) != "none":
        out.with_suffix(".json").write_text(json.dumps(lines, indent=1) + "\n")
        out.with_suffix(".md").write_text(table(lines))
    held, caught = sum(line["held"] is True for line in lines), sum(line["caught"] is True for line in lines)
    print(f"{len(lines)} rows, {held} as promised, {caught} defects caught")
    return int(any(line["held"] is False or line["caught"] is False for line in lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
