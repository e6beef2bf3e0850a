"""Exports with their own code: loaded by ``trust_remote_code=True`` without Multihead, they are the run's model."""

import ast
import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import drawn, new_task, reference

from multihead.errors import ConfigError
from multihead.exporting import huggingface, remote
from multihead.exporting.huggingface import _generation
from multihead.exporting.verify import verify
from multihead.metrics.calibration import Calibration

ROTARY = ["model.position=rotary", "model.qk_norm=true", "model.num_kv_heads=2", "model.attention_bias=qkv"]
LATE = ["model.norm_placement=post", "model.norm=rms_norm", "model.activation=swiglu", "model.bias=false"]
CASES = {
    "lm": ["task=lm", *ROTARY],
    "lm, alibi, untied": ["task=lm", "model.position=alibi", "model.tie_embeddings=none", "model.activation=relu2"],
    "lm, one layer shared": ["task=lm", "model.share_layers=true", "model.embedding_width=20", "model.parallel=true"],
    "lm, n-grams": ["task=lm", *LATE, "model.ngram_buckets=50"],
    "lm, masked": ["task=lm", "task.objective=masked", *ROTARY, "model.output_transform=true"],
    "classes": ["task=classification", *ROTARY, "task.pooling=attention", "task.head_activation=tanh"],
    "classes, n-grams": ["task=classification", *LATE, "task.ngram_buckets=40", "task.pooling=mean"],
    "classes, decoder": ["task=classification", "task.stack=decoder", "task.pooling=last"],
    "several classes": ["task=classification", "task.multi_label=true", "model.rope_scaling=llama3", *ROTARY],
    "a number": ["task=regression", "model.position=relative"],
    "translation": ["task=translation", *ROTARY],
    "translation, sinusoids": ["task=translation", *LATE, "model.tie_embeddings=source_target"],
}  # fmt: skip
"""None of them has a published family."""
LOADED = """
import importlib.util, json, sys, torch
sys.path[:] = [path for path in sys.path if "multihead" not in path]
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "multihead":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import transformers
transformers.logging.set_verbosity_error()
answers = {}
for name, folder in json.load(open(sys.argv[1])).items():
    content = json.load(open(folder + "/config.json"))
    auto = next(key for key in content["auto_map"] if key.startswith("AutoModel"))
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    given = json.load(open(folder + "/inputs.json"))
    rows = given["rows"]
    width = max(map(len, rows))
    left = auto == "AutoModelForCausalLM"
    pad = lambda row, value: [value] * (width - len(row)) * left + row + [value] * (width - len(row)) * (not left)
    ids = torch.tensor([pad(row, tokenizer.pad_token_id) for row in rows])
    mask = torch.tensor([pad([1] * len(row), 0) for row in rows])
    with torch.no_grad():
        words = {"decoder_input_ids": torch.tensor([given["prefix"]] * len(rows))} if "Seq2Seq" in auto else {}
        answers[name] = {"logits": model(input_ids=ids, attention_mask=mask, **words).logits.tolist()}
        if hasattr(model, "generate"):
            for beams in (1, 3):
                made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=8, num_beams=beams,
                                      early_stopping="never" if beams > 1 else False)
                answers[name][f"beams_{beams}"] = made[:, 0 if "Seq2Seq" in auto else width:].tolist()
        model.save_pretrained(folder + "_again")
        again = getattr(transformers, auto).from_pretrained(folder + "_again", trust_remote_code=True).eval()
        answers[name]["again"] = again(input_ids=ids, attention_mask=mask, **words).logits.tolist()
print(json.dumps(answers))
"""


def calibrated(name):
    task = new_task(*CASES[name])
    if name.startswith("classes"):
        task.calibration = Calibration(temperature=1.7)
    return task


def loaded(root):
    """Every case, written, and what one process without Multihead computes with all of them."""
    tasks, folders = {}, {}
    for number, name in enumerate(CASES):
        task, folder = calibrated(name), root / f"case_{number}"
        folder.mkdir()
        remote.write(task, folder, root / "no_run")
        rows = [reference(task).source(each) if "translation" in name else each.source for each in drawn(task, 3)]
        prefix = [int(i) for i in getattr(task, "start", ())]
        (folder / "inputs.json").write_text(json.dumps({"rows": rows, "prefix": prefix}))
        tasks[name], folders[name] = (task, rows, prefix), str(folder)
    (root / "folders.json").write_text(json.dumps(folders))
    places = {name: str(root / "home") for name in ("HF_HOME", "HOME")}
    command = [sys.executable, "-I", "-W", "ignore", "-c", LOADED, str(root / "folders.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **places})
    assert done.returncode == 0, done.stderr[-3000:]
    return tasks, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.unhurried
def test_padded_rows_have_our_logits_and_generate_gives_our_tokens(tmp_path):
    tasks, answers = loaded(tmp_path)
    for name, (task, rows, prefix) in tasks.items():
        same_logits(name, task, rows, prefix, torch.tensor(answers[name]["logits"]))
        assert answers[name]["again"] == answers[name]["logits"], name
        for beams in (1, 3):
            if "masked" in name or not name.startswith(("lm", "translation")):
                assert f"beams_{beams}" not in answers[name]
            else:
                same_tokens(name, task, beams, answers[name][f"beams_{beams}"])


@torch.no_grad()
def same_logits(name, task, rows, prefix, theirs):
    ours, transformer, head = reference(task), task.model.transformer, task.model.head
    for number, row in enumerate(rows):
        ids, found = torch.tensor([row]), theirs[number]
        if ours.pooled:
            hidden = transformer.decode(ids) if "decoder" in name else transformer.encode(ids)
            wanted = head(hidden, tokens=ids)[0] / ours.temperature
        elif "translation" in name:
            wanted = head(transformer(ids, target=torch.tensor([prefix])))[0]
        else:
            masked = "masked" in name
            wanted = head(transformer.encode(ids) if masked else transformer.decode(ids))[0]
            found = found[slice(len(row)) if masked else slice(len(found) - len(row), None)]
        torch.testing.assert_close(found, wanted.float(), atol=2e-5, rtol=2e-5, msg=name)


def same_tokens(name, task, beams, theirs):
    ours = reference(task, num_beams=beams, max_new_tokens=8)
    for example, row in zip(drawn(task, 3), theirs, strict=True):
        row = row[len(ours.start) :] if "translation" in name else row
        row = row[: row.index(ours.eos)] if ours.eos in row else row
        assert row == [token for token in ours.outputs([example])[0] if token not in (ours.eos, ours.pad)], name


@pytest.mark.unhurried
def test_the_export_compares_itself(tmp_path):
    task = calibrated("classes")
    remote.write(task, tmp_path, tmp_path / "no_run")
    ours, examples = reference(task), drawn(task, 4)
    found = verify(remote.read_back(tmp_path, ours), ours, examples, ours.outputs(examples), exact=True)
    assert found.equal_outputs == 1.0 and "transformers" in found.versions
    card = (tmp_path / "README.md").read_text()
    assert 'from_pretrained(".", trust_remote_code=True)' in card and "read it first" in card


def test_the_file_names_nothing_of_ours():
    text = remote.bundled("multihead.exporting.modeling", remote.NOTE, remote.UNUSED)
    outside = {n.module for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)}
    outside |= {each.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for each in n.names}
    assert {name.split(".")[0] for name in outside} == {
        "__future__", "collections", "dataclasses", "functools", "math", "re", "torch", "transformers", "typing"
    }  # fmt: skip
    assert "def loss" not in text and "_ChunkedCrossEntropy" not in text and "class Transformer(nn.Module)" in text


def test_a_plugins_part_is_refused():
    task = new_task("task=lm")
    head, task.model.head = task.model.head, torch.nn.Identity()
    for refuses in (remote.check, huggingface.family_of):
        with pytest.raises(ConfigError, match="plugin: its head, Identity, is part of the model"):
            refuses(task)
    task.model.head = head
    task.model.transformer.blocks.feed_forward = torch.nn.Identity
    with pytest.raises(ConfigError, match="plugin: its feed_forward is part of the model, and an export does not copy"):
        remote.check(task)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=translation", "task.copy=true"], "task.copy=true: no published family copies tokens"),
        (["task=translation", "task.topology=decoder"], "task.topology=decoder"),
    ],
)
def test_what_no_auto_class_can_load(words, message):
    with pytest.raises(ConfigError, match=message):
        remote.check(new_task(*words))


@pytest.mark.unhurried
@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("task", ["translation", "lm"])
def test_generate_keeps_the_options_of_the_run(tmp_path, monkeypatch, task, beams):
    """A model that would end at once writes as many tokens as the run's options ask for."""
    monkeypatch.setattr(remote, "card", lambda *_: "")
    words = ["decoding.min_new_tokens=4", "decoding.max_new_tokens=7", "decoding.no_repeat_ngram_size=2"]
    made = new_task(f"task={task}", *words, f"decoding.num_beams={beams}", "model.output_bias=true", "data.name=x")
    ours = reference(made)
    with torch.no_grad():
        made.model.head.bias[ours.eos] = 50.0
    remote.write(made, tmp_path, tmp_path)
    theirs = remote.load(tmp_path)
    for example in drawn(made, 3):
        prefix = ours.source(example) if task == "translation" else ours.prefix(example)
        row = theirs.generate(torch.tensor([list(prefix)]))[0].tolist()
        row = row[len(ours.start) :] if task == "translation" else row[len(prefix) :]
        assert row[: row.index(ours.eos)] == list(ours.outputs([example])[0]) and row.index(ours.eos) == 4


def test_what_is_drawn_is_drawn_by_generate_too():
    words = ["decoding.do_sample=true", "decoding.temperature=0.7", "decoding.top_k=5", "decoding.top_p=0.9"]
    found = _generation(new_task("task=lm", *words, "decoding.repetition_penalty=1.3"))
    assert found["do_sample"] and (found["temperature"], found["top_k"], found["top_p"]) == (0.7, 5, 0.9)
    assert found["repetition_penalty"] == 1.3 and "temperature" not in _generation(new_task("task=lm"))
