"""``multihead doctor``: what it checks without a choice, its table, its JSON and its exit status."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import tagging

from multihead.checking import numerics
from multihead.checking.outcome import found, note, ok, skipped
from multihead.checking.report import is_healthy, verdict
from multihead.cli import main
from multihead.commands.doctor import _wrapped, composed
from multihead.config.model import ModelConfig
from multihead.config.verbs import DOCTOR_CHECKS
from multihead.errors import ConfigError

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "linear_attention.py"
DEFECTS = ROOT / "tests" / "checking" / "defects.py"
SIZES = ["model.d_model=16", "model.num_heads=2", "model.d_ff=32", "model.max_len=64", "tokenizer.vocab_size=300"]


def test_a_task_and_the_only_part_of_a_plugin_are_chosen():
    composition, added = composed([f"plugin={EXAMPLE}"])
    assert added == ["task=translation", "model.attention=linear"]
    assert composition.config.model.attention == "linear"
    assert composed([f"plugin={EXAMPLE}", "task=lm", "model.attention=linear"])[1] == []
    with pytest.raises(ConfigError, match=r"model\.attention: the plugin adds plain, leaks_everything, .*: which one"):
        composed([f"plugin={DEFECTS}"])


PLUGINS = EXAMPLE.parent / "plugins"


def test_a_loss_and_a_head_are_chosen_for_the_default_task_too():
    composition, added = composed([f"plugin={PLUGINS / 'simcut.py'}"])
    assert added == ["task=translation", "task.loss=simcut"] and composition.config.task.loss == "simcut"
    assert composed([f"plugin={PLUGINS / 'soft_cap.py'}"])[1] == ["task=translation", "task.head=soft_cap"]
    several = [f"plugin={PLUGINS / 'simcut.py'}", "task=multitask", "task.translation.loss=simcut"]
    assert composed(several)[1] == []  # the choice of one of several tasks counts


def test_a_plugin_of_which_nothing_would_be_checked_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"plugin: nothing of simcut\.py would be .*; fix: add task\.loss=simcut$"):
        composed([f"plugin={PLUGINS / 'simcut.py'}", "task.loss=default"])
    (tmp_path / "mine.py").write_text("from multihead.plugin import Plugin\nPLUGIN = Plugin(reports={'a': print})\n")
    with pytest.raises(ConfigError, match=r"nothing of mine\.py would be checked; fix: leave it out"):
        composed([f"plugin={tmp_path / 'mine.py'}"])


@pytest.mark.unhurried
def test_a_loss_that_draws_skips_a_check_which_the_verdict_counts(capsys):
    plugin, checks = f"plugin={PLUGINS / 'simcut.py'}", "checks=[micro_batches]"
    assert main(["doctor", plugin, checks, *SIZES]) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert "task.loss=simcut" in out and "turn its noise off by its option" in out and "options.simcut.cut=0" in out
    assert out.endswith("nothing was checked: 1 skipped")
    assert main(["doctor", plugin, checks, "format=json", *SIZES]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is None and report["verdict"] == "nothing was checked: 1 skipped"
    assert "turn its noise off by its option" in report["checks"][0]["text"]
    assert main(["doctor", plugin, checks, "options.simcut.cut=0", *SIZES]) == 0
    assert re.search(r"healthy: 1 check in \d+ s, no finding$", capsys.readouterr().out.strip())


def test_the_verdict_counts_what_was_skipped():
    assert verdict([ok("a"), skipped("b"), skipped("c")]) == "healthy: 1 check in 0 s, no finding, 2 skipped"
    assert verdict([found("a"), skipped("b")]) == "1 finding: 1 check in 0 s, 1 skipped"
    assert verdict([skipped("a"), skipped("b")]) == "nothing was checked: 2 skipped"


def test_without_any_check_nothing_is_known():
    assert is_healthy([skipped("a"), skipped("b")]) is None
    assert is_healthy([skipped("a"), ok("b"), note("c")]) is True
    assert is_healthy([skipped("a"), ok("b"), found("c")]) is False


def test_a_number_stands_beside_the_baselines(monkeypatch):
    subject = SimpleNamespace(config=SimpleNamespace(model=ModelConfig()), plain=None)
    sizes = iter([numerics.Scales({"a.layers.0": 1.0, "a.layers.1": growth}, {}, {}) for growth in (1.5, 2.0)])
    monkeypatch.setattr(numerics, "_scales", lambda subject: next(sizes))
    text = numerics.scales(subject, subject).text
    assert text == "hidden states grow 1.5 times over the depth (baseline 2)"
    slopes = iter([-0.01, 0.1])
    monkeypatch.setattr(numerics, "_change", lambda subject, config: 1.0)
    monkeypatch.setattr(numerics, "_slope", lambda configs, changes: next(slopes))
    assert numerics.widths(subject, subject).text == "a step changes hidden states by width^0.0 (baseline 0.1)"


@pytest.mark.unhurried
def test_the_cost_of_a_plugin(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", f"plugin={EXAMPLE}", "format=json", "checks=[outputs,documents,cost]", *SIZES]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] is True and re.fullmatch(r"healthy: 2 checks in \d+ s, .*, 1 skipped", found["verdict"])
    assert found["changed"] == {"model.attention": "linear"} and found["task"] == "translation"
    assert [check["status"] for check in found["checks"]] == ["ok", "skipped", "ok"]
    assert any("Parameters: " in line and "(+0.0%)" in line for line in found["checks"][2]["details"])
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@pytest.mark.slow
def test_all_checks_of_a_healthy_plugin(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", f"plugin={EXAMPLE}", "format=json", "seconds=0", *SIZES]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"] and found["changed"] == {"model.attention": "linear"} and found["task"] == "translation"
    assert tuple(check["name"] for check in found["checks"]) == DOCTOR_CHECKS
    of = {check["name"]: check for check in found["checks"]}
    assert of["documents"]["status"] == "skipped"
    assert all(check["status"] in ("ok", "note", "skipped") for check in found["checks"])
    assert of["export"]["text"].startswith("torch_export") and "plugin's" in of["export"]["details"][0]
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


def test_a_finding_is_shown_and_is_the_exit_status(capsys):
    words = [f"plugin={DEFECTS}", "model.attention=off_by_one", "checks=[causality,cache]", *SIZES]
    assert main(["doctor", *words]) == 2
    out = capsys.readouterr().out
    head, _, rest = out.partition("\n\n")
    assert head.splitlines() == ["task=translation, model.attention=off_by_one; 2 + 2 layers of width 16",
                                 "on built-in data"]  # fmt: skip
    table = rest.partition("\n\n")[0].splitlines()
    assert all(len(line) <= 80 for line in table) and table[1].split()[:2] == ["causality", "finding"]
    assert "input:    1 text of 2 tokens; token 2 is another one" in rest
    assert "decoder.layers.0.self_attention (OffByOne, " in rest and "defects.py:" in rest


@pytest.mark.unhurried
def test_an_attention_that_ignores_which_rows_look_both_ways_is_found(capsys):
    words = ["task=lm", "task.objective=both", "checks=[causality]", *SIZES]
    assert main(["doctor", *words]) == 0
    assert main(["doctor", f"plugin={EXAMPLE}", "model.attention=linear", *words]) == 2
    assert "a masked row of 2 tokens in a batch with causal and masked rows" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_plugin_with_a_task_alone_needs_the_task_and_is_named(tmp_path, capsys):
    _, _, *data = tagging.write_data(tmp_path)
    plugin = f"plugin={EXAMPLE.parent / 'plugins' / 'tagging.py'}"
    assert main(["doctor", plugin]) == 2
    assert capsys.readouterr().err == (
        "error[config] task: tagging.py adds the task tagging; fix: add task=tagging data=...\n"
    )
    assert main(["doctor", plugin, "task=tagging", *data, "checks=[outputs]", *SIZES]) == 0
    out = capsys.readouterr().out
    assert re.match(r"task=tagging of tagging\.py; \d \+ \d layers of width 16\non data=files", out)
    assert re.search(r"healthy: 1 check in \d+ s, no finding", out)


@pytest.mark.unhurried
def test_what_is_said_about_formats(capsys):
    plugin = f"plugin={EXAMPLE.parent / 'plugins' / 'dyt.py'}"
    assert main(["doctor", plugin, "task=lm", "checks=[causality,export]", *SIZES]) == 0
    out = capsys.readouterr().out
    assert "no token sees a later one" in out and "torch_export holds it; onnx was not tried" in out
    assert "huggingface: no published family has model.norm=dyt.\n" in out


def test_without_a_plugin_our_own_model_is_checked(capsys):
    assert main(["doctor", "task=lm", "checks=[causality]", *SIZES]) == 0
    assert "no part of a plugin" in capsys.readouterr().out


@pytest.mark.unhurried
def test_a_model_for_short_texts_is_checked_with_longer_ones(capsys):
    assert main(["doctor", "task=lm", *SIZES, "model.max_len=4", "checks=[causality,precision,batch]"]) == 0
    assert "model.max_len=32 instead of 4, for the lengths of the checks" in capsys.readouterr().out


@pytest.mark.unhurried
def test_adapters_and_a_frozen_backbone_raise_no_alarm(runs, tmp_path, capsys):
    run = runs.copy(tmp_path / "run", "task=classification")
    assert main(["doctor", "task=classification", *SIZES, f"init_from={run}", "lora.r=2", "checks=[order,widths]"]) == 0
    capsys.readouterr()
    words = ["task=classification", *SIZES, "optim.freeze=[transformer.*]", "checks=[causality,order,widths]"]
    assert main(["doctor", *words]) == 0
    assert "no step changes what is checked" in " ".join(capsys.readouterr().out.split())


@pytest.mark.unhurried
def test_large_models_lose_layers(capsys):
    assert main(["doctor", "task=classification", "model=base", "model.d_model=1024", "checks=[order]"]) == 0
    assert "model.num_encoder_layers=2 instead of 6" in capsys.readouterr().out


def test_words_that_are_not_valid(capsys):
    assert main(["doctor", "checks=[causal]"]) == 2
    assert "checks: must be one of outputs, evaluation, causality" in capsys.readouterr().err
    assert main(["doctor", "task=lm", "model.attentoin=x"]) == 2
    assert "did you mean model.attention" in capsys.readouterr().err


def test_a_long_line_of_a_finding_goes_on_below_its_text_and_cuts_no_path():
    path = "transformer.decoder.layers.0.self_attention"
    line = f"  look at:  {path} (OffByOne, {'folder/' * 20}defects.py:62), which is the first module that differs"
    first, *others = _wrapped(line, 80).split("\n")
    assert first.startswith("  look at:  ") and all(other.startswith(" " * 12) for other in others)
    assert " ".join([first, *others]).split() == line.split()
    assert _wrapped(line, 10_000) == line
