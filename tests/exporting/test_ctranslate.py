"""CTranslate2: every mechanism it has words for gives our log-probabilities and outputs; the others are refused."""

import sys

import pytest
import torch
from tiny import ALIBI, OPTIONS, WORDS, drawn, ids, new_task, reference

from multihead.errors import CheckpointError, ConfigError
from multihead.exporting import ctranslate
from multihead.exporting.ctranslate_runtime import Runtime, readme
from multihead.exporting.verify import Reference, verify
from multihead.runs.directory import save_vocab

LM, DECODER, TRANSLATION = ["task=lm"], ["task=translation", "task.topology=decoder"], ["task=translation"]
CASES = [(TRANSLATION, words) for words in OPTIONS if "model.qk_norm=true" not in words]
CASES += [(DECODER, words) for words in OPTIONS[3:] + ALIBI[1:]] + [(LM, words) for words in OPTIONS[:3] + ALIBI]


def exported(task, folder, quantization="float32", exact=True, **decoding):
    """The comparison of a fresh export."""
    ours = reference(task, **decoding)
    ctranslate.check(task, ours.decoding)
    ctranslate.write(task, folder, quantization)
    ours = Reference(task, ours.decoding, shared_out=True)
    examples = drawn(task)
    runtime = Runtime(folder, ours)
    return verify(runtime, ours, examples, ours.outputs(examples), exact=exact)


@pytest.mark.parametrize(("task", "words"), CASES, ids=[ids(task + words) for task, words in CASES])
@pytest.mark.unhurried
def test_log_probabilities_and_outputs_of_beam_search_are_ours(task, words, tmp_path):
    found = exported(new_task(*task, *words), tmp_path, num_beams=4, length_penalty=0.8)
    assert found.largest_difference < 1e-5 * found.scale
    assert found.equal_outputs == 1.0
    assert found.search == "4 beams"


@pytest.mark.parametrize("decoding", [{"num_beams": 1}, {"num_beams": 3, "max_new_tokens": 5, "length_penalty": 0.0}])
def test_other_searches(decoding, tmp_path):
    assert exported(new_task("task=summarization"), tmp_path, **decoding).equal_outputs == 1.0


@pytest.mark.parametrize("kind", ["int8", "int16", "bfloat16"])
def test_a_quantised_model_is_measured_and_not_refused(kind, tmp_path):
    found = exported(new_task(*TRANSLATION), tmp_path, kind, exact=False)
    assert 0 < found.largest_difference < 0.2 * found.scale
    assert found.tolerance is None


def test_words_that_spell_special_entries_are_told_apart(tmp_path):
    task = new_task(*TRANSLATION)
    names = ctranslate.vocabulary(task, "target")
    assert "\\<unk>" in names and "<unk>" in WORDS
    assert len(set(names)) == len(names) == task.tokenizers["target"].vocab_size


def test_a_model_that_differs_is_refused(tmp_path):
    task = new_task(*TRANSLATION)
    ctranslate.write(task, tmp_path, "float32")
    with torch.no_grad():
        task.model.transformer.decoder.layers[0].feed_forward.up.weight[0] += 0.5
    ours = reference(task)
    with pytest.raises(
        CheckpointError, match=r"log-probabilities of target tokens differ by up to .* outputs are equal \(greedy\)"
    ):
        verify(Runtime(tmp_path, ours), ours, drawn(task), ours.outputs(drawn(task)), exact=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*TRANSLATION, "model.position=alibi"], r"model.position=alibi: CTranslate2 supports ALiBi in a decoder only"),
        ([*TRANSLATION, "model.qk_norm=true"], r"model.qk_norm=true: .* in the cross-attention"),
        ([*LM, "model.ngram_buckets=9"], r"model.ngram_buckets: CTranslate2 has no embeddings of n-grams"),
        ([*TRANSLATION, "model.num_encoder_layers=0"], r"model.num_encoder_layers=0: CTranslate2 needs a layer"),
        ([*LM, "task.objective=masked"], r"task.objective=masked: .* not logits of masked tokens"),
        ([*TRANSLATION, "task.copy=true"], r"task.copy=true: CTranslate2 cannot copy tokens of the source"),
        (["task=classification"], r"task=classification: CTranslate2 has no classification head"),
        ([*TRANSLATION, "decoding.forced_prefix=der"], r"decoding.forced_prefix: .* leaves a forced prefix out"),
        ([*LM, "decoding.repetition_penalty=1.3"], r"decoding.repetition_penalty=1.3: .*; fix: decoding.repetition_"),
        ([*LM, "decoding.stop_strings=[red]"], r"decoding.stop_strings: .*; fix: 'decoding.stop_strings=\[\]'"),
    ],
)
def test_what_it_has_no_words_for(words, message):
    task = new_task(*words)
    with pytest.raises(ConfigError, match=message):
        ctranslate.check(task, task.config.decoding)


@pytest.mark.parametrize("key", ["attention", "feed_forward"])
def test_blocks_of_a_plugin(key):
    task = new_task(*LM)
    setattr(task.config.model, key, "mine")
    with pytest.raises(ConfigError, match=rf"model.{key}=mine: CTranslate2 runs its own blocks, not a plugin's"):
        ctranslate.check(task, task.config.decoding)


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(ConfigError, match=r'pip install "multihead\[export\]"'):
        ctranslate.import_ctranslate2()


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="CTranslate2 cannot load it"):
        Runtime(tmp_path, reference(new_task(*LM)))


@pytest.mark.parametrize("words", [["task=summarization"], DECODER])
def test_the_snippet_of_the_readme_cuts_a_long_source_as_predict_does(words, tmp_path, monkeypatch, capsys):
    task = new_task(*words)
    ctranslate.write(task, tmp_path, "float32")
    files = save_vocab(tmp_path, task.vocab)
    text = " ".join(WORDS * 30)
    page = readme(Reference(task, task.config.decoding, shared_out=True), files, {"patience=1": 1.0})
    snippet = page.partition("```python\n")[2].partition("```")[0].replace("A text.", text)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    ((expected,),) = task.predict([text], task.config.decoding)
    assert capsys.readouterr().out.split() == expected["text"].split()


@pytest.mark.parametrize("words", [TRANSLATION, DECODER, LM], ids=ids)
def test_the_snippet_of_the_readme_writes_as_many_tokens_as_the_run(words, tmp_path, monkeypatch, capsys):
    task = new_task(*words, "decoding.max_new_tokens=3", "decoding.min_new_tokens=3")
    ctranslate.check(task, task.config.decoding)
    ctranslate.write(task, tmp_path, "float32")
    files = save_vocab(tmp_path, task.vocab)
    page = readme(Reference(task, task.config.decoding, shared_out=True), files, {"patience=1": 1.0})
    monkeypatch.chdir(tmp_path)
    exec(page.partition("```python\n")[2].partition("```")[0].replace("A text.", "the man rides"), {})
    ((expected,),) = task.predict(["the man rides"], task.config.decoding)
    said = capsys.readouterr().out.split()
    assert said == expected["text"].split() and len(said) == 3
