"""x-transformers' decoder in a plain loop: random windows of the text, as nanoGPT draws them."""

import numpy as np
import torch
import torch.nn.functional as F
from pace import Pace, settings
from torch import nn
from x_transformers import Decoder, TransformerWrapper


def main() -> None:
    """Trains for as long as the benchmark asks for it."""
    from importlib.metadata import version

    s, folder = settings()
    torch.set_num_threads(s["threads"])
    model = TransformerWrapper(
        num_tokens=s["vocab_size"],
        max_seq_len=s["max_len"],
        tie_embedding=True,
        emb_dropout=s["dropout"],
        attn_layers=Decoder(
            dim=s["d_model"],
            depth=s["num_decoder_layers"],
            heads=s["num_heads"],
            attn_dim_head=s["d_model"] // s["num_heads"],
            attn_flash=True,
            ff_mult=s["d_ff"] / s["d_model"],
            layer_dropout=0.0,
            ff_dropout=s["dropout"],
        ),
    ).train()
    ids = torch.from_numpy(np.load(folder / "ids.npy").astype(np.int64))
    optimizer = torch.optim.AdamW(
        model.parameters(), s["lr"], betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0, fused=True
    )
    pace = Pace(version=f"x-transformers {version('x-transformers')}")
    pace.say(parameters=sum(p.numel() for p in model.parameters()), threads=torch.get_num_threads())
    pace.say(batch=f"{s['batch']} random windows, fused AdamW")
    pace.ready()
    block, generator = s["block"], torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(len(ids) - block - 1, (s["batch"],), generator=generator)
        rows = ids[starts[:, None] + torch.arange(block + 1)]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=s["bf16"]):
            logits = model(rows[:, :-1])
        F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), s["clip"])
        optimizer.step()
        pace.step(s["batch"] * block)


if __name__ == "__main__":
    main()
