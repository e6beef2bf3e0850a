"""``reproduce`` trains a run, or the command of a record, again and compares the results."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.compose import require_run
from multihead.config.record import ReproduceSettings, read_record
from multihead.config.settings import read_words
from multihead.errors import ConfigError

if TYPE_CHECKING:
    from multihead.studying.again import Changes
    from multihead.studying.records import RecordChecked
    from multihead.studying.reproduce import Reproduction

NOT_REPRODUCED = 2
"""Exit status if the result is another one."""
SAID = {"same": "the same", "within": "within the tolerance", "differs": "differs", "missing": "missing"}


def run(words: Sequence[str]) -> int:
    """Runs ``multihead reproduce``; see `ReproduceSettings`."""
    settings, _ = read_words(ReproduceSettings, words)
    record = read_record(settings.record) if settings.record else None
    if record is None:
        require_run("run", settings.run)
    from multihead.studying.records import check_record
    from multihead.studying.reproduce import reproduce_run

    as_json = settings.format == "json"
    with _folder(settings.out) as folder:
        if record is not None:
            checked = check_record(record, folder, settings.seeds == "all", _say(as_json), settings.plugin)
            reproduced, content, lines = checked.reproduced, _record_content(checked), _record_lines(checked)
        else:
            found = reproduce_run(settings.run, folder / "run", settings.share(), settings.plugin, _say(as_json))
            reproduced, content, lines = found.reproduced, asdict(found), _run_lines(found)
    if as_json:
        sys.stdout.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(lines) + "\n")
    return 0 if reproduced else NOT_REPRODUCED


def _say(as_json: bool) -> Callable[[str], None]:
    """Returns what writes a line about the progress, beside an answer in JSON to standard error."""

    def say(line: str) -> None:
        file = sys.stderr if as_json else sys.stdout
        file.write(line + "\n")
        file.flush()

    return say


@contextlib.contextmanager
def _folder(out: str) -> Iterator[Path]:
    """Yields the folder of the new runs: the given one, or one that is deleted afterwards."""
    if not out:
        with tempfile.TemporaryDirectory(prefix="multihead-reproduce-") as folder:
            yield Path(folder)
        return
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("out", f"{out} exists already and is not empty", "choose another folder")
    yield folder


def _run_lines(found: Reproduction) -> list[str]:
    from multihead.studying.reproduce import duration

    rows = [("metric", "then", "now", "")]
    for metric in found.metrics:
        rows.append((metric.name, _text(metric.then), _text(metric.now), SAID[metric.verdict]))
    lines = [*_columns(rows), *_differences(found.differs)]
    lines.append(f"time of training: {duration(found.seconds_then)} then, {duration(found.seconds_now)} now")
    same = all(metric.verdict == "same" for metric in found.metrics)
    if same:
        lines.append(f"reproduced: all {len(found.metrics)} metrics are the same to the last digit")
    elif not found.differs:
        lines.append("not reproduced: the metrics differ, though data, code, versions, processor and threads do not")
    else:
        deciding = ", ".join(metric.name for metric in found.metrics if metric.decides)
        verdict = "reproduced within the tolerance" if found.reproduced else "not reproduced"
        lines.append(f"{verdict}: {deciding} may change by {found.tolerance:.3g} of the value then")
    return lines


def _record_content(checked: RecordChecked) -> dict[str, Any]:
    """What ``format=json`` prints about a record."""
    seconds = max(each.seconds for each in checked.seeds)
    return asdict(checked) | {"reproduced": checked.reproduced, "seconds": seconds}


def _record_lines(checked: RecordChecked) -> list[str]:
    from multihead.studying.reproduce import duration

    record, now = checked.record, len(checked.seeds)
    rows = [("", "record", "now", "time then", "time now")]
    for each in checked.seeds:
        times = duration(record.seconds), duration(each.seconds)
        rows.append((f"seed {each.seed}", _text(each.then), _text(each.now), *times))
    said = ("git_commit", "versions")  # by a note before the training
    differs = {key: pair for key, pair in checked.differs.items() if not key.startswith(said)}
    spread = f" ± {record.deviation:.3g}" if record.deviation is not None else ""
    of = f"{now} of {len(record.seeds)} seeds" if len(record.seeds) > 1 else "one seed"
    lines = [record.what, *_columns(rows), *_differences(differs)]
    then = len(record.seeds)
    reason = "as the record states" if record.tolerance else f"the 95 % prediction interval of {now} after {then} seeds"
    distance = f"{abs(checked.value - record.value):.3g} from the record's"
    lines.append(f"mean: {distance}; up to {checked.allowed:.3g} is allowed ({reason})")
    if checked.allowed_deviation is not None:
        limit = f"up to {checked.allowed_deviation:.3g} is allowed (95 of 100 repetitions stay below it)"
        lines.append(f"deviation between seeds: {checked.deviation:.3g}; {limit}")
    verdict = "passed" if checked.reproduced else "failed"
    result = f"{record.metric} is {_text(checked.value)} ({of}), and the record has {record.value:.6g}{spread}"
    return [*lines, f"{verdict}: {result}"]


def _differences(differs: Changes) -> list[str]:
    lines = [
        f"differs: {key} was {_text(then)} and is {_text(now)}"
        for key, (then, now) in differs.items()
        if key != "git_dirty"
    ]
    if "git_dirty" in differs:
        when = [word for word, dirty in zip(("then", "now"), differs["git_dirty"], strict=True) if dirty]
        lines.append(f"differs: the code had changes that are in no commit ({', '.join(when)})")
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows as lines; each column is as wide as its widest entry."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
