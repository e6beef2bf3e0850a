"""JoeyNMT's beam search with Multihead's weights."""

from types import SimpleNamespace

import torch
from decoding import TestSet, weights
from joeynmt.model import build_model
from joeynmt.vocabulary import Vocabulary
from joeynmt_translation import beam_search, stack
from pace import Pace, settings
from torch import nn


def build(s: dict, state: dict[str, torch.Tensor], places: list[int]) -> nn.Module:
    """The model, our parameters in it; ``places`` are our ids in the order of theirs."""
    marks = {"unk_id": 0, "unk_token": "<unk>", "pad_id": 1, "pad_token": "<pad>", "bos_id": 2, "bos_token": "<s>"}
    marks |= {"eos_id": 3, "eos_token": "</s>", "sep_id": None, "sep_token": None, "lang_tags": []}
    vocabulary = Vocabulary([f"t{i}" for i in places[4:]], SimpleNamespace(**marks))
    config = {"initializer": "xavier_uniform", "tied_embeddings": True, "tied_softmax": True}
    config |= {"encoder": stack(s, s["num_encoder_layers"]), "decoder": stack(s, s["num_decoder_layers"])}
    model = build_model(config, src_vocab=vocabulary, trg_vocab=vocabulary).eval()
    renamed = {"src_embed.lut.weight": state["encoder.embedding.weight"][places]}
    renamed["trg_embed.lut.weight"] = renamed["decoder.output_layer.weight"] = renamed["src_embed.lut.weight"]
    names = {"query": "q_layer", "key": "k_layer", "value": "v_layer", "output": "output_layer"}
    norms = {"encoder": {"self_attention_norm": "layer_norm"},
             "decoder": {"self_attention_norm": "x_layer_norm", "cross_attention_norm": "dec_layer_norm"}}  # fmt: skip
    for name, value in state.items():
        side, _, rest = name.partition(".")
        if rest.startswith("layers."):
            for ours, theirs in norms[side].items():
                rest = rest.replace(ours, theirs)
            rest = rest.replace("feed_forward_norm", "feed_forward.layer_norm")
            rest = rest.replace("feed_forward.up", "feed_forward.pwff_layer.0").replace(
                "feed_forward.down", "feed_forward.pwff_layer.3"
            )
            rest = rest.replace("cross_attention", "src_trg_att")
            rest = rest.replace("self_attention", "src_src_att" if side == "encoder" else "trg_trg_att")
            for ours, theirs in names.items():
                rest = rest.replace(f".{ours}.", f".{theirs}.")
            renamed[f"{side}.{rest}"] = value
        elif rest.startswith("norm."):
            renamed[f"{side}.layer_{rest}"] = value
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected and all(name.endswith("pe.pe") for name in missing), (missing, unexpected)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5  # as in Multihead
    return model


def main() -> None:
    """Decodes for as long as the benchmark asks for it."""
    s, folder = settings()
    torch.set_num_threads(s["threads"])
    own = [s["pad"], s["bos"], s["eos"]]
    places = [s["unk"], *own, *(i for i in range(s["vocab_size"]) if i not in (*own, s["unk"]))]
    state = {name: torch.from_numpy(value) for name, value in weights(folder).items() if name != "sinusoids"}
    model = build(s, state, places)
    pace = Pace(version="joeynmt 2.3.0", threads=torch.get_num_threads())
    pace.say(search=f"sorted by length, batches of {s['batch']}")

    TestSet(folder, s["name"]).serve(pace, s["batch"], lambda rows: beam_search(model, s, rows, places))


if __name__ == "__main__":
    main()
