"""Translators that others trained: their two tokenizers, and runs that start from them, answer, resume and come out."""

import io
import json

import published_folders
import pytest
import torch
from languages import SENTENCES
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend

import multihead
from multihead import cli
from multihead.config.compose import compose
from multihead.config.published import read
from multihead.data.published import load_tokenizer
from multihead.data.sentencepiece import read_pieces, t5_tokenizer
from multihead.errors import CheckpointError
from multihead.exporting import huggingface
from multihead.pretrained.source import read_published, tokenizers_of
from multihead.tasks import build_task
from multihead.text.vocabulary import Vocabulary
from multihead.training.transfer import copy_weights, published_source

ROWS = [("the dog sees a cat", "der hund sieht ein katze"), ("a film was good", "ein film war gut"),
        ("the old man sees it", "der alt mann sieht sie"), ("she was good", "sie war gut")]  # fmt: skip
HOSTILE = [
    "", " ", "  a  b ", "\t", "a\nb", "▁", "▁a", "a▁▁b", "\u3000x", "\u00a0x", "ﬁ ½ ①", "é e\u0301", "か\u3099", "각",
    "ｶﾞ ﾊﾟ ｳﾞ", "👩‍👩‍👧 x", "\ufeffabc", "\u200bz", "x" * 300, "~〜～", "\u202eabc", "شَ", "don’t", "a\x07b",
]  # fmt: skip

NO_BYTES = bytes([26, 7, 16, 128, 128, 128, 128, 128, 32])
"""A normalisation whose map is the whole number 2 ** 40, and not bytes."""


def pairs(path, count):
    """Writes pairs that all differ."""
    lines = []
    for i in range(count):
        words = " ".join(published_folders.WORDS[(i * k) % 21] for k in (1, 5, 7))
        source, target = ROWS[i % len(ROWS)]
        lines.append(f"{source} {words}\t{target} {i % 7}\n")
    path.write_text("".join(lines))
    return path


def test_the_two_tokenizers_of_marian_share_one_vocabulary(tmp_path):
    folder = published_folders.write(tmp_path / "marian", published_folders.MARIAN)
    vocab = json.loads((folder / "vocab.json").read_text())
    found = tokenizers_of(f"hf:{folder}")
    assert list(found) == ["source", "target"]
    assert found["source"].encode_batch(["the  dog ", "xü"]) == [
        [vocab["▁the"], vocab["▁dog"]],
        [vocab["▁"], vocab["<unk>"]],
    ]
    assert found["target"].encode_batch(["der hund"]) == [[vocab["▁der"], vocab["▁hund"]]]
    assert found["source"].encode_batch(["hund"])[0] != [vocab["▁hund"]], "only the target spells it so"
    ids = [vocab[word] for word in ("▁der", "▁hund", "▁dog", "</s>")]
    assert {tokenizer.decode_batch([ids])[0] for tokenizer in found.values()} == {"der hund dog"}
    source = found["source"]
    assert (source.source_start, source.source_end) == ((), (0,))
    assert (found["target"].target_start, found["target"].eos_id) == ((len(vocab) - 1,), 0)
    source.save(tmp_path / "kept.json")
    assert load_tokenizer(tmp_path / "kept.json").encode_batch(["the dog"]) == source.encode_batch(["the dog"])


def test_the_tokenizer_of_t5_has_marks_of_spans_behind_its_pieces(tmp_path):
    folder = published_folders.write(tmp_path / "t5", published_folders.T5, head="vocabulary")
    published = read_published(f"hf:{folder}")
    tokenizer = published.tokenizers["text"]
    pieces = [text for text, _, _ in read_pieces((folder / "spiece.model").read_bytes()).pieces]
    assert tokenizer.vocab[: len(pieces)] == pieces and tokenizer.vocab_size == len(pieces) + 100
    assert tokenizer.encode_batch(["the dog <extra_id_0>"])[0][-1] == len(pieces) + 99
    assert (tokenizer.source_start, tokenizer.source_end, tokenizer.target_start) == ((), (2,), (1,))
    assert (published.options["tie_embeddings"], published.options["output_scale"]) == ("source_target", False)
    assert published.options["num_decoder_layers"] == 2 and published.unused == []
    tied = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(tied))
    assert read(folder).options["output_scale"] and read(folder).options["tie_embeddings"] == "all"


@pytest.mark.filterwarnings("ignore")
def test_pieces_of_pegasus_stand_behind_its_marks(tmp_path):
    folder = published_folders.write(tmp_path / "pegasus", published_folders.PEGASUS, head="vocabulary")
    published = read_published(f"hf:{folder}")
    tokenizer, pieces = published.tokenizers["text"], read_pieces((folder / "spiece.model").read_bytes()).pieces
    assert tokenizer.vocab[:5] == ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>"]
    assert tokenizer.vocab[104:] == ["<unk_102>", *(text for text, _, _ in pieces[2:])]
    the = next(number for number, (text, _, _) in enumerate(pieces) if text == "▁the")
    assert tokenizer.encode_batch(["the <mask_1> §"])[0] == [the + 103, 2, pieces.index(("▁", -4.0, 1)) + 103, 105]
    assert (tokenizer.source_start, tokenizer.source_end, tokenizer.target_start) == ((), (1,), (0,))
    (folder / "spiece.model").write_bytes(published_folders.spm(["a"])[0])
    with pytest.raises(CheckpointError, match="must begin with the pieces <pad> and </s>, as those of Pegasus do"):
        tokenizers_of(f"hf:{folder}")


@pytest.mark.unhurried
@pytest.mark.filterwarnings("ignore")
def test_ids_of_pegasus_are_those_of_transformers(tmp_path):
    transformers, _ = pytest.importorskip("transformers"), pytest.importorskip("sentencepiece")
    folder = published_folders.write(tmp_path / "pegasus", published_folders.PEGASUS)
    theirs, ours = transformers.PegasusTokenizer.from_pretrained(folder), tokenizers_of(f"hf:{folder}")["text"]
    lines = [*(row[0] for row in ROWS), "thedog", "§ 12", "sees it a"]
    assert theirs(lines)["input_ids"] == [[*ids, 1] for ids in ours.encode_batch(lines)]


@pytest.mark.unhurried
@pytest.mark.filterwarnings("ignore")
def test_ids_of_marian_are_those_of_transformers(tmp_path):
    transformers, _ = pytest.importorskip("transformers"), pytest.importorskip("sentencepiece")
    folder = published_folders.write(tmp_path / "marian", published_folders.MARIAN)
    theirs, ours = transformers.MarianTokenizer.from_pretrained(folder), tokenizers_of(f"hf:{folder}")
    extra = ["thedog", " a  Cat? ", "§ 12", "sees it a"]
    for role, word in (("source", "text"), ("target", "text_target")):
        lines = [row[role == "target"] for row in ROWS] + (extra if role == "source" else ["der", "gut  und"])
        marked = [[*ids, 0] for ids in ours[role].encode_batch(lines)]
        assert theirs(**{word: lines})["input_ids"] == marked
        for ids in ours[role].encode_batch(lines):
            plain = [number for number in ids if number != 1]
            assert theirs.decode(plain, skip_special_tokens=True) == ours[role].decode_batch([plain])[0].strip()


@pytest.mark.unhurried
@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "nmt_nfkc"},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"add_dummy_prefix": False, "split_by_whitespace": False},
        {"character_coverage": 0.98, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    ],
    ids=["nmt_nfkc", "identity", "no prefix", "as T5"],
)
def test_ids_are_those_of_sentencepiece(options):
    sentencepiece = pytest.importorskip("sentencepiece")
    lines, file = [*SENTENCES.values(), *(text for row in ROWS for text in row)], io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 3), model_writer=file, vocab_size=220, hard_vocab_limit=False, minloglevel=2,
        **options,
    )  # fmt: skip
    theirs = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
    ours = Backend.from_str(json.dumps(t5_tokenizer(read_pieces(file.getvalue()), 0)))
    for line in [*lines, *HOSTILE]:
        ids = theirs.encode(line)
        assert ours.encode(line, add_special_tokens=False).ids == ids, line
        if theirs.unk_id() not in ids:
            assert ours.decode(ids) == theirs.decode(ids), line


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("source.spm", b"\xff" * 30, r"source.spm: is no tokenizer that we can use: is no model of sentencepiece"),
        ("source.spm", b"", r"is no model of sentencepiece \(it has no pieces\)"),
        ("target.spm", published_folders.spm(["a"])[0][:-2] + b"\x12\x02\x18\x02", r"target.spm: .* must be a unigram"),
        ("source.spm", published_folders.spm(["a"])[0] + NO_BYTES, r"source.spm: is no tokenizer that we can use"),
        ("vocab.json", b'{"a": 0, "<unk>": 2}', r"needs a vocab.json with ids that count from 0"),
        ("vocab.json", b'["a"]', r"needs a vocab.json that maps entries to ids"),
        ("vocab.json", b'{"<unk>": 0}', r"has no entry </s>, which ends a text"),
    ],
)
def test_a_broken_tokenizer_is_refused(tmp_path, file, content, message):
    folder = published_folders.write(tmp_path / "marian", published_folders.MARIAN)
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        tokenizers_of(f"hf:{folder}")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"decoder_ffn_dim": 48}, r"decoder_ffn_dim=48 is not supported; for Marian it must be encoder_ffn_dim=24"),
        ({"normalize_before": True}, r"normalize_before=True is not supported; for Marian it must be False"),
    ],
)
def test_what_a_translator_may_not_have(tmp_path, changes, message):
    folder = published_folders.write(tmp_path / "marian", published_folders.MARIAN)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        read_published(f"hf:{folder}")


def test_an_output_layer_that_is_not_tied_is_refused(tmp_path):
    from safetensors.torch import save_file

    folder = published_folders.write(tmp_path / "marian", published_folders.MARIAN, head="vocabulary")
    found = load_file(folder / "model.safetensors")
    save_file(found | {"lm_head.weight": found["model.shared.weight"].clone()}, folder / "model.safetensors")
    assert read_published(f"hf:{folder}").unused == []
    save_file(found | {"lm_head.weight": found["model.shared.weight"] + 1}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight is not the embedding, although config.json ties them"):
        read_published(f"hf:{folder}")


FEW = ["logger=none", "accelerator=cpu", "data.batch_tokens=200", "data.part_tokens=200", "optim=adamw",
       "trainer.val_every_n_steps=2", "trainer.checkpoint_every_n_steps=2", "trainer.limit_val_examples=4"]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_a_translator_goes_in_learns_resumes_and_comes_out(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path / "cache"))
    folder = published_folders.write(tmp_path / "in", published_folders.MARIAN, head="vocabulary")
    data = ["data=files", "data.format=tsv", f"data.train={pairs(tmp_path / 'train.tsv', 80)}",
            f"data.val={pairs(tmp_path / 'val.tsv', 9)}",
            f"data.test={tmp_path / 'val.tsv'}", "optim.lr=1e-2"]  # fmt: skip
    run_dir = tmp_path / "run"
    words = ["task=translation", *data, *FEW, f"init_from=hf:{folder}", f"run_dir={run_dir}"]
    multihead.train([*words, "trainer.max_steps=2"])
    multihead.train([f"resume={run_dir}", "trainer.max_steps=4"])
    for file in folder.iterdir():
        file.unlink()  # the run has all of it
    run = multihead.load(run_dir)
    sources = ["the dog sees a cat", "a film was good"]
    answers = run.translate(sources, num_beams=4, max_new_tokens=12)
    assert [run.task.model.transformer.encoder.embedding.weight.data_ptr()] == [run.task.model.head.weight.data_ptr()]
    assert run.task.model.head.bias is not None
    assert cli.main(["export", f"run={run_dir}", "to=huggingface", "sentences=3"]) == 0
    transformers = pytest.importorskip("transformers")
    out = run_dir / "export" / "huggingface"
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(out)
    made = model.generate(**tokenizer(sources, return_tensors="pt", padding=True), num_beams=4, max_new_tokens=12)
    assert [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)] == answers


@pytest.mark.parametrize(
    "config", [published_folders.MARIAN, published_folders.T5], ids=lambda config: config["model_type"]
)
def test_in_and_out_again_gives_the_same_bytes(config, tmp_path):
    folder = published_folders.write(tmp_path / "in", config, head="vocabulary")
    config = compose(["task=translation", f"init_from=hf:{folder}"]).config
    source = published_source(config.init_from)
    tokenizers = source.vocab.tokenizers
    roles = {role: tokenizers.get(role) or tokenizers["text"] for role in ("source", "target")}
    task = build_task(config, Vocabulary(roles)).eval()
    assert all(row.fresh == row.resized == 0 for row in copy_weights(task.model, task.vocab, source))
    (tmp_path / "out").mkdir()
    huggingface.write(task, tmp_path / "out", tmp_path)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("changes", [{}, {"model_type": "electra", "embedding_size": 8}], ids=["bert", "electra"])
def test_the_body_of_an_encoder_starts_both_stacks_of_a_translator(changes, tmp_path):
    folder = published_folders.write(tmp_path / "in", published_folders.BERT | changes, head="vocabulary")
    config = compose(["task=translation", f"init_from=hf:{folder}", "accelerator=cpu"]).config
    source = published_source(config.init_from)
    task = build_task(config, Vocabulary(dict.fromkeys(("source", "target"), source.vocab.tokenizers["text"]))).eval()
    rows = {row.part: row for row in copy_weights(task.model, task.vocab, source)}
    assert rows["encoder layers"].fresh == rows["decoder layers"].fresh == 0
    assert rows["decoder layers"].why == "from the encoder" and rows["decoder cross-attention"].copied == 0
    assert rows["head"].fresh == 0, "the head of masked tokens"
    assert (task.source_start, task.source_end, task.start) == ((1,), (2,), (1,))
    assert len(task.translate(["the dog", "a cat sees"], config.decoding)) == 2
