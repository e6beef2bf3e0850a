"""A folder that is broken, truncated, hostile or incomplete is refused in one line that says what and where."""

import json
import pickle
from pathlib import Path

import published_folders
import pytest
import torch
from safetensors.torch import load_file, save_file

from multihead.config.compose import compose
from multihead.errors import MultiheadError
from multihead.pretrained.source import read_published


def config(**changes):
    """Changes ``config.json``."""

    def change(folder):
        content = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(content))

    return change


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def tensors(change):
    """Changes the tensors."""

    def changed(folder):
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return changed


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index(*names, gone=True):
    """Shards instead of one file, named by an index."""

    def change(folder):
        found = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        content = {"weight_map": dict.fromkeys(found, names[0]) | {next(iter(found)): names[-1]}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
        if not gone:
            save_file(found, folder / names[0])

    return change


class Hostile:
    """Unpickled, it would write a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Hostile(folder / "ran")}))


def pickled_by_torch(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"x": Hostile(folder / "ran")}, folder / "pytorch_model.bin")


def no_state_dict(folder):
    (folder / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")


def wide(found):
    found["embeddings.LayerNorm.weight"] = torch.ones(17)


def without_a_layer(found):
    for name in [name for name in found if ".layer.1." in name]:
        del found[name]


def tokenizer(change):
    """Changes ``tokenizer.json``."""

    def changed(folder):
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return changed


CASES = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config.json: is missing"),
    "config is no JSON": (write("config.json", "{"), r"config.json: cannot be read"),
    "config is a list": (
        write("config.json", "[]"),
        r"model_type=None is not supported; supported are bert, ",
    ),
    "another family": (config(model_type="whisper"), r"model_type='whisper' is not supported; supported are bert, "),
    "another mechanism": (
        config(position_embedding_type="relative_key"),
        r"position_embedding_type='relative_key' is not supported; for BERT it must be 'absolute'",
    ),
    "unknown activation": (config(hidden_act="maxout"), r"hidden_act='maxout' is not supported; supported are gelu, "),
    "a width for exhausting memory": (
        config(hidden_size=10**12),
        r"hidden_size must be a whole number from 1 to 65,536",
    ),
    "a depth for exhausting memory": (config(num_hidden_layers=10**9), r"num_hidden_layers must be a whole number"),
    "a vocabulary that is none": (config(vocab_size="26"), r"vocab_size must be a whole number .*, got '26'"),
    "heads that do not divide the width": (config(num_attention_heads=3), r"describes no model: must be a divisor"),
    "truncated weights": (truncated, r"model.safetensors: cannot be loaded"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"has neither model.safetensors nor"),
    "half of the weights": (
        tensors(without_a_layer),
        r"lacks 16 tensors of the model, for example encoder.layer.1.attention.self.q",
    ),
    "another shape": (
        tensors(wide),
        r"embeddings.LayerNorm.weight has the shape \(17,\), but config.json expects \(16,\)",
    ),
    "a larger vocabulary in config.json": (config(vocab_size=100_000), r"the shape \(26, 16\), but .* \(100000, 16\)"),
    "a pickle that runs code": (pickled, r"pytorch_model.bin: cannot be loaded as tensors only"),
    "a pickle of torch that runs code": (pickled_by_torch, r"pytorch_model.bin: cannot be loaded as tensors only"),
    "a pickle without a state dict": (no_state_dict, r"pytorch_model.bin: holds no state dict of tensors"),
    "a shard that is missing": (index("model-1-of-2.safetensors"), r"names model-1-of-2.safetensors, which is missing"),
    "a shard outside of the folder": (index("../other.safetensors"), r"names '../other.safetensors', which is not a"),
    "a shard with an absolute name": (
        index("/etc/passwd"),
        r"names '/etc/passwd', which is not a safetensors file in the same",
    ),
    "an index without a map": (
        lambda folder: [(folder / "model.safetensors").unlink(), write("model.safetensors.index.json", "{}")(folder)],
        r"must hold a weight_map",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        r"tokenizer.json: is missing, .*AutoTokenizer",
    ),
    "a damaged tokenizer": (tokenizer(lambda content: content.pop("model")), r"tokenizer.json: is no tokenizer that"),
    "a tokenizer of another model": (
        lambda folder: [config(vocab_size=20)(folder), tensors(small)(folder)],
        r"has ids up to 25, but the model has only 20 rows",
    ),
    "a tokenizer without marks": (
        lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
        r"must have an eos_token or a sep_token",
    ),
}


def test_a_stretch_of_rotary_positions_that_we_do_not_have(tmp_path):
    folder = published_folders.write(tmp_path / "llama", published_folders.LLAMA)
    config(rope_scaling={"type": "yarn", "factor": 4.0})(folder)
    with pytest.raises(MultiheadError, match=r"scales rotary positions .*'yarn'.*, which Multihead does not support"):
        read_published(f"hf:{folder}")


def small(found):
    found["embeddings.word_embeddings.weight"] = found["embeddings.word_embeddings.weight"][:20].clone()


@pytest.mark.parametrize("name", CASES)
def test_a_broken_folder_is_refused_in_one_line(name, tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    change, message = CASES[name]
    change(folder)
    with pytest.raises(MultiheadError, match=message) as caught:
        compose(["task=classification", f"init_from=hf:{folder}"])
        read_published(f"hf:{folder}")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not (folder / "ran").exists()


def test_shards_and_tied_copies_are_read(tmp_path):
    folder = published_folders.write(tmp_path / "bert", head="vocabulary")
    whole = read_published(f"hf:{folder}").state
    found = load_file(folder / "model.safetensors")
    found["cls.predictions.decoder.weight"] = found["bert.embeddings.word_embeddings.weight"].clone()
    (folder / "model.safetensors").unlink()
    names = list(found)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: found[name] for name in members}, folder / file)
    weight_map = {name: file for file, members in parts.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    published = read_published(f"hf:{folder}")
    assert all(torch.equal(tensor, published.state[name]) for name, tensor in whole.items())
    assert published.unused == []


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_tensors_is_read(tmp_path, zipped):
    folder = published_folders.write(tmp_path / "bert")
    whole = read_published(f"hf:{folder}").state
    torch.save(
        load_file(folder / "model.safetensors"), folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped
    )
    (folder / "model.safetensors").unlink()
    assert all(torch.equal(t, whole[name]) for name, t in read_published(f"hf:{folder}").state.items())


def test_weights_in_half_precision_become_float32(tmp_path):
    folder = published_folders.write(tmp_path / "bert")
    found = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in found.items()}, folder / "model.safetensors")
    assert {tensor.dtype for tensor in read_published(f"hf:{folder}").state.values()} == {torch.float32}
