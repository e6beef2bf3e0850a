"""JoeyNMT (Kreutzer et al. 2019, arXiv:1907.12484) by its own loop, with the same tokens as words of a file."""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from decoding import in_batches, until_end
from joeynmt.search import search as joey_search
from joeynmt.training import TrainManager, train
from pace import Pace, settings
from pairs import Pairs


def write(folder: Path, pairs: Pairs, vocab_size: int, marks: list[int]) -> None:
    """Text files with one word per id, and the vocabulary without our marks, which JoeyNMT has of its own."""
    for side, rows in (("src", pairs.source), ("trg", pairs.target)):
        lines = (" ".join(f"t{i}" for i in row) for row in rows)
        (folder / f"train.{side}").write_text("\n".join(lines) + "\n")
        (folder / f"dev.{side}").write_text("t50 t51\n" * 10)
    words = [f"t{i}" for i in range(vocab_size) if i not in marks]
    (folder / "vocab.txt").write_text("\n".join(["<unk>", "<pad>", "<s>", "</s>", *words]) + "\n")


def stack(s: dict, layers: int) -> dict:
    """An encoder or a decoder of our sizes: norms before the sub-layers."""
    return {
        "type": "transformer",
        "num_layers": layers,
        "num_heads": s["num_heads"],
        "embeddings": {"embedding_dim": s["d_model"], "scale": True, "dropout": s["dropout"]},
        "hidden_size": s["d_model"],
        "ff_size": s["d_ff"],
        "dropout": s["dropout"],
        "layer_norm": "pre",
    }


def side(folder: Path, name: str) -> dict:
    """The data of one side."""
    return {
        "lang": name,
        "level": "word",
        "voc_file": str(folder / "vocab.txt"),
        "lowercase": False,
        "max_length": 1000,
    }


def configuration(s: dict, folder: Path) -> dict:
    """What JoeyNMT would read from its YAML file."""
    model = {
        "initializer": "xavier_uniform",
        "tied_embeddings": True,
        "tied_softmax": True,
        "encoder": stack(s, s["num_encoder_layers"]),
        "decoder": stack(s, s["num_decoder_layers"]),
    }
    training = {
        "optimizer": "adamw",
        "adam_betas": [0.9, 0.98],
        "learning_rate": s["lr"],
        "scheduling": "warmupinversesquareroot" if s.get("warmup") else "noam",
        "learning_rate_warmup": s.get("warmup", 4000),
        "label_smoothing": s.get("label_smoothing", 0.0),
        "clip_grad_norm": s["clip"],
        "normalization": "tokens",
        "batch_size": s["batch"],
        "batch_type": "token",
        "epochs": 1_000_000,
        "validation_freq": 100_000_000,
        "logging_freq": 100,
        "learning_rate_min": 0.0,
    }
    train_prefix, dev_prefix = str(folder / "train"), str(folder / "dev")
    data = {"train": train_prefix, "dev": dev_prefix, "dataset_type": "plain", "src": side(folder, "src")}
    return {
        "name": "contest",
        "joeynmt_version": "2.3.0",
        "model_dir": str(folder / "model"),
        "use_cuda": False,
        "fp16": False,
        "random_seed": 42,
        "data": data | {"trg": side(folder, "trg")},
        "testing": {"beam_size": 1},
        "training": training,
        "model": model,
    }


@torch.inference_mode()
def beam_search(
    model: torch.nn.Module, s: dict, rows: Sequence[Sequence[int]], places: Sequence[int], alpha: float = -1.0
) -> list[list[int]]:
    """Our target ids of our source ids, both without marks; ``places`` are our ids in the order of theirs."""
    theirs: Mapping[int, int] = {ours: number for number, ours in enumerate(places)}
    source = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor([theirs[i] for i in [*row, s["eos"]]]) for row in rows], True, theirs[s["pad"]]
    )
    lengths = torch.tensor([len(row) + 1 for row in rows])
    batch = SimpleNamespace(src=source, src_length=lengths, src_mask=(source != theirs[s["pad"]]).unsqueeze(1))
    batch.has_trg, batch.trg_prompt_mask = False, None
    outputs, _, _ = joey_search(model, batch, 2 * max(map(len, rows)) + 10, s["num_beams"], alpha)
    return [until_end([places[token] for token in row], s["eos"], [s["pad"]]) for row in outputs.tolist()]


def main() -> None:
    """Trains for as long as the benchmark asks for it."""
    s, folder = settings()
    torch.set_num_threads(s["threads"])
    logging.disable(logging.WARNING)
    here = Path(tempfile.mkdtemp())
    os.mkdir(here / "model")
    write(here, Pairs(folder), s["vocab_size"], [s["pad"], s["bos"], s["eos"]])
    pace, original, tokens = Pace(version="joeynmt 2.3.0"), TrainManager._train_step, []

    marks = [s["pad"], s["bos"], s["eos"]]
    places = [-1, *marks, *(i for i in range(s["vocab_size"]) if i not in marks)]  # -1: their <unk>, which ours is not

    def translate(model: torch.nn.Module, rows: list[list[int]]) -> list[list[int]]:
        model.eval()
        outputs = in_batches(rows, lambda some: beam_search(model, s, some, places, alpha=1.0), 32)
        model.train()
        return [[token for token in row if token >= 0] for row in outputs]

    def paced(self: TrainManager, batch: object) -> tuple:
        """A step begins where the one before has ended."""
        if tokens:
            pace.step(tokens.pop())
        else:
            for module in self.model.modules():  # dropout where Multihead has it
                if type(module).__name__ == "MultiHeadedAttention":
                    module.dropout.p = 0.0
                elif type(module).__name__ == "PositionwiseFeedForward":
                    module.pwff_layer[2].p = 0.0
            pace.say(parameters=sum(p.numel() for p in self.model.parameters()), threads=torch.get_num_threads())
            pace.say(batch=f"{s['batch']} tokens with padding (batch_type: token)")
            pace.translate = lambda rows: translate(self.model, rows)
            pace.ready()
        tokens.append(int(batch.ntokens))
        return original(self, batch)

    TrainManager._train_step = paced
    train(0, 1, configuration(s, here), skip_test=True)


if __name__ == "__main__":
    main()
