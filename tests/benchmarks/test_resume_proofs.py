"""The proofs of exact resume, tiny; and that they find what they look for."""

import json
import shutil

import pytest

from multihead.data.module import DataModule


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_every_checkpoint_goes_on_exactly(tmp_path):
    import resume_every_step

    words = ["tasks=classification", "variants=validation in mid-epoch", "steps=5", f"out={tmp_path / 'out.json'}"]
    assert resume_every_step.main(words) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["total"], found["identical"]) == (5, 5)
    assert found["rows"][0]["epoch_ends"] >= 1
    assert "| all |  | 5 |  | 5 |  |" in (tmp_path / "out.md").read_text()


def test_random_streams_that_are_not_put_back_are_seen(tmp_path, monkeypatch):
    import resume_every_step

    monkeypatch.setattr("multihead.training.streams.set_random_state", lambda state: None)
    found = resume_every_step.prove("classification", "accumulation", 3, tmp_path)
    assert found["identical"] == 1  # the last checkpoint has no step after it
    assert any("0x" in line for line in found["differences"]["step_1"])
    assert any(line.startswith("weights") for line in found["differences"]["step_1"])


def test_a_position_that_is_one_step_off_is_seen(tmp_path, monkeypatch):
    import resume_every_step

    right = DataModule.set_position
    monkeypatch.setattr(DataModule, "set_position", lambda self, epoch, step: right(self, epoch, max(0, step - 1)))
    found = resume_every_step.prove("classification", "plain", 3, tmp_path)
    assert found["differences"]["step_2"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["one", "ranks"])
def test_kills_at_random_moments(tmp_path, variant):
    import kill_and_resume

    words = ["tasks=classification", f"variants={variant}", "kills=3", "steps=30", f"out={tmp_path / 'out.json'}"]
    assert kill_and_resume.main(words) == 0
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert row["kills"] >= 2
    assert row["differences"] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_kills_within_a_save(tmp_path):
    import kills_in_a_save

    assert kills_in_a_save.main(["most=5", f"out={tmp_path / 'out.json'}"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["order"]
    assert sum(found["killed"].values()) >= 4


@pytest.mark.slow
def test_signals_to_ranks(tmp_path):
    import signals_to_ranks

    words = ["times=1", "cases=SIGTERM to rank 1;SIGKILL to rank 1", f"out={tmp_path / 'out.json'}"]
    assert signals_to_ranks.main(words) == 0
    assert "| SIGKILL to rank 1 | 1 of 1 | 6 |" in (tmp_path / "out.md").read_text()


def of_steps(ledger):
    """Place in the data to the examples of that step, over all parts and ranks."""
    import exactness

    steps = {}
    for (epoch, step, *_), rows in exactness.ledger_rows(ledger).items():
        (row,) = rows
        ids = json.loads(row[row.index("[") : row.index("]") + 1])
        steps.setdefault((epoch, step), []).extend(ids)
    return {place: sorted(ids) for place, ids in steps.items()}


@pytest.mark.slow
def test_two_ranks_to_one_and_back(tmp_path):
    """The same examples in each step, losses within 1e-5; and a number of micro-batches that cannot be is refused."""
    import exactness

    plugin = exactness.write_plugin(tmp_path)
    words = exactness.words_of("translation", plugin, "optim.schedule=constant", "trainer.val_every_n_steps=6")
    two = ["devices=2", "strategy=ddp"]
    run, ledger = tmp_path / "run", tmp_path / "ledger"
    for steps, ranks in ((6, two), (12, []), (18, two)):
        more = [f"trainer.max_steps={steps}", "resume=auto", f"run_dir={run}", *ranks]
        running = exactness.start([*words, *more], ledger)
        _, errors = running.communicate(timeout=180)
        assert running.returncode == 0, errors
    words += ["trainer.max_steps=18", f"run_dir={tmp_path / 'whole'}"]
    whole = exactness.start(words, tmp_path / "whole_ledger")
    whole.communicate(timeout=180)
    assert of_steps(ledger) == of_steps(tmp_path / "whole_ledger")
    ours, theirs = exactness.column(run, "train/loss"), exactness.column(tmp_path / "whole", "train/loss")
    assert [step for step, _ in ours] == [step for step, _ in theirs] == list(range(1, 19))
    assert [float(loss) for _, loss in ours] == pytest.approx([float(loss) for _, loss in theirs], rel=1e-5)
    words = [f"resume={run}", plugin, "devices=1", "data.part_tokens=64", "resume_force=[data.part_tokens]"]
    refused = exactness.start([*words, "trainer.accumulate_grad_batches=1", "trainer.max_steps=20"], ledger)
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == 2
    assert errors.startswith("error[config] trainer.accumulate_grad_batches: must be at least 4, which ")
