"""Hugging Face ``generate`` with Multihead's weights: Pegasus has the same norms, positions and tied embeddings.

Marian, which the benchmark of training has, is the same code with norms after the sums.
"""

import torch
import transformers
from decoding import TestSet, weights
from hf_train import beam_search, sizes
from pace import Pace, settings


def pegasus(s: dict, state: dict[str, torch.Tensor]) -> transformers.PegasusForConditionalGeneration:
    """The model, our parameters in it."""
    model = transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(**sizes(s))).eval()
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    renamed = {"model.shared.weight": state["encoder.embedding.weight"]}
    for name, value in state.items():
        stack, _, rest = name.partition(".")
        if rest.startswith("layers."):
            rest = rest.replace("feed_forward_norm", "final_layer_norm").replace("feed_forward.up", "fc1")
            rest = rest.replace("feed_forward.down", "fc2").replace("cross_attention", "encoder_attn")
            rest = rest.replace("self_attention", "self_attn").replace("attn_norm", "attn_layer_norm")
            for ours, theirs in names.items():
                rest = rest.replace(f".{ours}.", f".{theirs}.")
            renamed[f"model.{stack}.{rest}"] = value
        elif rest.startswith("norm."):
            renamed[f"model.{stack}.layer_{rest}"] = value
    for stack in ("encoder", "decoder"):
        renamed[f"model.{stack}.embed_positions.weight"] = state["sinusoids"]
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    model.tie_weights()
    assert not unexpected, unexpected
    assert all("embed_tokens" in name or "lm_head" in name or "final_logits_bias" in name for name in missing), missing
    return model


def main() -> None:
    """Decodes for as long as the benchmark asks for it."""
    s, folder = settings()
    torch.set_num_threads(s["threads"])
    model = pegasus(s, {name: torch.from_numpy(value) for name, value in weights(folder).items()}).to(s["device"])
    pace = Pace(version=f"transformers {transformers.__version__}", attention=model.config._attn_implementation)
    pace.say(search=f"sorted by length, batches of {s['batch']}, early_stopping=never", threads=torch.get_num_threads())

    TestSet(folder, s["name"]).serve(pace, s["batch"], lambda rows: beam_search(model, s, rows))


if __name__ == "__main__":
    main()
