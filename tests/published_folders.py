"""Small folders in Hugging Face's layout with random weights, written without ``transformers``."""

import json
import struct

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from multihead.config.model import ModelConfig
from multihead.config.published import read
from multihead.data.sentencepiece import read_pieces
from multihead.model.heads import PooledClassifier, VocabularyHead
from multihead.model.output import OutputTransform
from multihead.pretrained.source import body_of
from multihead.pretrained.target import published_state

WORDS = [
    "the",
    "dog",
    "cat",
    "sees",
    "a",
    "old",
    "man",
    "she",
    "it",
    "good",
    "bad",
    "film",
    "was",
    "is",
    "not",
    "and",
    "very",
    "boring",
    "great",
    "fun",
    "river",
]
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 48,
    "type_vocab_size": 2,
}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48, "eos_token_id": 0}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 48,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

MARIAN = {
    "model_type": "marian",
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 48,
    "activation_function": "swish",
    "scale_embedding": True,
    "eos_token_id": 0,
}
PEGASUS = MARIAN | {"model_type": "pegasus", "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}
PEGASUS |= {"activation_function": "relu"}
T5 = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 6,
    "num_layers": 2,
    "num_heads": 2,
    "d_ff": 24,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "decoder_start_token_id": 1,
}


def tokenizer_of(config):
    """Words between ``[CLS]`` and ``[SEP]``; or of a decoder words, behind ``<s>`` where the model has it."""
    encoder = config["model_type"] not in ("gpt2", "llama", "gpt_neox")
    marks = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"] if encoder else ["<eos>", "<s>", "</s>", "<unk>"]
    vocab = {entry: number for number, entry in enumerate([*marks, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token=marks[3]))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(marks)
    if encoder:
        backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
        special = dict(zip(["pad_token", "cls_token", "sep_token", "unk_token", "mask_token"], marks, strict=True))
    elif config["model_type"] == "llama":
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)]
        )
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        special = {"eos_token": "<eos>", "unk_token": "<unk>"}
    return backend, special, len(vocab)


def write(folder, config=BERT, head="", seed=0, **changes):
    """Writes a folder and returns it; ``head`` adds one over the vocabulary or over classes."""
    folder.mkdir(parents=True, exist_ok=True)
    if config["model_type"] == "marian":
        size = write_marian_tokenizers(folder)
        config = config | {"pad_token_id": size - 1, "decoder_start_token_id": size - 1}
    elif config["model_type"] == "pegasus":
        content, _ = spm(WORDS, [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)])
        (folder / "spiece.model").write_bytes(content)
        size = len(read_pieces(content).pieces) + 103
    elif config["model_type"] == "t5":
        content, _ = spm(WORDS)
        (folder / "spiece.model").write_bytes(content)
        size = len(read_pieces(content).pieces) + 100
    else:
        backend, special, size = tokenizer_of(config)
        backend.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps(special))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size} | changes))
    described = read(folder)
    torch.manual_seed(seed)
    state = {f"transformer.{name}": torch.randn(tensor.shape) * 0.3
             for name, tensor in body_of(described).items()}  # fmt: skip
    state |= {f"head.{name}": torch.randn(shape) * 0.3 for name, shape in head_shapes(described, head).items()}
    save_file(published_state(described, state, prefixed=bool(head)), folder / "model.safetensors")
    return folder


TARGET_WORDS = ["der", "hund", "katze", "sieht", "ein", "alt", "mann", "sie", "gut", "film", "war", "und"]


def spm(words, marks=(("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3))):
    """A model of sentencepiece, written by hand: marks, whole words, their parts, and single letters."""
    letters = sorted({letter for word in words for letter in word})
    pieces = [*marks, ("▁", -4.0, 1)]
    pieces += [("▁" + word, -2.0 - 0.01 * i, 1) for i, word in enumerate(words)]
    pieces += [(letter, -6.0 - 0.01 * i, 1) for i, letter in enumerate(letters)]
    content = b"".join(_message(1, _piece(*piece)) for piece in pieces)
    unknown = next(number for number, (_, _, kind) in enumerate(pieces) if kind == 2)
    trainer = b"\x18\x01" + (bytes([0xC0, 2, unknown]) if unknown else b"")  # unigram, unk_id
    return content + _message(2, trainer) + _message(3, b""), [text for text, _, kind in pieces if kind == 1]


def _piece(text, score, kind):
    return _message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind])


def _message(number, content):
    """A field of a protocol buffer that holds bytes."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def write_marian_tokenizers(folder):
    """``source.spm``, ``target.spm`` and one vocabulary; returns its size."""
    entries = ["</s>", "<unk>"]
    for name, words in (("source.spm", WORDS), ("target.spm", TARGET_WORDS)):
        content, pieces = spm(words)
        (folder / name).write_bytes(content)
        entries += [piece for piece in pieces if piece not in entries]
    entries.append("<pad>")
    (folder / "vocab.json").write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    return len(entries)


def head_shapes(described, head):
    """Names and shapes of a head."""
    model = ModelConfig(**described.options)
    if head == "classes":
        classes = len(described.content["id2label"])
        made = PooledClassifier(model.d_model, classes, "first", 0.0, activation="tanh")
    elif head == "vocabulary":
        transform = OutputTransform(model) if model.output_transform else None
        made = VocabularyHead(model.width_of_embeddings, described.vocab_size, None, model.output_bias, transform)
    else:
        return {}
    shapes = {name: parameter.shape for name, parameter in made.named_parameters()}
    if head == "vocabulary" and model.tie_embeddings in ("target_output", "all"):
        del shapes["weight"]
    return shapes
