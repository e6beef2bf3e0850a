"""Runs with the plugins of docs/examples/plugins: losses of parts, resume, sweeps, predictions, exports, the doctor."""

import os
import shlex
import signal
from types import SimpleNamespace

import pytest
import tagging
import torch
from test_example_plugins import FOLDER, SIZE, blocks, file_of
from torch import nn
from trial import struck, train, weights

import multihead
from multihead.cli import main
from multihead.config.model import ModelConfig
from multihead.config.training import Config
from multihead.model.losses import add_loss, added_losses
from multihead.model.transformer import Transformer
from multihead.tasks.lightning_module import TaskModule

CHOSEN = {
    "kerple": "model.position=kerple",
    "sliding_window": "model.attention=sliding_window options.sliding_window.window=2",
    "differential": "model.attention=differential",
    "gated": "model.attention=gated",
    "values": "model.attention=values model.stack=values",
    "experts": "model.feed_forward=experts",
    "dyt": "model.norm=dyt",
    "soft_cap": "task.head=soft_cap",
    "lion": "optim.name=lion",
    "cooldown": "optim.schedule=one_minus_sqrt",
    "r_drop": "task.loss=r_drop",
    "simcut": "task.loss=simcut",
    "spacing": "task=spacing tokenizer.kind=char",
    "tagging": "task=tagging",
}
"""Each plugin with the words that choose what it adds."""
TOGETHER = ("kerple", "values", "experts", "dyt", "soft_cap", "lion", "cooldown", "r_drop")
"""Plugins of one run: each kind of block, a head, a loss, an optimizer and a schedule."""
NOT_EXPORTED = dict.fromkeys(("tagging", "spacing"), "because an export is compared with its run")
"""Plugins whose runs cannot be exported, and why."""


def words_of(*names):
    """The words of a command that uses these plugins."""
    files = os.pathsep.join(str(file_of(name)) for name in names)
    return [f"plugin={files}", *(word for name in names for word in CHOSEN[name].split())]


# ---- a loss of a part


class Step(nn.Module):
    """A task with one number, whose part adds another loss."""

    config, settings = Config(), SimpleNamespace(name="lm", loss="default")

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def members(self):
        return {"lm": self}

    def training_step(self, batch, batch_idx):
        add_loss(self.weight)
        add_loss(self.weight.square())
        return {"loss": 10 * self.weight, "sum": (20 * self.weight).detach()}


def test_a_step_trains_on_the_losses_of_parts_too_and_records_the_tasks_alone():
    step = Step()
    outputs = TaskModule(step).training_step({}, 0)
    assert outputs["loss"].item() == 30 + 3 + 9 and outputs["sum"].item() == 60
    outputs["loss"].backward()
    assert float(step.weight.grad) == 10 + 1 + 6


@pytest.mark.parametrize("shared", [False, True])
def test_layers_that_are_recomputed_or_shared_add_each_loss_once(shared):
    def gradients(recompute):
        torch.manual_seed(0)
        config = ModelConfig(**SIZE, share_layers=shared, dropout=0.0)
        new = blocks("experts", balance=1.0)
        model = Transformer(config, source_vocab_size=None, target_vocab_size=10, blocks=new).train()
        if recompute:
            model.recompute_layers()
        with added_losses() as added:
            model.decode(torch.arange(8)[None])
        assert len(added) == config.num_decoder_layers
        torch.stack(added).sum().backward()
        assert len(added) == config.num_decoder_layers
        return [parameter.grad for name, parameter in model.named_parameters() if "router" in name]

    plain, again = gradients(False), gradients(True)
    assert len(plain) == (1 if shared else 2) and all(grad.abs().sum() > 0 for grad in plain)
    for ours, theirs in zip(again, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


# ---- whole runs


@pytest.mark.unhurried
def test_many_plugins_at_once_resume_with_the_same_bits_and_predict(tmp_path):
    words = ["task=lm", "trainer.max_steps=6", "trainer.val_every_n_steps=6", "trainer.checkpoint_every_n_steps=3"]
    words += words_of(*TOGETHER)
    train(tmp_path / "whole", *words)
    killed = tmp_path / "killed"
    assert struck(signal.SIGKILL, 4, "debug=smoke", *words, f"run_dir={killed}")[0] == -signal.SIGKILL
    multihead.train([f"resume={killed}", words_of(*TOGETHER)[0]])
    ours, theirs = weights(killed), weights(tmp_path / "whole")
    assert any("experts.3" in name for name in theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    run = multihead.load(killed, words_of(*TOGETHER)[0])
    assert type(run.model.head).__name__ == "SoftCap"
    assert len(run.generate(["The dog"], max_new_tokens=4)) == 1


def trained(name, folder):
    """A run of three steps with the plugin."""
    data = [word for word in tagging.write_data(folder) if not word.startswith(("plugin=", "task="))]
    own = words_of(name) + (data if name == "tagging" else [])
    task = [] if any(word.startswith("task=") for word in own) else ["task=lm"]
    every = [f"trainer.{key}=3" for key in ("max_steps", "val_every_n_steps", "checkpoint_every_n_steps")]
    multihead.train(["debug=smoke", *task, *own, *every, f"run_dir={folder / 'run'}"])
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_each_trains_predicts_and_exports_or_says_why_not(name, tmp_path, capsys):
    run, plugin = trained(name, tmp_path), words_of(name)[0]
    texts = ["thedogsleeps"] if name == "spacing" else ["the dog sees"]
    answers, *blank = multihead.load(run, plugin).predict([*texts, "", " \t"], max_new_tokens=4)
    assert isinstance(answers[0]["text"], str)
    assert name not in NOT_EXPORTED or [found[0]["text"] for found in blank] == ["", ""]
    capsys.readouterr()
    status = main(["export", f"run={run}", "to=torch_export", "sentences=3", plugin])
    error = capsys.readouterr().err
    if name in NOT_EXPORTED:
        assert status == 2 and NOT_EXPORTED[name] in error and error.count("\n") == 1
    else:
        assert status == 0, error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tagging", "spacing"])
def test_the_tasks_learn_and_resume_with_the_same_bits(name, tmp_path):
    data = [word for word in tagging.write_data(tmp_path) if not word.startswith(("plugin=", "task="))]
    words = ["debug=smoke", *words_of(name), *(data if name == "tagging" else []), "trainer.max_steps=60"]
    words += ["trainer.val_every_n_steps=30", "trainer.checkpoint_every_n_steps=30", "optim.warmup_steps=5"]
    words += ["optim.lr=5e-3"] + (["model.ngram_buckets=1000"] if name == "spacing" else [])
    result = multihead.train([*words, f"run_dir={tmp_path / 'whole'}"])
    assert result["test/accuracy"] > {"tagging": 0.95, "spacing": 0.85}[name]  # single characters give 0.83
    killed = tmp_path / "killed"
    assert struck(signal.SIGKILL, 40, *words, f"run_dir={killed}")[0] == -signal.SIGKILL
    multihead.train([f"resume={killed}", words_of(name)[0]])
    ours, theirs = weights(killed), weights(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    if name == "tagging":
        run = multihead.load(killed, words_of(name)[0])
        assert [found[0]["text"] for found in run.predict(["the old dog", "a cat sees"])] == ["D A N", "D N V"]


@pytest.mark.unhurried
def test_the_command_for_tagging_reads_a_table_and_says_which_row_is_wrong(tmp_path, monkeypatch, capsys):
    command = file_of("tagging").read_text().partition("Tagging: ")[2].partition("\n\n")[0]
    words = shlex.split(command.replace("\\\n", ""))[1:]
    tagging.write_data(tmp_path)
    rows = (tmp_path / "train.tsv").read_text()
    (tmp_path / "tagged.tsv").write_text("words\ttags\n" + rows)
    words = [f"plugin={file_of('tagging')}" if word.startswith("plugin=") else word for word in words]
    words += ["debug=smoke", "trainer.max_steps=1", "logger=none"]
    monkeypatch.chdir(tmp_path)
    assert main([*words, "run_dir=right"]) == 0 and (tmp_path / "right" / "result.json").is_file()
    (tmp_path / "tagged.tsv").write_text("words\ttags\n" + rows + "the dog sees\tD N\n")
    capsys.readouterr()
    assert main([*words, "run_dir=wrong"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error[data] data: a row has words=3, tags=2: the dog sees; fix: give each word one tag; ")
    assert not (tmp_path / "wrong" / "result.json").exists()


@pytest.mark.slow
def test_a_sweep_chooses_among_a_plugins_parts_and_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(
        "program: train.py\nmethod: grid\nmetric: {name: val/loss, goal: minimize}\nparameters:\n"
        "  task: {value: lm}\n  debug: {value: smoke}\n  trainer.max_steps: {value: 2}\n"
        "  model.position: {values: [kerple, alibi]}\n  options.dyt.alpha: {values: [0.5, 1.0]}\n"
        'command: ["python", "${program}", "${args_no_hyphens}"]\n'
    )
    plugins = [word for word in words_of("kerple", "dyt") if not word.startswith("model.position")]
    assert main(["sweep", "file=s.yaml", "workers=1", *plugins]) == 0
    assert "4 complete" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CHOSEN if name not in ("lion", "cooldown")])
def test_the_doctor_finds_nothing(name, tmp_path, capsys):
    data = [word for word in tagging.write_data(tmp_path) if not word.startswith(("plugin=", "task="))]
    status = main(["doctor", *words_of(name), *(data if name == "tagging" else []), "seconds=0"])
    assert status == 0, capsys.readouterr().out


def test_every_example_is_tried():
    assert {file_of(name) for name in CHOSEN} == {*FOLDER.glob("*.py"), FOLDER.parent / "gated_attention.py"}
