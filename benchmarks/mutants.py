"""Measures how good the tests are: it changes one line, and the tests that run it must notice.

    python benchmarks/mutants.py [number=240] [seed=1] [modules=model/optim.py,...] [only=survivors|all] [workers=1]
        [budget=60] [tests=homes] [list=true]
        [before=3a6da4d] [out=benchmarks/results/mutants]

- ``seed`` draws the mutants from `mutating.py`. Mutants that people named are added. Mutants in the file of results
  stay as long as their line exists. ``number`` counts those of all modules. ``modules=`` runs only the mutants of
  these modules, and ``list=true`` only prints them.
- A mutant lives in a copy of the tree in a temporary folder. The tests that run the changed line run in a fork of a
  process that has already imported PyTorch. `coverage` finds these tests once; .cache/mutants keeps the answer. The
  tests of the module's own test file come first, and then the fastest. They stop when one fails or when they have
  taken ``budget`` seconds unmutated. ``tests=homes`` runs the module's own test files alone, for a quick first look.
- ``killed``: a test failed, or the process died. ``timed out``: it took three times longer than the unmutated tests
  and 45 s. This counts if the unmutated tests then need less than a third of its processor time. ``survived``: all
  tests passed.
- Results are written as they come, and the same command continues an interrupted one. ``only=survivors`` runs again
  what survived and is not judged equivalent in mutants_judged.yaml. The table has the results of the commit
  ``before`` beside the last ones.

It needs `coverage`. 250 mutants take about an hour on one busy core, most of it for the map of lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import forked
import yaml
from exactness import table
from mutating import Mutant, Place, draw, named
from rounds import split_words

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src") / "multihead"
SETTINGS = {
    "number": 240,
    "seed": 1,
    "modules": "",
    "only": "",
    "workers": 1,
    "budget": 60.0,
    "tests": "all",
    "list": "",
}
SETTINGS |= {"before": "3a6da4d", "out": str(ROOT / "benchmarks" / "results" / "mutants")}
JUDGED = ROOT / "benchmarks" / "mutants_judged.yaml"
HOMES = {
    "model/transformer.py": ["tests/model/test_transformer.py"],
    "model/cache.py": ["tests/model/test_sampling.py", "tests/model/test_transformer.py"],
    "model/heads.py": ["tests/model/test_heads.py"],
    "model/ngrams.py": ["tests/model/test_ngrams.py"],
    "model/kernels.py": ["tests/model/test_kernels.py"],
    "model/beam_search.py": ["tests/model/test_beam_search.py"],
    "model/sampling.py": ["tests/model/test_sampling.py"],
    "model/losses.py": ["tests/model/test_losses.py"],
    "model/optim.py": ["tests/model/test_optim.py"],
    "metrics/text.py": ["tests/metrics/test_text.py"],
    "metrics/classification.py": ["tests/metrics/test_classes.py"],
    "metrics/selection.py": ["tests/metrics/test_selection.py"],
    "data/plan.py": ["tests/data/test_plan.py"],
    "data/mixture.py": ["tests/data/test_mixture.py"],
    "training/averaging.py": ["tests/training/test_averaging.py"],
    **{
        f"training/{name}.py": ["tests/training/test_steps.py", "tests/training/test_steps_going_on.py"]
        for name in ("steps", "counters", "streams", "restore", "saving", "stopping", "validation")
    },
    "training/signals.py": ["tests/training/test_signals.py"],
    "runs/checkpoint.py": ["tests/runs/test_checkpoint.py"],
    "runs/resume.py": ["tests/runs/test_open_checkpoint.py"],
    "comparing/compare.py": ["tests/commands/test_compare.py"],
    "comparing/scores.py": ["tests/commands/test_compare.py"],
    "comparing/significance.py": ["tests/comparing/test_significance.py"],
}
"""The modules that are mutated, with their own test files."""
BESIDE = {
    "tasks/translation.py": ["tests/tasks/test_translation.py"],
    "training/telemetry.py": ["tests/training/test_telemetry.py"],
}
"""Modules of which only the named mutants are run."""
LEFT_OUT = ("tests/faults/", "tests/exporting/", "tests/benchmarks/", "tests/sweeping/", "tests/config/")
LEFT_OUT += tuple(
    f"tests/{name}.py" for name in ("test_docs", "test_examples", "test_sweeps", "test_imports", "test_cli")
)
"""Test files that are not run. They run other modules, or each command in a process of its own."""
MAP_LIMIT = 900.0
"""Seconds that one test file may take while its lines are mapped."""


# ---- which lines the tests run


def test_files(tree: Path, modules: Collection[str], which: str) -> list[str]:
    """Returns the test files to run, those of the mutated modules first. If ``which`` is homes, there are no others."""
    homes = dict.fromkeys(
        file for module in modules for file in (HOMES | BESIDE).get(module, ()) if (tree / file).is_file()
    )
    if which == "homes":
        return list(homes)
    found = sorted(str(path.relative_to(tree)) for path in (tree / "tests").rglob("test_*.py"))
    return list(homes | dict.fromkeys(file for file in found if not file.startswith(LEFT_OUT)))


def map_of(tree: Path, scratch: Path, files: Sequence[str]) -> dict[str, Any]:
    """Returns what `forked.map_tests` finds of test files. If nothing has changed, it is read from .cache/mutants."""
    cache = ROOT / ".cache" / "mutants" / "map.json"
    known = json.loads(cache.read_text()) if cache.is_file() else {}
    code = b"".join(path.read_bytes() for path in sorted((tree / PACKAGE).rglob("*.py")))
    found = {}
    for file in files:
        key = hashlib.sha256(code + (tree / file).read_bytes()).hexdigest()
        if known.get(file, {}).get("key") != key:
            result = forked.Child.start(forked.map_tests, file, tree, scratch, MAP_LIMIT).wait()
            if "tests" not in result:
                print(f"{file} cannot be mapped: {result}; see {scratch}/output.txt", flush=True)
                continue
            bad = [name for name, test in result["tests"].items() if not test["passed"]]
            print(f"{file}: {len(result['tests'])} tests, {result['seconds']:.0f} s, fail unmutated: {bad}", flush=True)
            known[file] = result | {"key": key}
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps(known))
        found[file] = known[file]
    return found


def tests_for(mutant: Mutant, place: Place, found: Mapping[str, Any], budget: float) -> tuple[list[str], float, str]:
    """Returns the tests that run the line, the best first, the seconds that they take unmutated, and how they were
    found."""
    for by, span in (("line", (place.number, place.number)), ("function", (place.first, place.last)), ("file", None)):
        if by == "line" and place.first == 1:  # a line outside of functions runs on import
            continue
        chosen = _running(mutant, span, found)
        if chosen:
            break
    homes = (HOMES | BESIDE).get(mutant.file, [])
    chosen.sort(key=lambda one: (one[0] not in homes, one[2]))
    spent, taken, ready = 0.0, [], set()
    for file, name, seconds in chosen:
        fixtures = {
            (file, f): s for f, s in found[file]["fixtures"].items() if f in found[file]["tests"][name]["fixtures"]
        }
        cost = seconds + sum(s for key, s in fixtures.items() if key not in ready)
        if spent + cost <= budget or not taken:
            spent, ready = spent + cost, ready | fixtures.keys()
            taken.append((file, name))
    files = list(dict.fromkeys(file for file, _ in taken))  # fixtures of a module are built once
    return [name for file in files for other, name in taken if other == file], spent, by


def _running(mutant: Mutant, span: tuple[int, int] | None, found: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Returns (file, test, seconds) of the passing tests that run a line of the span, or anything of the module."""
    chosen = []
    for file, of_file in found.items():
        lines = of_file["lines"].get(mutant.file, {})
        names = {
            name for line, names in lines.items() if span is None or span[0] <= int(line) <= span[1] for name in names
        }
        for name, test in of_file["tests"].items():
            if test["passed"] and not names.isdisjoint((name, *test["fixtures"])):
                chosen.append((file, name, test["seconds"]))
    return chosen


# ---- running


class Work:
    """Tests mutants in ``workers`` forks at a time, each in its own copy of the tree."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], modules: Collection[str]):
        self.folder, self.settings = folder, settings
        self.trees = [forked.copy_tree(ROOT, folder / f"tree_{i}") for i in range(settings["workers"])]
        self.sources: dict[str, str] = {}
        files = test_files(self.trees[0], modules, settings["tests"])
        self.map = map_of(self.trees[0], folder / "scratch_map", files)

    def verdicts(self, mutants: Sequence[tuple[Mutant, Place]]) -> Iterator[tuple[Mutant, dict[str, Any]]]:
        """Yields each mutant with its result, in the order in which they end."""
        waiting, running = list(reversed(mutants)), {}
        try:
            while waiting or running:
                for i in range(len(self.trees)):
                    if i not in running and waiting:
                        running[i] = self._start(i, *waiting.pop())
                    elif i in running and (result := running[i][1].finished()) is not None:
                        mutant, _, tests, spent, by = running.pop(i)
                        self._restore(i, mutant)
                        yield mutant, self._verdict(i, result, tests, spent) | {"tests": len(tests), "by": by}
                time.sleep(0.02)
        finally:
            for _, child, *_ in running.values():
                child.kill()

    def _start(self, i: int, mutant: Mutant, place: Place) -> tuple[Any, ...]:
        tests, spent, by = tests_for(mutant, place, self.map, self.settings["budget"])
        path = self.trees[i] / PACKAGE / mutant.file
        self.sources.setdefault(mutant.file, path.read_text())
        path.write_text(place.apply(self.sources[mutant.file], mutant))
        return mutant, self._child(i, tests, spent), tests, spent, by

    def _child(self, i: int, tests: Sequence[str], spent: float) -> forked.Child:
        return forked.Child.start(forked.run_tests, tests, self.trees[i], self.folder / f"scratch_{i}", 45 + 3 * spent)

    def _restore(self, i: int, mutant: Mutant) -> None:
        (self.trees[i] / PACKAGE / mutant.file).write_text(self.sources[mutant.file])

    def _verdict(self, i: int, result: Mapping[str, Any], tests: Sequence[str], spent: float) -> dict[str, Any]:
        said = {"seconds": result["seconds"]}
        if not tests:
            return said | {"status": "survived", "killer": ""}
        if "timed_out" in result:
            unmutated = self._child(i, tests, spent).wait()
            worked = unmutated["processor_seconds"], result["processor_seconds"]
            quick = unmutated.get("code") == 0 and worked[0] < worked[1] / 3
            return said | {"status": "timed out" if quick else "survived", "killer": ""}
        if "died" in result:
            return said | {"status": "killed", "killer": f"the process ended with {result['died']}"}
        if result["code"] == 0:
            return said | {"status": "survived", "killer": ""}
        return said | {"status": "killed", "killer": result["failed"] or f"pytest ended with {result['code']}"}


# ---- results


class Results:
    """The file of results. It has all runs of each mutant; the first and the last run are in the table."""

    def __init__(self, out: str):
        self.json, self.md = Path(f"{out}.json"), Path(f"{out}.md")
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self._read()

    def _read(self) -> None:
        self.runs = json.loads(self.json.read_text()) if self.json.is_file() else {}

    def add(self, mutant: Mutant, run: Mapping[str, Any]) -> None:
        """Writes the file at once, and keeps what another command has written since."""
        self._read()
        self.runs.setdefault(mutant.identity, []).append({"file": mutant.file, **run})
        beside = self.json.with_suffix(".tmp")
        beside.write_text(json.dumps(dict(sorted(self.runs.items())), indent=0, ensure_ascii=False) + "\n")
        beside.replace(self.json)

    def status(self, identity: str, commit: str = "") -> str:
        """Returns killed, timed out or survived: the status of its last run, or of its last run at a commit. It returns
        an empty text if it has not run."""
        runs = [run for run in self.runs.get(identity, ()) if run["commit"].startswith(commit)]
        return runs[-1]["status"] if runs else ""

    def report(self, drawn: Collection[Mutant], judged: Mapping[str, str], before: str) -> str:
        """Returns the table of what was drawn at the commit ``before`` and of what is drawn now, and then the
        survivors."""
        named = {mutant.identity: mutant.file for mutant in drawn}
        files = {identity: named.get(identity, runs[-1]["file"]) for identity, runs in self.runs.items()} | named
        old = {identity: self.status(identity, before) for identity in self.runs}
        new = {m.identity: "survived" if m.identity in judged else self.status(m.identity) for m in drawn}
        counts = [_counts(statuses, files, judged) for statuses in (old, new)]
        rows = [
            [file, *_cells([of_file.get(file, Counter()) for of_file in counts])]
            for file in dict.fromkeys(file for of_file in counts for file in of_file)
        ]
        rows.append(["**all**", *_cells([sum(of_file.values(), Counter()) for of_file in counts])])
        head = ["module", *(f"{name} at {before}" for name in COLUMNS), *(f"{name} now" for name in COLUMNS)]
        left = [f"- {files[one]}: `{one}`" for one, status in new.items() if status == "survived" and one not in judged]
        same = [f"- {files[one]}: `{one}`: {why}" for one, why in judged.items() if one in new or old.get(one)]
        parts = [
            table(head, rows),
            "Left:",
            "\n".join(left or ["- none"]),
            "Equivalent:",
            "\n".join(same or ["- none"]),
        ]
        return "\n\n".join(parts) + "\n"


COLUMNS = ("mutants", "equivalent", "killed", "timed out", "survived", "die")
"""Columns of the table. The last one is the share of dead mutants among those that are not equivalent."""


def _counts(statuses: Mapping[str, str], files: Mapping[str, str], judged: Collection[str]) -> dict[str, Counter[str]]:
    """Counts for each module how many mutants ended in which way."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for identity, status in statuses.items():
        if status:
            counts[files[identity]]["equivalent" if identity in judged else status] += 1
    return counts


def _cells(counts: Sequence[Counter[str]]) -> list[str]:
    cells = []
    for of_file in counts:
        died, real = of_file["killed"] + of_file["timed out"], of_file.total() - of_file["equivalent"]
        cells += [
            str(of_file.total()),
            *(str(of_file[name]) for name in COLUMNS[1:-1]),
            f"{died / real:.1%}" if real else "-",
        ]
    return cells


def judgements() -> tuple[list[dict[str, str]], dict[str, str]]:
    """Returns the entries of ``named``, and the reasons of the equivalent mutants by their identity."""
    tree = yaml.safe_load(JUDGED.read_text())
    return tree["named"] or [], {entry["mutant"]: entry["why"] for entry in tree["equivalent"] or []}


def drawn_mutants(
    settings: Mapping[str, Any], by_hand: Sequence[Mapping[str, str]], known: Collection[str]
) -> dict[Mutant, Place]:
    """Returns this tree's mutants and their places: the named ones, those with results, and those that are drawn."""
    places: dict[Mutant, Place] = {}
    for entry in by_hand:
        try:
            mutant, place = named(entry, (ROOT / PACKAGE / entry["file"]).read_text())
        except (LookupError, OSError) as error:
            print(f"a named mutant has no place any more: {error}")
        else:
            places[mutant] = place
    sources = {file: (ROOT / PACKAGE / file).read_text() for file in HOMES}
    places |= draw(sources, settings["number"], settings["seed"], known)
    modules = settings["modules"].split(",") if settings["modules"] else []
    return {mutant: place for mutant, place in places.items() if not modules or mutant.file in modules}


def main(words: list[str]) -> int:
    """Runs what has not run, and writes the table. The status is 1 if less than 95 % of the mutants that count die."""
    settings, rest = split_words(words, SETTINGS)
    wrong = settings["only"] not in ("", "survivors", "all") or settings["tests"] not in ("homes", "all")
    if rest or wrong or not set(filter(None, settings["modules"].split(","))) <= HOMES.keys() | BESIDE.keys():
        raise SystemExit(f"settings are {', '.join(SETTINGS)}; only=survivors or all; modules are {', '.join(HOMES)}")
    by_hand, judged = judgements()
    results = Results(settings["out"])
    places = drawn_mutants(settings, by_hand, results.runs.keys())
    if settings["list"]:
        print("\n".join(f"{mutant.file}:{place.number}: {mutant.identity}" for mutant, place in places.items()))
        return 0
    again = {"": (), "survivors": ("survived",), "all": ("survived", "killed", "timed out")}[settings["only"]]
    wanted = [
        (m, p) for m, p in places.items() if m.identity not in judged and results.status(m.identity) in ("", *again)
    ]
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if wanted:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        forked.preload()
        modules = dict.fromkeys(mutant.file for mutant, _ in wanted)
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder, contextlib.suppress(KeyboardInterrupt):
            for mutant, run in Work(Path(folder), settings, modules).verdicts(wanted):
                results.add(mutant, run | {"commit": commit.stdout.strip()})
                print(
                    f"{run['status']:9} {run['seconds']:6.1f} s  {mutant.file}: {mutant.identity}  {run['killer']}",
                    flush=True,
                )
    text = results.report(
        drawn_mutants(settings | {"modules": ""}, by_hand, results.runs.keys()), judged, settings["before"]
    )
    results.md.write_text(text)
    print("\n" + text)
    ends = [results.status(m.identity) for m in places if m.identity not in judged]
    return int(ends.count("survived") > 0.05 * len(ends))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main(sys.argv[1:]))
