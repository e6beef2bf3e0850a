"""Prediction is light: without Lightning, torchmetrics and the like; and what `attention` and `embed` return."""

import functools
import json
import subprocess
import sys

import pytest
import torch

import multihead
from multihead.commands.evaluate import evaluate
from multihead.errors import ConfigError
from multihead.model.positions import rotate
from multihead.model.transformer import MultiHeadAttention

HEAVY = ("lightning", "torchmetrics", "transformers", "wandb", "scipy", "torch.distributed.fsdp")
PROGRAM = """
import json, sys
import multihead
heavy, *runs = map(str.split, sys.argv[1:])
for run in runs:
    multihead.load(*run).predict(["the dog"])
    print([name for name in heavy if name in sys.modules])
from multihead.commands.evaluate import evaluate
result = evaluate(*run, ["data.split=test"])
print(["lightning"] if "lightning" in sys.modules else [])
print(json.dumps(result))
"""


def test_prediction_and_evaluation_import_no_lightning(runs, tmp_path):
    """In a process of its own; `evaluate` finds the numbers of the run's own test."""
    copies = [runs.copy(tmp_path / task, f"task={task}") for task in ("translation", "lm", "classification")]
    command = [sys.executable, "-c", PROGRAM, " ".join(HEAVY), *map(str, copies)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *loaded, result = done.stdout.splitlines()[-5:]
    assert loaded == ["[]"] * 4
    known, again = json.loads((copies[-1] / "result.json").read_text()), json.loads(result)
    assert {k: v for k, v in again.items() if k.startswith("test/")} == {
        k: v for k, v in known.items() if k.startswith("test/")
    }


@pytest.mark.unhurried
def test_the_weights_of_64_true_are_not_rounded(tmp_path):
    words = ["task=classification", "precision=64-true", "debug=smoke", "logger=none"]
    result = multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    assert evaluate(str(tmp_path / "run"), ["data.split=test"])["test/loss"] == result["test/loss"]


@functools.cache
def loaded(path):
    return multihead.load(path)


@torch.inference_mode()
def by_hand(attention: MultiHeadAttention, x, scope, memory):
    """The weights from queries and keys, one head after the other."""
    query, context = attention.query(x)[0], (x if memory is None else memory)
    key, found = attention.key(context)[0], []
    for head in range(attention.width // attention.head_dim):
        columns = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        q, k = query[:, columns], key[:, columns]
        if scope.rotation is not None:
            q, k = (rotate(y[None, :, None], scope.rotation)[0, :, 0] for y in (q, k))
        scores = q @ k.T / attention.head_dim**0.5
        if scope.causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
        found.append(scores.softmax(-1))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("task", "target", "kinds"),
    [
        ("classification", "", {"encoder_self"}),
        ("lm", "", {"decoder_self"}),
        ("translation", "der Hund", {"encoder_self", "decoder_self", "decoder_cross"}),
        ("translation", "", {"encoder_self", "decoder_self", "decoder_cross"}),
    ],
)
def test_attention_is_computed_by_hand(runs, task, target, kinds):
    run, seen = loaded(runs.finished(f"task={task}")), {}
    attentions = {n: m for n, m in run.model.named_modules() if isinstance(m, MultiHeadAttention)}
    hooks = [
        module.register_forward_hook(lambda m, given, out, name=name: seen.update({name: (m, *given, None)[:4]}))
        for name, module in attentions.items()
    ]
    maps = run.attention("the dog sleeps", target)
    for hook in hooks:
        hook.remove()
    assert maps.keys() == kinds
    for kind, found in maps.items():
        stack, _, part = kind.partition("_")
        expected = torch.stack(
            [by_hand(*seen[n]) for n in attentions if f".{stack}.layers." in n and n.endswith(f"{part}_attention")]
        )
        torch.testing.assert_close(found.weights, expected)
        torch.testing.assert_close(found.weights.sum(-1), torch.ones(found.weights.shape[:-1]))
        assert found.weights.shape[2:] == (len(found.rows), len(found.columns))
    words = "".join(maps["decoder_self" if task == "lm" else "encoder_self"].columns)
    assert "the▁dog" in words


def test_attention_takes_one_text_and_says_where_there_is_none(runs):
    run = loaded(runs.finished("task=lm"))
    with pytest.raises(ConfigError, match=r"run.attention: takes one text, got a list"):
        run.attention(["a", "b"])
    with pytest.raises(ConfigError, match=r"run.embed: input 0 is a NoneType"):
        run.embed([None])


@pytest.mark.parametrize("task", ["classification", "lm", "translation"])
def test_embeddings_are_pooled_hidden_states_whatever_else_is_in_the_batch(runs, task):
    run = loaded(runs.finished(f"task={task}"))
    texts = ["the dog", "a cat sees the old dog in the garden", "the dog sleeps"]
    together = run.embed(texts)
    assert together.shape == (3, run.config.model.d_model) and together.dtype == torch.float32
    alone = torch.stack([run.embed(text) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    hidden = {}
    stack = run.model.transformer.stack("decoder" if task == "lm" else "encoder")
    hook = stack.register_forward_hook(lambda module, given, out: hidden.update(states=out[0]))
    first = run.embed("the dog")
    hook.remove()
    states = hidden["states"]
    pooled = run.model.head.pool(states[None])[0] if task == "classification" else states.mean(0)
    torch.testing.assert_close(first, pooled)
