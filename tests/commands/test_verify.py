"""``verify`` finds what is wrong with a claim: seeded defects of studies and of comparisons, and none of sound ones."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_compare import translation
from trial import ROOT

from multihead.cli import main
from multihead.comparing.claim import compared_again
from multihead.studying.ablation import ablation
from multihead.studying.ladder import climb
from multihead.studying.schedule import progress
from multihead.studying.verify_study import _unfinished, other_answers
from multihead.sweeping import runner

STAND_IN = str(ROOT / "tests" / "studying" / "stand_in.py")
STUDY = """\
question: Is RMSNorm better than LayerNorm?
words: [model=tiny, trainer.max_steps=20]
baseline: {layer: [model.norm=layer_norm]}
variants: {rms: [model.norm=rms_norm]}
tasks: {translation: [task=translation]}
seeds: [1, 2, 3]
"""


def checks(capsys, *words, status):
    """The findings by check."""
    capsys.readouterr()
    assert main(["verify", *words, "format=json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["holds"] == (status == 0)
    return {each["check"]: each["text"] for each in found["checks"] if each["ok"] == (status == 0)}


def edit(file, change):
    content = json.loads(Path(file).read_text())
    change(content)
    Path(file).write_text(json.dumps(content))


@pytest.mark.unhurried
def test_a_study_holds_until_something_is_changed(tmp_path, monkeypatch, capsys):
    from test_study import Counts

    from multihead.studying import launch
    from multihead.studying import runner as study_runner

    monkeypatch.chdir(tmp_path)
    program = ["python", STAND_IN, "gain=20", "noise=0.5"]
    for module in (runner, study_runner):
        monkeypatch.setattr(module, "PROGRAM", program)
    monkeypatch.setattr(launch, "Counter", Counts)
    known = {"seconds": 60.0, "seconds/training": 50.0, "steps": 20}
    monkeypatch.setattr(launch, "forecast", lambda composition: known)
    monkeypatch.setattr(launch, "import_all", lambda: 0.0)
    Path("s.yaml").write_text(STUDY)
    assert main(["study", "file=s.yaml"]) == 0
    group, folder = "group=outputs/studies/s", Path("outputs/studies/s")
    found = checks(capsys, group, status=0)
    assert found["equal configurations"] == "6 runs of 2 systems; the runs of each differ in the seed only"
    assert found["all runs shown"] == "6 runs were started, and all are shown (0 not complete)"
    assert found["the claim holds"] == "1 verdict computed again from 6 runs: the same"
    assert found["one run again"].endswith("all 2 metrics are the same to the last digit")
    runner.PROGRAM[-1] = "noise=0.6"  # something else gives other numbers
    found = checks(capsys, group, status=2)
    assert list(found) == ["one run again"] and "val/bleu is " in found["one run again"]
    report, first = folder / "report.json", folder / "runs/translation/rms/seed_1"
    whole = report.read_text()
    edit(report, lambda claim: claim["verdicts"][0].update(verdict="worse"))
    found = checks(capsys, group, "rerun=false", status=2)
    assert found == {"the claim holds": "translation rms: the report says worse, and the runs better"}
    report.write_text(whole)
    edit(report, lambda claim: claim["verdicts"][0].update(low=0.0))
    found = checks(capsys, group, "rerun=false", status=2)
    assert found == {"the claim holds": "translation rms: the difference or its interval is another one"}
    report.write_text(whole)
    edit(report, lambda claim: claim["verdicts"][0].update(detectable=0.01))
    found = checks(capsys, group, "rerun=false", status=2)
    assert found == {"the claim holds": "translation rms: the detectable difference is another one"}
    report.write_text(whole)
    edit(report, lambda claim: claim.update(power=0.5, ended=1))  # with a power of 0.5, less would be detectable
    found = checks(capsys, group, "rerun=false", status=2)
    assert found == {"the claim holds": "the report says power: 0.5, and the study file 0.8"}
    report.write_text(whole)
    edit(report, lambda claim: claim["overall"][0].update(verdict="worse"))
    found = checks(capsys, group, "rerun=false", status=2)
    assert found == {"the claim holds": "rms over all tasks is better, not worse"}
    report.write_text(whole)
    edit(report, lambda claim: claim["runs"].pop(0))
    found = checks(capsys, group, "rerun=false", status=2)
    assert found == {"all runs shown": "not in the report: translation layer 1"}
    report.unlink()  # as if the study had been killed before its end
    found = checks(capsys, "group=outputs/studies/s/runs", status=2)
    assert list(found) == ["the study has ended"] and "the report has no answer yet" in found["the study has ended"]
    report.write_text(whole)
    edit(first / "result.json", lambda result: result.update({"val/bleu": 90.0}))
    assert "has 90, and the ledger " in checks(capsys, group, "rerun=false", status=2)["the claim holds"]
    (first / "result.json").unlink()
    assert "no result in their directories" in checks(capsys, group, "rerun=false", status=2)["the claim holds"]
    config = folder / "runs/translation/rms/seed_2/config.yaml"
    config.write_text(config.read_text() + "model: {d_model: 7}\n")
    found = checks(capsys, group, "rerun=false", status=2)["equal configurations"]
    assert "rms/seed_2" in found and "differ in model.d_model" in found
    edit(folder / "runs/translation/rms/seed_3/environment.json", lambda e: e.update(git_commit="other"))
    assert "the runs differ in git_commit" in checks(capsys, group, "rerun=false", status=2)["equal data and code"]


def test_the_answers_of_ablations_and_ladders_are_computed_again(monkeypatch):
    """The claims are those that the reports would have; then one number of each is changed."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "studying"))
    import test_ablation
    import test_ladder

    plan = test_ablation.plan()
    results = test_ablation.results(plan, 1.0)
    claim = {"ablation": [asdict(each) for each in ablation(plan, results)]}
    assert other_answers(plan, SimpleNamespace(facts={}), results, {}, claim, True) == []
    claim["ablation"][1]["left_out"]["low"] += 0.01
    assert len(other_answers(plan, SimpleNamespace(facts={}), results, {}, claim, True)) == 1
    claim["ablation"] = [asdict(each) for each in ablation(plan, results)]
    claim["ablation"][0]["flagged"] = True
    assert other_answers(plan, SimpleNamespace(facts={}), results, {}, claim, True) == [
        f"the effect of {claim['ablation'][0]['name']} on all tasks is another one"
    ]
    plan, results, facts = test_ladder.study()
    (own,), _ = climb(plan, results, facts, {}, True)
    claim = {"ladder": [asdict(own)]}
    assert other_answers(plan, SimpleNamespace(facts=facts), results, {}, claim, True) == []
    claim["ladder"][0]["factor"] += 0.01
    assert other_answers(plan, SimpleNamespace(facts=facts), results, {}, claim, True) == [
        "lm: new is worth another factor"
    ]
    facts["ladder"]["compute"] = "minutes"  # they are those of the runs, whatever the claim says of them
    runs = {key: SimpleNamespace(result={"seconds": 60.0 * 3.0 ** int(key.task[-1])}) for key in results}
    minutes = {key[:2]: 3.0 ** int(key.task[-1]) for key in results}
    (own,), _ = climb(plan, results, facts, minutes, True)
    claim = {"ladder": [asdict(own)], "systems": []}
    assert other_answers(plan, SimpleNamespace(facts=facts), results, runs, claim, True) == []


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        translation(tmp_path / f"runs/narrow_{seed}", 0.30, "model.d_model=64", seed=seed)
        translation(tmp_path / f"runs/wide_{seed}", 0.10, "model.d_model=96", seed=seed, noise=1, parameters=1009)
    assert main(["compare", "group=runs", "out=claim.json"]) == 0
    return tmp_path


def test_a_comparison_holds_until_something_is_changed(runs, capsys):
    words = ("group=runs", "claim=claim.json", "rerun=false")
    found = checks(capsys, *words, status=0)
    assert found["all runs shown"] == "4 runs, all finished, with the same seeds in each system"
    assert found["the claim holds"] == "1 verdict of claim.json computed again: the same"
    whole = (runs / "claim.json").read_text()
    edit("claim.json", lambda claim: claim["pairs"][0].update(verdict="better"))
    found = checks(capsys, *words, status=2)["the claim holds"]
    assert "model.d_model=64 beside model.d_model=96 is " in found and found.endswith("not better")
    (runs / "claim.json").write_text(whole)
    translation(runs / "runs/wide_3", 0.9, "model.d_model=96", seed=3)
    assert checks(capsys, *words, status=2)["all runs shown"] == "started, but not shown: runs/wide_3"
    assert "have different seeds" in checks(capsys, "group=runs", "rerun=false", status=2)["all runs shown"]
    (runs / "runs/wide_3/result.json").unlink()
    found = checks(capsys, "group=runs", "rerun=false", status=2)["all runs shown"]
    assert found == "started, but not shown: runs/wide_3 (the run is not finished)"
    edit("runs/wide_1/environment.json", lambda e: e["data"].update(data_train="t2"))
    found = checks(capsys, "group=runs", "rerun=false", status=2)["equal data and code"]
    assert found == "translation: the runs differ in the train data"


@pytest.mark.unhurried
@pytest.mark.parametrize("word", ["metric=test/loss", "smallest=0.001", "baseline=model.d_model=64"])
def test_a_comparison_is_computed_again_with_its_own_words(runs, capsys, word):
    """Three systems: with another metric, limit or baseline, some verdicts would be others."""
    for seed in (1, 2):
        for width, share in ((64, 0.30), (96, 0.10), (80, 0.27)):
            loss = share + 0.01 * seed
            translation(runs / f"three/{width}_{seed}", loss, f"model.d_model={width}", seed=seed, noise=width)
    assert main(["compare", "group=three", "out=claim.json", word]) == 0
    claim = json.loads(Path("claim.json").read_text())
    again, count = compared_again({"translation": claim}).reports["translation"], 2 if "baseline" in word else 3
    assert (again.metric, len(again.pairs)) == (claim["metric"], count)
    assert "smallest" not in word or "underpowered" in {pair.verdict for pair in again.pairs}
    found = checks(capsys, "group=three", "claim=claim.json", "rerun=false", status=0)
    assert found["the claim holds"] == f"{count} verdicts of claim.json computed again: the same"


@pytest.mark.parametrize("baseline", ["model.d_model=64", "model.d_model=96"])
def test_two_systems_on_two_data_sets_with_a_baseline_are_the_same_again(runs, capsys, baseline):
    for seed in (1, 2):
        for width, share in ((64, 0.30), (96, 0.10)):
            words = (f"model.d_model={width}", "data=multi30k")
            data = {f"data_{split}": f"other {split}" for split in ("train", "val", "test")}
            translation(runs / f"runs/multi/{width}_{seed}", share, *words, seed=seed, noise=width, data=data)
    assert main(["compare", "group=runs", f"baseline={baseline}", "out=claim.json"]) == 0
    found = checks(capsys, "group=runs", "claim=claim.json", "rerun=false", status=0)
    assert found["the claim holds"] == "2 verdicts of claim.json computed again: the same"


@pytest.mark.unhurried
def test_tasks_may_have_other_seeds_and_their_answer_is_checked(runs, capsys):
    """Two data sets of one task, the second with more seeds than the first."""
    for seed in (1, 2, 3):
        for width, share in ((64, 0.30), (96, 0.10)):
            words = (f"model.d_model={width}", "data=multi30k")
            data = {f"data_{split}": f"other {split}" for split in ("train", "val", "test")}
            translation(runs / f"runs/multi/{width}_{seed}", share, *words, seed=seed, noise=width, data=data)
    assert main(["compare", "group=runs", "out=claim.json"]) == 0
    words = ("group=runs", "claim=claim.json", "rerun=false")
    assert checks(capsys, *words, status=0)["the claim holds"].startswith("2 verdicts")
    edit("claim.json", lambda claim: claim["overall"][0].update(verdict="undecided"))
    found = checks(capsys, *words, status=2)["the claim holds"]
    assert found == "model.d_model=64 over all tasks is worse, not undecided"


def test_what_is_shown_and_what_there_is_not(runs, capsys):
    assert main(["verify", "group=runs", "rerun=false"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("ok equal configurations: 4 runs of 2 systems") and out.endswith(
        "verified: 3 checks, no finding"
    )
    assert main(["verify", "group=nowhere"]) == 2
    assert "group: nowhere holds no finished run" in capsys.readouterr().err
    assert main(["verify"]) == 2 and "group: is missing" in capsys.readouterr().err


def test_a_study_that_goes_on_is_named_as_such(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "studying"))
    import test_ablation

    plan = test_ablation.plan()
    ledger = SimpleNamespace(costs=None)
    found = _unfinished(plan, ledger, [], {"ended": True})
    key = progress(plan, {}, None).missing[0]
    assert f"not finished ({key.task} {key.arm} seed {plan.seeds[0]}; " in found.text
    assert found.text.endswith("the same multihead study command goes on")
