"""The recipes of fine-tuning, each from a small source: they lower the loss, and stop when it no longer falls."""

import published_folders
import pytest
from trial import rows

import multihead
from multihead.config.compose import compose

SHORT = ["trainer.max_steps=24", "trainer.val_every_n_steps=4", "optim.warmup_steps=2", "logger=none",
         "accelerator=cpu", "precision=32-true", "optim.lr=3e-3"]  # fmt: skip


def losses(run):
    return [float(value) for _, value in rows(run, "val/loss")]


@pytest.mark.parametrize("name", ["classification", "lm", "translation"])
def test_a_recipe_warms_up_and_has_rates_by_layer(name):
    config = compose([f"experiment=finetune_{name}"]).config
    optim, trainer = config.optim, config.trainer
    assert (config.task.name, optim.name, optim.schedule) == (name, "adamw", "wsd")
    assert 0 < optim.warmup_steps <= trainer.max_steps / 10 and optim.layer_decay == 0.9
    assert trainer.early_stopping_patience > 0 and trainer.val_every_n_steps * 5 == trainer.max_steps


@pytest.mark.parametrize("config", [published_folders.GPT2, published_folders.LLAMA], ids=["gpt2", "llama"])
def test_a_language_model_goes_on_with_other_text(config, tmp_path):
    folder = published_folders.write(tmp_path / "base", config, head="vocabulary")
    (tmp_path / "text.txt").write_text("the old dog sees a good man and it was fun\n" * 80)
    words = ["experiment=finetune_lm", f"data={tmp_path / 'text.txt'}", f"init_from=hf:{folder}", *SHORT]
    run = tmp_path / "run"
    result = multihead.train([*words, "data.batch_tokens=128", "data.part_tokens=128", f"run_dir={run}"])
    assert result["val/loss"] < losses(run)[0]


def test_a_translator_goes_on_with_other_pairs(tmp_path):
    small = ["debug=smoke", "accelerator=cpu", "data.grammar.val_size=40", "data.grammar.test_size=20"]
    first = multihead.train(["task=translation", *small, f"run_dir={tmp_path / 'first'}"])
    words = ["experiment=finetune_translation", "data=grammar", "data.grammar.seed=5", *small, *SHORT]
    run = tmp_path / "run"
    result = multihead.train([*words, "decoding.num_beams=1", f"init_from={first['run_dir']}", f"run_dir={run}"])
    assert result["val/loss"] < losses(run)[0]
    assert (run / "model" / "tokenizer.json").read_bytes() == (tmp_path / "first/model/tokenizer.json").read_bytes()


def test_a_recipe_stops_early(tmp_path):
    folder = published_folders.write(tmp_path / "base", published_folders.GPT2)
    (tmp_path / "text.txt").write_text("the old dog sees a good man and it was fun\n" * 40)
    words = ["experiment=finetune_lm", f"data={tmp_path / 'text.txt'}", f"init_from=hf:{folder}", *SHORT]
    result = multihead.train([*words, "optim.lr=1e-30", "trainer.val_every_n_steps=1", f"run_dir={tmp_path / 'run'}"])
    assert result["steps"] == 3  # two validations in a row that were not the best
