"""``init_from=hf:...``: what decides what, what is refused, and runs that need their folder no more."""

import json
import shutil

import published_folders
import pytest
import torch

import multihead
from multihead.config import published
from multihead.config.compose import compose
from multihead.config.data import TokenizerConfig
from multihead.data.published import PublishedTokenizer, load_tokenizer
from multihead.data.tokenizer import Tokenizer, train_tokenizer
from multihead.errors import ConfigError
from multihead.pretrained.source import read_published, tokenizers_of
from multihead.tasks import build_task
from multihead.text.vocabulary import Vocabulary
from multihead.training.transfer import copy_weights, published_source

FEW = ["trainer.max_steps=2", "trainer.val_every_n_steps=2", "trainer.checkpoint_every_n_steps=2", "logger=none",
       "data.batch_tokens=64", "data.part_tokens=64", "optim=adamw", "optim.lr=1e-3", "accelerator=cpu"]  # fmt: skip
ROWS = [("the film was good", "pos"), ("the film was bad", "neg"), ("a great old man", "pos"), ("boring", "neg")]


def rows(path, count):
    """Writes texts that all differ."""
    lines = [(f"{text} {' '.join(f'w{(i >> k) & 1}' for k in range(8))}", label) for i, (text, label) in
             enumerate(ROWS * (count // len(ROWS)))]  # fmt: skip
    path.write_text("".join(f"{text}\t{label}\n" for text, label in lines))
    return path


def built(task_words, folder, labels=("neg", "pos")):
    """A task whose weights come from a folder, as a run begins."""
    config = compose([*task_words, f"init_from=hf:{folder}"]).config
    source = published_source(config.init_from)
    tokenizer = source.vocab.tokenizers["text"]
    roles = [role for role in config.task.roles if role != "label"]
    vocab = Vocabulary(dict.fromkeys(roles, tokenizer), list(labels) if config.task.name == "classification" else [])
    task = build_task(config, vocab).eval()
    return task, copy_weights(task.model, vocab, source)


def test_sizes_and_mechanisms_come_from_the_folder(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    composition = compose(["task=classification", f"init_from=hf:{folder}"])
    model = composition.config.model
    assert (model.d_model, model.num_encoder_layers, model.d_ff, model.max_len) == (16, 2, 24, 48)
    assert (model.norm_placement, model.activation, model.segment_types, model.embedding_scale) == (
        "post",
        "gelu",
        2,
        False,
    )
    assert composition.config.init_tokenizer == "same" and composition.config.task.stack == "encoder"
    assert composition.provenance["model.d_model"][-1] == (f"hf:{folder}/config.json", 16)
    assert published.notes_on(composition.config) == [
        f"hf:{folder}: BERT, encoder of 2 layers, width 16, 2 heads, d_ff 24, gelu, learned positions, 26 entries"
    ]


def test_a_decoder_decides_the_stack_the_objective_and_the_pooling(tmp_path):
    folder = published_folders.write(tmp_path / "gpt2", published_folders.GPT2)
    task = compose(["task=classification", f"init_from=hf:{folder}"]).config.task
    assert (task.stack, task.pooling) == ("decoder", "last")
    assert compose(["task=lm", f"init_from=hf:{folder}"]).config.task.objective == "causal"
    bert = published_folders.write(tmp_path / "bert")
    assert compose(["task=lm", f"init_from=hf:{bert}"]).config.task.objective == "masked"


def test_the_pooling_of_a_sentence_encoder_is_kept(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    assert compose(["task=classification", f"init_from=hf:{folder}"]).config.task.pooling == "max"
    typed = compose(["task=classification", f"init_from=hf:{folder}", "task.pooling=first"])
    assert typed.config.task.pooling == "first"


def test_what_may_differ_is_taken_and_listed(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    words = ["model.num_encoder_layers=1", "model.dropout=0.3", "model.max_len=20"]
    task, copied = built(["task=classification", *words], folder)
    assert len(task.model.transformer.encoder.layers) == 1
    assert published.notes_on(task.config)[1] == (
        "this run differs from it in model.max_len=20 (there 48), model.num_encoder_layers=1 (there 2)"
    )
    positions = next(row for row in copied if row.part == "encoder positions")
    assert (positions.resized, positions.fresh) == (20 * 16, 0)


@pytest.mark.parametrize(
    "word, message",
    [
        ("model.d_model=64", "model.d_model: must be 16, as in hf:.*, got 64"),
        ("model.norm=rms_norm", "model.norm: must be layer_norm, as in hf:"),
        (
            "model.num_encoder_layers=3",
            "model.num_encoder_layers: must be at most 2, as in .*, got 3; fix: model.num_encoder",
        ),
        ("model.max_len=64", "model.max_len: must be at most 48, as in hf:.*, got 64"),
        ("model=small", "model=small: hf:.* brings the sizes of the model; fix: leave out model=small"),
        ("tokenizer.vocab_size=500", "tokenizer.vocab_size: has no effect: the tokenizer is that of hf:"),
    ],
)
def test_what_contradicts_the_folder_is_refused_by_name(tmp_path, word, message):
    folder = published_folders.write(tmp_path / "bert")
    with pytest.raises(ConfigError, match=message):
        compose(["task=classification", f"init_from=hf:{folder}", word])


def test_a_model_that_the_hub_does_not_give_names_the_command(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def unreachable(name, revision, allow_patterns):
        assert (name, revision, allow_patterns[0]) == ("org/name", "v1", "config.json")
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    fix = "fix: hf download org/name --revision v1 --local-dir name, then init_from=hf:name"
    with pytest.raises(ConfigError, match=f"org/name@v1 is not a folder here, and the download .* failed .*{fix}"):
        compose(["task=lm", "init_from=hf:org/name@v1"])


def test_weights_are_fetched_as_safetensors_before_pickles(monkeypatch, tmp_path):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, revision, allow_patterns: asked.append(allow_patterns) or str(tmp_path),
    )
    assert published.locate("hf:org/name") == tmp_path
    assert "pytorch_model*.bin" in asked.pop() and "pytorch_model*.bin" not in asked.pop()
    (tmp_path / "model.safetensors").touch()
    published.locate("hf:org/name")
    assert len(asked) == 1
    published.locate("hf:org/name", whole=False)
    assert asked[-1] == ["config.json", "1_Pooling/config.json"]


@pytest.mark.parametrize("named", ["", "./gone", "../gone", "/gone", "a/b/c/d", "org/name@../../x y"])
def test_what_can_be_no_name_on_the_hub_is_a_folder_that_is_not_there(named):
    with pytest.raises(ConfigError, match="init_from: no such folder"):
        published.locate(f"hf:{named}")


def test_weights_are_taken_and_the_classes_of_a_head_too(tmp_path):
    folder = published_folders.write(tmp_path / "bert", head="classes", id2label={"0": "neg", "1": "pos"})
    words = ["task=classification", "task.pooling=first", "task.head_activation=tanh"]
    task, copied = built(words, folder)
    assert sum(row.fresh for row in copied) == 0
    assert torch.equal(task.model.head.output.weight, read_published(f"hf:{folder}").state["head.output.weight"])
    _, copied = built(words, folder, labels=("bad", "good"))
    assert [row.why for row in copied if row.part == "head"] == ["other classes"]


def test_a_head_over_the_vocabulary_is_taken(tmp_path):
    folder = published_folders.write(tmp_path / "bert", head="vocabulary")
    task, copied = built(["task=lm"], folder)
    assert sum(row.fresh for row in copied) == 0
    found = read_published(f"hf:{folder}").state
    assert torch.equal(task.model.head.bias, found["head.bias"])
    assert torch.equal(task.model.head.transform[0].weight, found["head.transform.0.weight"])


def test_a_tokenizer_of_ones_own_takes_the_rows_of_words_that_are_spelt_the_same(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    words = ["task=classification", f"init_from=hf:{folder}", "init_tokenizer=new", "tokenizer.kind=word"]
    config = compose(words).config
    source = published_source(config.init_from)
    ours = train_tokenizer(TokenizerConfig(kind="word", min_frequency=1), ["the dog and a horse"])
    task = build_task(config, Vocabulary({"text": ours}, ["no", "yes"]))
    copied = copy_weights(task.model, task.vocab, source)
    row = next(row for row in copied if row.part == "encoder embedding")
    assert row.resized == (6 + 4) * 16 and row.fresh == 16  # six roles, the, dog, and, a; no horse
    theirs = source.state["transformer.encoder.embedding.weight"]
    embedding = task.model.transformer.encoder.embedding.weight
    assert torch.equal(embedding[ours.bos_id], theirs[1]) and torch.equal(embedding[ours.eos_id], theirs[2])
    assert torch.equal(embedding[ours.encode_batch(["dog"])[0][0]], theirs[6])


def test_a_translator_takes_its_encoder_and_its_decoder_layers(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    _, copied = built(["task=translation"], folder)
    parts = {row.part: row for row in copied}
    assert parts["encoder layers"].fresh == 0 and parts["decoder layers"].why == "from the encoder"
    assert parts["decoder cross-attention"].copied == 0


def test_names_of_older_checkpoints_are_understood(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = published_folders.write(tmp_path / "bert")
    before = read_published(f"hf:{folder}").state
    tensors = load_file(folder / "model.safetensors")
    renamed = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
               for n, t in tensors.items()}  # fmt: skip
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "model.safetensors")
    after = read_published(f"hf:{folder}").state
    assert all(torch.equal(before[name], after[name]) for name in before)


# ---- tokenizers


def test_marks_stand_where_the_template_puts_them(tmp_path):
    bert = tokenizers_of(f"hf:{published_folders.write(tmp_path / 'bert')}")["text"]
    assert (bert.start, bert.between, bert.end, bert.second_type) == ((1,), (2,), (2,), 1)
    assert (bert.pad_id, bert.bos_id, bert.eos_id, bert.unk_id, bert.sep_id, bert.mask_id) == (0, 1, 2, 3, 2, 4)
    llama = tokenizers_of(f"hf:{published_folders.write(tmp_path / 'llama', published_folders.LLAMA)}")["text"]
    assert (llama.start, llama.between, llama.end, llama.opening) == ((1,), (1,), (), (1,))
    assert (llama.eos_id, llama.pad_id, llama.has_mask) == (2, 2, False)
    gpt2 = tokenizers_of(f"hf:{published_folders.write(tmp_path / 'gpt2', published_folders.GPT2)}")["text"]
    assert (gpt2.start, gpt2.end, gpt2.opening, gpt2.eos_id) == ((), (), (), 0)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):  # one mark for both, so that no end is unknown
        if (path := tmp_path / "gpt2" / file).is_file():
            path.write_text(path.read_text().replace('"<unk>"', '"<eos>"'))
    joint = tokenizers_of(f"hf:{tmp_path / 'gpt2'}")["text"]
    assert (joint.unk_id, joint.eos_id, joint.has_unknown, gpt2.has_unknown) == (0, 0, False, True)


def test_a_published_tokenizer_is_kept_as_it_is(tmp_path):
    tokenizer = tokenizers_of(f"hf:{published_folders.write(tmp_path / 'bert')}")["text"]
    assert tokenizer.encode_batch(["The DOG zzz"]) == [[5, 6, 3]]
    assert tokenizer.decode_batch([[1, 5, 6, 2]]) == ["the dog"]
    assert tokenizer.normalize("The DOG") == "the dog" and tokenizer.has_unknown
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    assert isinstance(again, PublishedTokenizer) and again.fingerprint == tokenizer.fingerprint
    assert again.encode_batch(["the dog"]) == tokenizer.encode_batch(["the dog"])
    ours = train_tokenizer(TokenizerConfig(kind="char"), ["abc"])
    ours.save(tmp_path / "ours.json")
    assert type(load_tokenizer(tmp_path / "ours.json")) is Tokenizer


def test_truncation_and_padding_of_the_file_do_not_count(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                          "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizers_of(f"hf:{folder}")["text"].encode_batch(["the dog sees a cat", "a"]) == [[5, 6, 8, 9, 7], [9]]


def test_rows_without_an_entry_are_counted(tmp_path):
    folder = published_folders.write(tmp_path / "bert", vocab_size=40)
    assert tokenizers_of(f"hf:{folder}")["text"].vocab_size == 40


def test_pairs_have_types(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    config = compose(["task=classification", f"init_from=hf:{folder}"]).config
    tokenizer = tokenizers_of(f"hf:{folder}")["text"]
    task = build_task(config, Vocabulary({"text": tokenizer, "text_b": tokenizer}, ["no", "yes"])).eval()
    seen = {}
    encode = task.model.transformer.encode
    task.model.transformer.encode = lambda text, mask, types=None: (
        seen.update(ids=text, types=types) or encode(text, mask, types=types)
    )
    task.logits(["the dog", "a cat sees"], ["good", "bad film was boring"])
    assert seen["ids"].tolist() == [[1, 9, 7, 8, 2, 15, 16, 17, 22, 2], [1, 5, 6, 2, 14, 2, 0, 0, 0, 0]]
    assert seen["types"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]


# ---- whole runs


def test_a_run_needs_its_folder_no_more(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path / "cache"))
    folder = published_folders.write(tmp_path / "bert")
    paths = [f"data.{split}={rows(tmp_path / f'{split}.tsv', 40)}" for split in ("train", "val", "test")]
    words = ["task=classification", *paths, "data=files", "data.format=tsv", "data.columns=[text,label]",
             "data.roles={text: text, label: label}"]  # fmt: skip
    result = multihead.train([*words, *FEW, f"init_from=hf:{folder}", f"run_dir={tmp_path / 'run'}"])
    shutil.rmtree(folder)
    run = multihead.load(tmp_path / "run")
    assert run.classify("the film was good")["label"] in ("neg", "pos")
    again = multihead.train([f"resume={tmp_path / 'run'}", "trainer.max_steps=3"])
    assert again["steps"] == result["steps"] + 1
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    begun = next(event for event in events if event["event"] == "initialised")
    assert begun["source"] == f"hf:{folder}" and begun["parts"][0]["fresh"] == 0
