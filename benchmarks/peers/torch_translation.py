"""A plain loop around `torch.nn.Transformer`, as in tutorials: shuffled sentences, padded to the longest of a batch."""

import math

import torch
import torch.nn.functional as F
from decoding import in_batches, until_end
from pace import Pace, settings
from pairs import Pairs, padded
from torch import Tensor, nn


class PlainTransformer(nn.Module):
    """PyTorch's own Transformer with one embedding table for source, target and output."""

    def __init__(self, s: dict):
        super().__init__()
        self.embedding = nn.Embedding(s["vocab_size"], s["d_model"])
        nn.init.normal_(self.embedding.weight, std=s["d_model"] ** -0.5)
        self.register_buffer("positions", sinusoids(s["max_len"], s["d_model"]))
        self.dropout = nn.Dropout(s["dropout"])
        self.transformer = nn.Transformer(
            s["d_model"],
            s["num_heads"],
            s["num_encoder_layers"],
            s["num_decoder_layers"],
            s["d_ff"],
            s["dropout"],
            batch_first=True,
            norm_first=True,
        )
        for module in self.transformer.modules():  # dropout where Multihead has it
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
            elif isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
                module.dropout.p = 0.0

    def forward(self, source: Tensor, target: Tensor, pad: int) -> Tensor:
        """Logits [B, T, V]."""
        hides = source == pad
        return self.decode(target, self.encode(source, hides), hides)

    def encode(self, source: Tensor, hides: Tensor) -> Tensor:
        """The memory [B, S, D]; padding is True in ``hides`` [B, S]."""
        return self.transformer.encoder(self._embed(source), src_key_padding_mask=hides)

    def decode(self, target: Tensor, memory: Tensor, hides: Tensor) -> Tensor:
        """Logits [B, T, V]."""
        hidden = self.transformer.decoder(
            self._embed(target),
            memory,
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.size(1), dtype=torch.bool),
            tgt_is_causal=True,
            memory_key_padding_mask=hides,
        )
        return F.linear(hidden, self.embedding.weight)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.dropout(
            self.embedding(ids) * math.sqrt(self.embedding.embedding_dim) + self.positions[: ids.size(1)]
        )


def sinusoids(length: int, width: int) -> Tensor:
    """The table [length, width] of section 3.5 of the paper."""
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)


@torch.inference_mode()
def greedy(model: PlainTransformer, s: dict, rows: list[list[int]]) -> list[list[int]]:
    """Target ids of source ids, both without marks: the most probable token, again and again."""
    source = torch.from_numpy(padded(rows, [], [s["eos"]], s["pad"]))
    target, hides = torch.full((len(rows), 1), s["bos"]), source == s["pad"]
    memory = model.encode(source, hides)
    for _ in range(2 * max(map(len, rows)) + 10):
        target = torch.cat((target, model.decode(target, memory, hides)[:, -1:].argmax(-1)), dim=1)
        if bool((target == s["eos"]).any(1).all()):
            break
    return [until_end(row[1:], s["eos"], [s["pad"], s["bos"]]) for row in target.tolist()]


def main() -> None:
    """Trains for as long as the benchmark asks for it."""
    s, folder = settings()
    torch.set_num_threads(s["threads"])
    pairs, model = Pairs(folder), PlainTransformer(s).train()
    optimizer = torch.optim.AdamW(model.parameters(), s["lr"], betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0)
    pace = Pace(version=f"torch {torch.__version__}", parameters=sum(p.numel() for p in model.parameters()))
    pace.say(batch=f"{s['batch']} shuffled sentences", threads=torch.get_num_threads())

    def translate(rows: list[list[int]]) -> list[list[int]]:
        model.eval()
        outputs = in_batches(rows, lambda some: greedy(model, s, some))
        model.train()
        return outputs

    warmup, pace.translate = s.get("warmup", 0), translate
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (warmup / (step + 1)) ** 0.5) if warmup else 1.0
    )
    pace.ready()
    for rows in pairs.batches(s["batch"]):
        source = torch.from_numpy(padded([pairs.source[i] for i in rows], [], [s["eos"]], s["pad"]))
        target = torch.from_numpy(padded([pairs.target[i] for i in rows], [s["bos"]], [], s["pad"]))
        labels = torch.from_numpy(padded([pairs.target[i] for i in rows], [], [s["eos"]], -100))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=s["bf16"]):
            logits = model(source, target, s["pad"])
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=s.get("label_smoothing", 0.0)
        )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), s["clip"])
        optimizer.step()
        scheduler.step()
        pace.step(int((labels >= 0).sum()))


if __name__ == "__main__":
    main()
