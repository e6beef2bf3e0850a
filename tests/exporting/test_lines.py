"""Language models whose newlines are text: what an export reads and writes of several lines is what the run does."""

import json

import pytest
from tiny import new_task
from tokenizers import Tokenizer as Backend

from multihead.errors import CheckpointError
from multihead.exporting import ctranslate, huggingface, places, programs
from multihead.exporting.ctranslate_runtime import readme
from multihead.exporting.verify import Reference, verify_tokenizer
from multihead.runs.directory import save_vocab

TEXTS = [
    "the man",
    "the man\nrides a bike",
    "",
    "\n",
    "\n\n",
    "a\n",
    " a\n b",
    "\nred\n\n  house\r\n is\n\n",
    "é\n\u0301x",
]
GPT2 = ["model.position=learned", "model.activation=gelu_tanh", "model.embedding_scale=false"]


def new_model(kind, *words, document="file"):
    return new_task("task=lm", f"data.document={document}", *GPT2, *words, kind=kind)


@pytest.mark.parametrize("objective", ["causal", "masked"])
@pytest.mark.parametrize("document", ["file", "row"])
@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte", "char"])
def test_the_written_tokenizer_reads_and_writes_lines_as_the_run_does(kind, document, objective, tmp_path):
    task = new_model(kind, f"task.objective={objective}", "data.normalize=nfc", document=document)
    huggingface.write_tokenizer(task, tmp_path)
    programs.write_tokenizers(task, tmp_path, {"text": "other.json"})
    for file in ("tokenizer.json", "other.json"):
        verify_tokenizer(task, tmp_path / file)
        written = Backend.from_file(str(tmp_path / file))
        for text in TEXTS:
            ids = task.encode(text)[len(task.tokenizer.opening) :]
            assert written.encode(text, add_special_tokens=False).ids == ids
            assert kind == "char" or written.decode(ids) == task.decode(ids)


@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_lines_as_the_run_does(tmp_path):
    transformers = pytest.importorskip("transformers")
    task = new_model("bpe")
    huggingface.write(task, tmp_path, tmp_path / "no_run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == task.encode(text)
        assert tokenizer.decode(task.encode(text), skip_special_tokens=True) == task.decode(task.encode(text))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_tokenizer_that_reads_lines_otherwise_is_refused(kind, tmp_path):
    task = new_model(kind)
    (tmp_path / "tokenizer.json").write_text(task.tokenizer.tokenizers_json(task.tokenizer.opening))
    with pytest.raises(CheckpointError, match=r"export: the exported tokenizer reads .* as \[.*, but the run reads it"):
        verify_tokenizer(task, tmp_path / "tokenizer.json")


def test_a_sample_of_several_lines_is_read_as_in_training(tmp_path):
    task = new_model("bpe", "model.max_len=200")
    row = {"split": "val", "source": "the man\nrides", "reference": "", "output": " a\nbike\n"}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    (example,) = places.examples(task, tmp_path, 1)
    assert example.source == task.encode("the man\nrides")
    assert [*example.source, *example.target] == task.encode("the man\nrides a\nbike\n")


@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_the_snippet_of_ctranslate2_reads_lines_as_the_run_does(kind, tmp_path, monkeypatch, capsys):
    task = new_task("task=lm", "data.document=file", "decoding.max_new_tokens=20", "model.max_len=80", kind=kind)
    ctranslate.write(task, tmp_path, "float32")
    files = save_vocab(tmp_path, task.vocab)
    page = readme(Reference(task, task.config.decoding, shared_out=True), files, {"patience=1": 1.0})
    code = page.partition("```python\n")[2].partition("```")[0].replace('"A text."', repr("the man\nrides\n\na red"))
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert found["ids"] == task.encode("the man\nrides\n\na red")[1:]
    new = [found["index"][name] for name in found["found"][0].sequences[0]]
    assert capsys.readouterr().out == task.decode(new) + "\n"
