"""Exports in Hugging Face's layout: read back they are the run's model, by our reader and by ``transformers``."""

import json
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from tiny import drawn, new_task, reference

import multihead
from multihead import cli
from multihead.config.compose import compose
from multihead.errors import ConfigError
from multihead.exporting import huggingface
from multihead.exporting.verify import verify
from multihead.metrics.calibration import Calibration
from multihead.pretrained.source import read_published
from multihead.tasks import build_task
from multihead.text.vocabulary import Vocabulary
from multihead.training.transfer import copy_weights, published_source

sys.path.append(str(Path(__file__).parents[1] / "pretrained"))
import published_folders

BERT = ["model.norm_placement=post", "model.position=learned", "model.activation=gelu", "model.embedding_norm=true",
        "model.embedding_scale=false", "model.norm_eps=1e-12"]  # fmt: skip
LLAMA = ["model.norm=rms_norm", "model.activation=swiglu", "model.bias=false", "model.position=rotary",
         "model.embedding_scale=false", "model.num_kv_heads=2"]  # fmt: skip
GPT2 = ["model.position=learned", "model.activation=gelu_tanh", "model.embedding_scale=false"]
MARIAN = ["model.norm_placement=post", "model.sinusoid_order=halves", "model.activation=gelu", "model.output_bias=true"]
BART = ["model.norm_placement=post", "model.position=learned", "model.position_offset=2", "model.activation=gelu",
        "model.output_bias=true", "model.embedding_norm=true"]  # fmt: skip
T5 = ["model.norm=rms_norm", "model.bias=false", "model.position=relative", "model.relative_buckets=8",
      "model.attention_scale=false", "model.embedding_scale=false"]  # fmt: skip
T5_GATED = [*T5, "model.activation=geglu_tanh", "model.tie_embeddings=source_target", "model.head_size=6"]
FIRST = ["task=classification", "task.pooling=first"]
LAST = ["task=classification", "task.stack=decoder", "task.pooling=last", "task.head_bias=false"]
VOCABULARY = ["model.output_transform=true", "model.output_bias=true"]
CASES = {
    "BertForSequenceClassification": [*FIRST, *BERT, "task.head_activation=tanh", "model.segment_types=2"],
    "DistilBertForSequenceClassification": [*FIRST, *BERT, "task.head_activation=relu"],
    "ElectraForSequenceClassification": [*FIRST, *BERT, "task.head_activation=gelu", "model.segment_types=2"],
    "AlbertForSequenceClassification": [*FIRST, *BERT, "task.head_activation=tanh", "model.segment_types=2",
                                        "model.share_layers=true", "model.embedding_width=20"],
    "BertForMaskedLM": ["task=lm", "task.objective=masked", *BERT, "model.segment_types=1", *VOCABULARY],
    "LlamaForCausalLM": ["task=lm", *LLAMA],
    "Qwen3ForCausalLM": ["task=lm", *LLAMA, "model.qk_norm=true", "model.tie_embeddings=none"],
    "GPT2LMHeadModel": ["task=lm", *GPT2],
    "GPT2LMHeadModel, both objectives": ["task=lm", "task.objective=both", *GPT2],
    "GPTNeoXForCausalLM": ["task=lm", "model.position=rotary", "model.activation=gelu", "model.embedding_scale=false",
                           "model.parallel=true", "model.tie_embeddings=none"],
    "GPT2ForSequenceClassification": [*LAST, *GPT2],
    "LlamaForSequenceClassification": [*LAST, *LLAMA],
    "MarianMTModel": ["task=translation", *MARIAN],
    "PegasusForConditionalGeneration": ["task=summarization", *MARIAN, "model.norm_placement=pre"],
    "BartForConditionalGeneration": ["task=summarization", *BART],
    "MBartForConditionalGeneration": ["task=translation", *BART, "model.norm_placement=pre"],
    "T5ForConditionalGeneration": ["task=translation", *T5, "model.output_scale=true"],
    "T5ForConditionalGeneration, gated": ["task=summarization", *T5_GATED],
}  # fmt: skip


def check(task, folder):
    ours = reference(task)
    huggingface.write(task, folder, folder / "no_run")
    examples = drawn(task, 4)
    found = verify(huggingface.read_back(folder, ours), ours, examples, ours.outputs(examples), exact=True)
    assert found.largest_difference <= 2e-5 * max(1.0, found.scale) and found.equal_outputs == 1.0
    return found


@pytest.mark.unhurried
@pytest.mark.parametrize("name", CASES)
def test_read_back_by_our_reader(name, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "installed", lambda package: False)
    assert check(new_task(*CASES[name]), tmp_path).versions.keys() == {"torch", "multihead"}
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [name.partition(",")[0]]


@pytest.mark.unhurried
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_loaded_by_transformers(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    task = new_task(*CASES[name])
    assert "transformers" in check(task, tmp_path).versions
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["the man rides", "a  bike <unk> <eos>", "Straße ß x"]
    marks = task.tokenizers.get("source") or task.tokenizers["text"]
    if task.settings.name in ("translation", "summarization"):
        wanted = [[*ids, marks.eos_id] for ids in marks.encode_batch(texts)]
    elif task.settings.name == "classification":
        wanted = [[*marks.start, *ids, *marks.end] for ids in marks.encode_batch(texts)]
    else:
        before = marks.opening if task.settings.stacks == ("decoder",) else ()
        wanted = [[*before, *ids] for ids in marks.encode_batch(texts)]
    assert tokenizer(texts)["input_ids"] == wanted
    plain = marks.encode_batch(texts[:1])[0]
    assert tokenizer.decode([*plain, marks.eos_id], skip_special_tokens=True) == marks.decode_batch([plain])[0]


@pytest.mark.parametrize(
    "words, message",
    [
        (["task=lm"], r"model.position=sinusoidal: prevents the export: the nearest published family, GPT-2, has"),
        ([*FIRST, *BERT, "task.pooling=mean"], r"task.pooling=mean: prevents the export: .*, has first"),
        (["task=lm", *GPT2, "model.ngram_buckets=10"], r"model.ngram_buckets=10: prevents the export: .* GPT-2, has 0"),
        (
            ["task=lm", *LLAMA, "model.attention_bias=qkv"],
            r"model.attention_bias=qkv: prevents the export: .* Llama, has",
        ),
        (
            ["task=translation"],
            r"model.sinusoid_order=alternating: prevents the export: the nearest .*, Pegasus, has halves",
        ),
        (
            ["task=translation", *MARIAN, "model.tie_embeddings=target_output"],
            r"model.tie_embeddings=target_output: prevents the export: the nearest published family, Marian, has all",
        ),
        (
            ["task=translation", *MARIAN, "model.output_bias=false", "task.copy=true"],
            r"task.copy=true: no published family copies tokens of the source",
        ),
        (
            ["task=translation", *MARIAN, "task.topology=decoder"],
            r"task.topology=decoder: no published family translates with a decoder alone",
        ),
        (
            [*FIRST, *BERT, "task.head_activation=tanh"],
            r"model.segment_types=0: prevents the export: the nearest published family, BERT, has 1",
        ),
        (["task=multitask"], r"task=multitask: no published family has several heads"),
    ],
)
def test_what_prevents_an_export_is_named(words, message):
    with pytest.raises(ConfigError, match=message):
        huggingface.family_of(new_task(*words).members().popitem()[1] if "multi" in words[0] else new_task(*words))


def test_sizes_that_one_family_cannot_have_do_not_hide_the_family_that_fits():
    """A head of 9 dimensions cannot be rotated, so LLaMA's description is no model; GPT-2 has learned positions."""
    words = ["model.d_model=36", "model.num_heads=4", "model.position=learned", "model.activation=gelu_tanh"]
    words += ["model.embedding_scale=false", "model.tie_embeddings=target_output"]
    assert huggingface.family_of(new_task("task=lm", *words)) == "gpt2"


@pytest.mark.unhurried
def test_a_temperature_goes_into_the_logits(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "installed", lambda package: False)
    task = new_task(*CASES["BertForSequenceClassification"])
    task.calibration = Calibration(temperature=2.0)
    check(task, tmp_path)
    back = read_published(f"hf:{tmp_path}")
    torch.testing.assert_close(back.state["head.output.weight"], task.model.head.output.weight / 2)
    assert back.labels == task.labels
    assert "divided by the calibration's temperature, 2." in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    "head, words", [("classes", [*FIRST, "task.head_activation=tanh"]), ("vocabulary", ["task=lm"])]
)
def test_in_and_out_again_gives_the_same_bytes(tmp_path, head, words):
    labels = {"0": "neg", "1": "pos"}
    folder = published_folders.write(tmp_path / "in", head=head, id2label=labels)
    config = compose([*words, f"init_from=hf:{folder}"]).config
    source = published_source(config.init_from)
    task = build_task(config, Vocabulary(source.vocab.tokenizers, list(labels.values()))).eval()
    copy_weights(task.model, task.vocab, source)
    out = tmp_path / "out"
    out.mkdir()
    huggingface.write(task, out, tmp_path)
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(before[name].numpy().tobytes() == after[name].numpy().tobytes() for name in before)
    texts = [json.loads((each / "tokenizer.json").read_text()) for each in (folder, out)]
    assert texts[0] == texts[1]


@pytest.mark.filterwarnings("ignore")
def test_a_run_becomes_a_pipeline(tmp_path, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path / "cache"))
    words = [*CASES["BertForSequenceClassification"], "debug=smoke", "logger=none", "accelerator=cpu"]
    multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert cli.main(["export", f"run={tmp_path / 'run'}", "to=huggingface", "sentences=5", "push=me/film"]) == 2
    said = capsys.readouterr().err
    folder = tmp_path / "run" / "export" / "huggingface"
    assert said.startswith(f"error[config] push: {folder} is written, but not uploaded: you are not logged in")
    card = (folder / "README.md").read_text()
    assert "| test/accuracy |" in card and "python train.py task=classification" in card and "sha256 `" in card
    classify = transformers.pipeline("text-classification", model=str(folder), tokenizer=str(folder))
    texts = ["I liked the film .", "not a good book", "…", "the the the"]
    for text, found in zip(texts, classify(texts), strict=True):
        ours = multihead.load(tmp_path / "run").classify(text)
        assert ours["label"] == found["label"] and ours["probability"] == pytest.approx(found["score"], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", [published_folders.LLAMA, published_folders.GPT2], ids=lambda c: c["model_type"])
def test_a_language_model_goes_in_learns_and_comes_out(config, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path / "cache"))
    folder, text = published_folders.write(tmp_path / "in", config, head="vocabulary"), tmp_path / "text.txt"
    text.write_text(
        "".join(f"the old {a} sees a {b}\n" for a in ("dog", "cat", "man") for b in published_folders.WORDS)
    )
    words = ["task=lm", "data=text", *(f"data.{split}={text}" for split in ("train", "val", "test")), "optim=adamw",
             "data.batch_tokens=200", "data.part_tokens=200", "trainer.max_steps=2", "trainer.val_every_n_steps=2",
             "logger=none", "accelerator=cpu"]  # fmt: skip
    multihead.train([*words, f"init_from=hf:{folder}", f"run_dir={tmp_path / 'run'}"])
    assert cli.main(["export", f"run={tmp_path / 'run'}", "to=huggingface", "sentences=3"]) == 0
    out = tmp_path / "run" / "export" / "huggingface"
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model, run = transformers.AutoModelForCausalLM.from_pretrained(out), multihead.load(tmp_path / "run")
    for prompt in ("the old man", "a dog sees"):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.size(1) :]
        ours = run.generate(prompt, max_new_tokens=8)
        assert tokenizer.decode(made, skip_special_tokens=True).strip() == ours.strip()


@pytest.mark.unhurried
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("words", [[], ["decoding.max_new_tokens=30"], ["decoding.max_new_tokens=5"]], ids=str)
def test_generate_stays_within_the_positions_of_the_model(words, tmp_path):
    transformers = pytest.importorskip("transformers")
    task = new_task("task=lm", *GPT2, *words)  # it has a table of 40 positions
    huggingface.write(task, tmp_path, tmp_path / "no_run")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    new = 5 if words[-1:] == ["decoding.max_new_tokens=5"] else 20
    prompt = torch.full((1, 40 - new), 7)
    row = model.generate(prompt, attention_mask=torch.ones_like(prompt), eos_token_id=-1)
    assert row.shape == (1, 40)
    page = " ".join((tmp_path / "README.md").read_text().split())
    assert f"up to {new} new tokens, so cut a prompt to its last {40 - new} tokens" in page
