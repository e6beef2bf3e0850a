"""Prints Transformer runs beside the linear baselines as a Markdown table.

    python benchmarks/classification_table.py runs=outputs/classification [runs=...]
        [linear=benchmarks/results/linear_baselines.json] [names=scratch,pretrained] [out=FILE]

There is one line for each data set and configuration. ``runs`` are run directories, folders of them or globs, as for
`multihead compare`. The seeds of one configuration become mean and standard deviation. The linear baselines are those
of `linear_baselines.py`. If a data set has other test or training rows there, the command ends with an error. ``names``
name the configurations in the order in which they are found. Without them, configurations are named by what differs.
"""

import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rounds import split_words

from multihead.comparing.finished import FinishedRun, find_runs
from multihead.comparing.systems import group_by_recipe, name_systems
from multihead.errors import ConfigError, MultiheadError

OWN = {"linear": "benchmarks/results/linear_baselines.json", "names": "", "out": ""}


def systems_of(entries: Sequence[str]) -> dict[str, list[list[FinishedRun]]]:
    """Groups runs by data set and configuration. Each configuration is a list of seeds.

    Raises:
        ConfigError: A run is not a classification.
    """
    paths = dict.fromkeys(path for entry in entries for path in find_runs(entry))
    runs = [FinishedRun.read(path) for path in paths]
    by_data: dict[str, list[FinishedRun]] = {}
    for run in runs:
        if run.task != "classification":
            raise ConfigError("runs", f"{run.path} is a run of task={run.task}", "name runs of classification")
        by_data.setdefault(run.config["data"]["name"], []).append(run)
    return {name: group_by_recipe(members) for name, members in by_data.items()}


def require_same_rows(run: FinishedRun, linear: Mapping[str, Any]) -> None:
    """Checks that scores are on the same data.

    Raises:
        ConfigError: Test or train are not those of the linear baselines.
    """
    name = run.config["data"]["name"]
    for mark in ("data_test", "data_train"):
        if run.data.get(mark) != linear["fingerprints"][mark]:
            what = f"{run.path} has other rows of {mark.removeprefix('data_')} than the baselines of {name}"
            raise ConfigError("runs", what, f"python benchmarks/linear_baselines.py data={name} with the same words")


def row(
    name: str, system: str, seeds: Sequence[FinishedRun], linear: Mapping[str, Any], titles: Sequence[str]
) -> list[str]:
    """Returns one line: the baselines, the Transformer, and the difference to the best baseline."""
    key = f"test/{linear['metric']}"
    values = [100 * float(run.result[key]) for run in seeds]
    mean = statistics.fmean(values)
    baselines = [linear["models"][title][key] for title in titles]
    best = max(baselines)
    cells = [f"**{value:.2f}**" if value == best > mean else f"{value:.2f}" for value in baselines]
    found = f"{mean:.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
    found = f"**{found}**" if mean >= best else found
    mark = " (1)" if linear["chosen_on_test"] else ""
    return [name + mark, linear["metric"], *cells, system, found, str(len(values)), f"{mean - best:+.2f}"]


def without_folders(label: str) -> str:
    """Names the run that another started from in a label, without its folder."""
    return re.sub(r"(init_from=)\S*/", r"\1", label)


def table(by_data: Mapping[str, list[list[FinishedRun]]], linear: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """Returns the Markdown table.

    Raises:
        ConfigError: A data set has no baseline, or its baseline is on other rows.
    """
    unknown = [name for name in by_data if name not in linear]
    if unknown:
        raise ConfigError("linear", f"has no {unknown[0]}", f"python benchmarks/linear_baselines.py data={unknown[0]}")
    titles = list(next(iter(linear.values()))["models"])
    head = ["data", "metric", *titles, "configuration", "Transformer", "seeds", "to the best linear"]
    lines = [head, ["---", "---", *["---:"] * len(titles), "---", "---:", "---:", "---:"]]
    for data, systems in by_data.items():
        labels = names if len(names) == len(systems) else [without_folders(name) for name in name_systems(systems)]
        for label, seeds in zip(labels, systems, strict=True):
            for run in seeds:
                require_same_rows(run, linear[data])
            lines.append(row(data, "-" if len(systems) == 1 and not names else label, seeds, linear[data], titles))
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    if any(linear[data]["chosen_on_test"] for data in by_data):
        text += "\n\n(1) The validation split is the test split: C, and the step, were chosen on what is scored."
    return text + "\n\nIn percent on the test split: mean ± standard deviation over seeds; the best of a line in bold."


def main(arguments: Sequence[str]) -> None:
    """Prints the table of the runs of the command line."""
    settings, rest = split_words(arguments, OWN)
    entries = [word.removeprefix("runs=") for word in rest if word.startswith("runs=")]
    if not entries or len(entries) < len(rest):
        sys.exit("usage: python benchmarks/classification_table.py runs=DIR [runs=DIR ...] [linear=FILE] [out=FILE]")
    try:
        linear = json.loads(Path(settings["linear"]).read_text())
        text = table(systems_of(entries), linear, [name for name in settings["names"].split(",") if name])
    except MultiheadError as error:
        sys.exit(str(error))
    print(text)
    if settings["out"]:
        Path(settings["out"]).write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
