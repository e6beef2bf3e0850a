"""Hugging Face's Trainer: a Marian model for translation, GPT-2 for language modelling, both from scratch."""

import tempfile
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from decoding import in_batches, until_end
from pace import Pace, settings
from pairs import Pairs
from torch.utils.data import Dataset


class PairDataset(Dataset):
    """Pairs as the examples of `DataCollatorForSeq2Seq`, end marks on."""

    def __init__(self, pairs: Pairs, eos: int):
        self.rows = [
            {"input_ids": [*map(int, s), eos], "labels": [*map(int, t), eos], "length": max(len(s), len(t)) + 1}
            for s, t in zip(pairs.source, pairs.target, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return {key: self.rows[index][key] for key in ("input_ids", "labels")}


class BlockDataset(Dataset):
    """Blocks of running text, cut as the example script for causal language modelling cuts them."""

    def __init__(self, ids: np.ndarray, block: int):
        self.blocks = torch.from_numpy(ids[: len(ids) // block * block].astype(np.int64)).view(-1, block)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> dict:
        return {"input_ids": self.blocks[index], "labels": self.blocks[index]}


class Collator:
    """Pads as `DataCollatorForSeq2Seq` does (source with pad, labels with -100), and makes the decoder's input."""

    def __init__(self, model: transformers.MarianMTModel, pad: int):
        self.model, self.pad = model, pad

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        stack = lambda key, fill: torch.nn.utils.rnn.pad_sequence(  # noqa: E731
            [torch.tensor(example[key]) for example in examples], True, fill
        )
        source, labels = stack("input_ids", self.pad), stack("labels", -100)
        decoder = self.model.prepare_decoder_input_ids_from_labels(labels=labels)
        return {
            "input_ids": source,
            "attention_mask": (source != self.pad).long(),
            "labels": labels,
            "decoder_input_ids": decoder,
        }


class Paced(transformers.TrainerCallback):
    """Pauses the loop between two steps."""

    def __init__(self, pace: Pace):
        self.pace, self.tokens, self.started = pace, 0, False

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if not self.started:
            self.started = True
            self.pace.ready()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        tokens, self.tokens = self.tokens, 0
        self.pace.step(tokens)


def sizes(s: dict) -> dict:
    """The words of an encoder-decoder's configuration: our sizes, dropout and marks."""
    return {
        "vocab_size": s["vocab_size"],
        "d_model": s["d_model"],
        "encoder_layers": s["num_encoder_layers"],
        "decoder_layers": s["num_decoder_layers"],
        "encoder_attention_heads": s["num_heads"],
        "decoder_attention_heads": s["num_heads"],
        "encoder_ffn_dim": s["d_ff"],
        "decoder_ffn_dim": s["d_ff"],
        "max_position_embeddings": s["max_len"],
        "activation_function": "relu",
        "dropout": s["dropout"],
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": True,
        "pad_token_id": s["pad"],
        "bos_token_id": s["bos"],
        "eos_token_id": s["eos"],
        "decoder_start_token_id": s["bos"],
        "forced_eos_token_id": None,
    }


def marian(s: dict) -> transformers.MarianMTModel:
    """Marian of our sizes: one embedding for source, target and output, sinusoids, norms after the sums."""
    return transformers.MarianMTModel(transformers.MarianConfig(**sizes(s), use_cache=False))


def gpt2(s: dict) -> transformers.GPT2LMHeadModel:
    """GPT-2 of our sizes."""
    config = transformers.GPT2Config(
        vocab_size=s["vocab_size"],
        n_positions=s["max_len"],
        n_embd=s["d_model"],
        n_layer=s["num_decoder_layers"],
        n_head=s["num_heads"],
        n_inner=s["d_ff"],
        activation_function="gelu",
        resid_pdrop=s["dropout"],
        embd_pdrop=s["dropout"],
        attn_pdrop=0.0,
        use_cache=False,
    )
    return transformers.GPT2LMHeadModel(config)


@torch.inference_mode()
def beam_search(model: transformers.PreTrainedModel, s: dict, rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Target ids of source ids, both without marks, by ``generate``; ended where no other beam can become better."""
    source = torch.nn.utils.rnn.pad_sequence([torch.tensor([*row, s["eos"]]) for row in rows], True, s["pad"])
    source = source.to(model.device)
    outputs = model.generate(
        input_ids=source,
        attention_mask=(source != s["pad"]).long(),
        num_beams=s["num_beams"],
        length_penalty=s.get("length_penalty", 1.0),
        early_stopping="never",
        max_new_tokens=2 * max(map(len, rows)) + 10,
        do_sample=False,
        use_cache=True,
        suppress_tokens=s.get("forbidden"),
    )
    return [until_end(row[1:], s["eos"], [s["pad"]]) for row in outputs.tolist()]


def main() -> None:
    """Trains for as long as the benchmark asks for it."""
    s, folder = settings()
    torch.set_num_threads(s["threads"])
    lm = s["task"] == "lm"
    model = gpt2(s) if lm else marian(s)
    data = BlockDataset(np.load(folder / "ids.npy"), s["block"]) if lm else PairDataset(Pairs(folder), s["eos"])
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    paced = Paced(Pace(version=f"transformers {transformers.__version__}", parameters=trained))
    batch, grouped = s["batch"], s.get("group_by_length", False)
    paced.pace.say(batch=f"{batch} {'blocks' if lm else 'sentences'}{', group_by_length' if grouped else ''}")
    paced.pace.say(threads=torch.get_num_threads(), attention=model.config._attn_implementation)
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        max_steps=s.get("horizon", 1_000_000),
        learning_rate=s["lr"],
        adam_beta2=0.98,
        adam_epsilon=1e-9,
        max_grad_norm=s["clip"],
        bf16=s["bf16"],
        lr_scheduler_type="inverse_sqrt" if s.get("warmup") and not s.get("horizon") else "linear",
        warmup_steps=s.get("warmup", 0),
        label_smoothing_factor=s.get("label_smoothing", 0.0),
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        train_sampling_strategy="group_by_length" if grouped else "random",
        length_column_name="length",
    )
    collator = transformers.default_data_collator if lm else Collator(model, s["pad"])
    trainer = CountingTrainer(
        model=model, args=arguments, train_dataset=data, data_collator=collator, callbacks=[paced]
    )
    trainer.paced = paced

    def translate(rows: list[list[int]]) -> list[list[int]]:
        model.eval()
        outputs = in_batches(rows, lambda some: beam_search(model, s, some))
        model.train()
        return outputs

    paced.pace.translate = translate
    trainer.train()
    paced.pace.finish()


class CountingTrainer(transformers.Trainer):
    """Counts target tokens, and tells the sampler the lengths, which it finds only in a `datasets.Dataset`."""

    def training_step(self, model, inputs, *rest):
        labels = inputs["labels"]  # of blocks, GPT-2 does not score the first token
        self.paced.tokens += (
            labels.numel() - len(labels) if "decoder_input_ids" not in inputs else int((labels != -100).sum())
        )
        return super().training_step(model, inputs, *rest)

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        from transformers.trainer_pt_utils import LengthGroupedSampler

        lengths = [row["length"] for row in self.train_dataset.rows]
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths)


if __name__ == "__main__":
    main()
