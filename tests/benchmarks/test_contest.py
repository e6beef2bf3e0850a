"""Contests: one contestant works at a time, answers for what it did, and is heard where it fails."""

import itertools
import json
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).parents[2] / "benchmarks" / "peers"
WORKER = f"""
import sys, time
sys.path.insert(0, {str(PEERS)!r})
from pace import Pace, settings
s, folder = settings()
print("chatter that is no answer")
pace = Pace(version="1", parameters=7)
pace.translate = lambda rows: [row[::-1] for row in rows]
pace.ready()
for _ in range(s.get("steps", 10**9)):
    time.sleep(0.01)
    (folder / "order.txt").open("a").write(s["name"])
    pace.step(s["units"])
pace.finish()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "settings.json").write_text(json.dumps({"shared": 1}))
    (tmp_path / "worker.py").write_text(WORKER)
    return tmp_path


def test_each_contestant_works_in_its_turn_and_is_counted(folder: Path) -> None:
    from contest import Contestant, contest

    who = [
        Contestant(name, str(folder / "worker.py"), "own", {"units": units}) for name, units in (("a", 10), ("b", 30))
    ]
    results = contest(who, folder, rounds=2, seconds=0.05, warm_up=0.02)
    assert list(results) == ["a", "b"] and results["a"]["parameters"] == 7
    assert [len(result["speeds"]) for result in results.values()] == [2, 2]
    assert results["a"]["speeds"][0] <= 10 / 0.01  # a step takes 10 ms at least
    assert results["a"]["last"]["units"] % 10 == 0 and results["a"]["last"]["seconds"] >= 0.05
    turns = (folder / "order.txt").read_text()
    changes = sum(first != second for first, second in itertools.pairwise(turns))
    assert changes == 5  # warm-up and two rounds: a b a b a b


def test_a_contestant_translates_between_two_rounds_of_work(folder: Path) -> None:
    from contest import Contestant, Process

    (folder / "sources.json").write_text("[[1, 2, 3], [4]]")
    process = Process(Contestant("a", str(folder / "worker.py"), "own", {"units": 1}), folder)
    try:
        first = process.work(0.05)
        assert process.ask({"translate": str(folder / "sources.json")}) == {"outputs": [[3, 2, 1], [4]]}
        second = process.work(0.05)
    finally:
        process.end()
    for answer in (first, second):  # the pause is nobody's time, and a worker that sleeps takes no processor time
        assert answer["units"] <= answer["seconds"] / 0.01 and answer["processor_seconds"] < answer["seconds"]


def test_a_contestant_at_its_end_says_so_and_still_translates(folder: Path) -> None:
    from contest import Contestant, Process

    (folder / "sources.json").write_text("[[1, 2, 3], [4]]")
    process = Process(Contestant("a", str(folder / "worker.py"), "own", {"units": 2, "steps": 5}), folder)
    try:
        assert "done" not in process.work(0.0)
        last = process.work(60)
        assert last["done"] and last["units"] == 8 and last["seconds"] < 60
        assert process.ask({"translate": str(folder / "sources.json")}) == {"outputs": [[3, 2, 1], [4]]}
        assert process.work(60)["units"] == 0
    finally:
        process.end()


def test_the_ratio_is_of_the_first_to_the_others() -> None:
    from contest import table

    results = {
        "ours": {"median": 300.0, "speeds": [290.0, 300.0, 310.0], "version": "1"},
        "theirs": {"median": 100.0, "speeds": [90.0, 100.0, 110.0], "parameters": 1234},
    }
    text = table("work", "tokens", results)
    assert "| ours | 300 | 290 to 310 | 1.00 | 1 |" in text
    assert "| theirs | 100 | 90 to 110 | 3.00 | 1,234 parameters |" in text


def test_a_contestant_that_fails_is_named_with_what_it_said(folder: Path) -> None:
    from contest import Contestant, contest

    (folder / "worker.py").write_text("raise RuntimeError('no such model')")
    with pytest.raises(SystemExit, match=r"(?s)broken ended: .*no such model"):
        contest([Contestant("broken", str(folder / "worker.py"), "own")], folder, 1, 0.1, 0.1)


def test_the_own_environment_is_the_one_that_runs() -> None:
    from contest import python_of

    assert python_of("own") == sys.executable
