"""Measures the pace of fine-tuning beside ``transformers``' Trainer: the same model, texts, batch and optimizer.

    OMP_NUM_THREADS=1 MULTIHEAD_DATA=... python benchmarks/finetune_pace.py model=FOLDER [rounds=20] [out=FILE]
        [KEY=VALUE ...]

Both train in one process and take turns, one step each, so that other work on the machine slows both alike. With one
thread, seconds are those of the processor. A step is all between two ends of steps: data, forward and backward pass,
clipping, AdamW, and what each Trainer does around them. The Trainer has as many texts in a batch as our steps have on
average. It pads them to the longest of the batch, as `DataCollatorWithPadding` does. Both are in float32 and have the
same dropout. Speeds are tokens of text a second, without padding. The first two steps of each do not count. The words
are those of
``experiment=finetune_classification``; ``lora.r=8`` measures our adapters against the Trainer's whole weights.
"""

import itertools
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import transformers
from processor import now
from rounds import report, split_words

from multihead.config.compose import compose
from multihead.tasks.lightning_module import TaskModule
from multihead.training.build import build_trainer, join, starting
from multihead.training.precision import settle
from multihead.training.steps import Steps
from multihead.training.transfer import copy_weights

OWN = {"model": "", "rounds": 20, "out": ""}
WARM_UP = 2
OURS, THEIRS = "multihead", "transformers.Trainer"


class Turns:
    """Lets two threads work in turn and records what each step took.

    Args:
        names: The contestants; the first one begins.
    """

    def __init__(self, *names: str):
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        self._names, self._turn, self._over = names, names[0], False
        self._changed = threading.Condition()
        self._began = 0.0

    def begin(self, name: str) -> None:
        """Waits for the first turn of a contestant."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == name or self._over)
        self._began = now()

    def end_of_step(self, name: str) -> None:
        """Records a step, lets the other one work, and waits for the next turn."""
        self.seconds[name].append(now() - self._began)
        with self._changed:
            self._turn = next(other for other in self._names if other != name)
            self._changed.notify_all()
        self.begin(name)

    def leave(self) -> None:
        """Lets the other one work without turns."""
        with self._changed:
            self._over = True
            self._changed.notify_all()


class OurTurn(L.Callback):
    """Takes turns after each of our steps, and counts its tokens.

    Args:
        turns: The turns.
    """

    def __init__(self, turns: Turns):
        self.turns, self.tokens = turns, []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.turns.begin(OURS)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        mask = batch["mask"]
        self.tokens.append(batch["text"].numel() if mask is None else int(mask.sum()))
        self.turns.end_of_step(OURS)


class TheirTurn(transformers.TrainerCallback):
    """Takes turns after each step of the Trainer.

    Args:
        turns: The turns.
    """

    def __init__(self, turns: Turns):
        self.turns = turns

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.turns.begin(THEIRS)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.turns.end_of_step(THEIRS)


class Padded:
    """Pads rows as `DataCollatorWithPadding` does, and counts their tokens.

    Args:
        pad: The id of padding.
    """

    def __init__(self, pad: int):
        self.pad, self.tokens = pad, []

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns a batch with ``input_ids`` [B, T], ``attention_mask`` [B, T] and ``labels`` [B]."""
        self.tokens.append(sum(len(row["input_ids"]) for row in rows))
        ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], True, self.pad)
        labels = torch.stack([row["labels"] for row in rows])
        return {"input_ids": ids, "attention_mask": (ids != self.pad).long(), "labels": labels}


def their_trainer(model: str, rows: list[dict[str, Any]], batch: int, pad: int, config: Any, turns: Turns) -> Any:
    """Returns the Trainer, and the collator that counts its tokens."""
    classes = int(max(row["labels"] for row in rows)) + 1
    same = {"attention_probs_dropout_prob": config.model.attention_dropout}  # BERT's word; its file has the rest
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(model, num_labels=classes, **same)
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=batch,
        max_steps=config.trainer.max_steps,
        learning_rate=config.optim.lr,
        weight_decay=config.optim.weight_decay,
        warmup_steps=config.optim.warmup_steps,
        max_grad_norm=config.trainer.gradient_clip_val,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=config.trainer.log_every_n_steps,
    )
    padded = Padded(pad)
    callbacks = [TheirTurn(turns)]
    trainer = transformers.Trainer(theirs, arguments, data_collator=padded, train_dataset=rows, callbacks=callbacks)
    return trainer, padded


def main(argv: list[str]) -> None:
    """Trains both in turn and reports."""
    settings, words = split_words(argv, OWN)
    steps = settings["rounds"] + WARM_UP
    lengths = [f"trainer.{name}={steps}" for name in ("max_steps", "val_every_n_steps", "checkpoint_every_n_steps")]
    model = [f"init_from=hf:{settings['model']}", "accelerator=cpu", "logger=none", "precision=32-true"]
    composition = compose(["experiment=finetune_classification", *model, "optim.warmup_steps=1", *lengths, *words])
    settle(composition)
    prepared, source = starting(composition)
    task, data = join(composition, prepared, 1)
    copy_weights(task.model, prepared.vocab, source)
    encoded = prepared.encoded["classification"]["train"]
    singles = (task.collate(encoded, np.array([index])) for index in range(min(len(encoded), 5000)))
    rows = [{"input_ids": row["text"][0], "labels": row["labels"][0]} for row in singles]
    sample = itertools.islice(data.plan.steps(0), 50)
    batch = round(statistics.fmean(len(step.indices) for step in sample))
    turns = Turns(OURS, THEIRS)
    theirs, padded = their_trainer(settings["model"], rows, batch, task.pad, composition.config, turns)
    other = threading.Thread(target=theirs.train, daemon=True)
    ours = OurTurn(turns)
    other.start()
    with tempfile.TemporaryDirectory() as folder:
        between = Steps(Path(folder), data, composition.config, is_temporary=True)
        build_trainer(composition, between, [], [ours]).fit(TaskModule(task), datamodule=data)
    turns.leave()
    other.join()
    tokens = {OURS: ours.tokens, THEIRS: padded.tokens}
    speeds = {
        name: [count / took for count, took in zip(tokens[name], turns.seconds[name], strict=False)][WARM_UP:steps]
        for name in tokens
    }
    trained = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    about = {
        "words": words,
        "texts_per_batch": batch,
        "trained_parameters": trained,
        "transformers": transformers.__version__,
    }
    about["padding_theirs"] = "to the longest text of a batch"
    report("tokens", speeds, about, settings["out"])


if __name__ == "__main__":
    main(sys.argv[1:])
