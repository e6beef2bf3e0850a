"""Builds the parts of a run: its data, ready for the task, the task, and Lightning's Trainer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead import capabilities
from multihead.config.compose import Composition
from multihead.config.data import SPLITS
from multihead.config.published import is_published
from multihead.config.roles import roles_of
from multihead.config.training import Config
from multihead.data.encode import Encoded, apply_overlong
from multihead.data.prepare import Prepared, prepare, recut_train
from multihead.data.stream import Stream
from multihead.ranks import world_size
from multihead.runs.directory import run_directory, starting_vocab
from multihead.training.launch import devices

if TYPE_CHECKING:
    import lightning as L

    from multihead.data.lightning_module import TrainingData
    from multihead.data.module import TaskData
    from multihead.tasks.base import EvaluationData, Task
    from multihead.text.vocabulary import Vocabulary
    from multihead.training.steps import Steps
    from multihead.training.transfer import Source

log = logging.getLogger("multihead")


NEVER = 10**12
"""Batches between validations by Lightning; `multihead.training.steps.Steps` validates."""


def join(composition: Composition, prepared: Prepared, ranks: int) -> tuple[Task, TrainingData]:
    """Builds the task and the data module, which uses the task's pure functions.

    Raises:
        ConfigError: If model, data and sizes of batches do not fit each other.
        DataError: If texts are too long and data.overlong=error.
    """
    import lightning as L

    from multihead.data.lightning_module import TrainingData
    from multihead.model.kernels import keep_freed_memory
    from multihead.tasks import build_task

    keep_freed_memory()
    capabilities.limit_threads()
    config = composition.config
    L.seed_everything(config.seed, verbose=False)
    task = build_task(config, prepared.vocab, composition.plugin, evaluation_data(prepared))
    for name, member in task.members().items():
        member.start_from(prepared.encoded[name]["train"])
    choose_trained(task, config)
    if config.compile:
        task.model.transformer.compile_layers()
    if config.trainer.activation_checkpointing:
        task.model.transformer.recompute_layers()
    data = TrainingData(
        {name: source_of(config, task.member(name), prepared) for name in prepared.texts},
        config.data,
        seed=config.seed,
        accumulate=config.trainer.accumulate_grad_batches,
        temperature=getattr(config.task, "temperature", 1.0),
        skipped=prepared.skipped,
    )
    data.accumulation(ranks)
    return task, data


def choose_trained(task: Task, config: Config) -> None:
    """Puts adapters into the model if ``lora.r`` asks for them, and freezes what ``optim.freeze`` names.

    Raises:
        ConfigError: If a name matches nothing, or if all parameters are frozen.
    """
    from multihead.model.lora import adapt
    from multihead.model.optim import freeze

    adapt(task.model, config.lora)
    freeze(task.model.named_parameters(remove_duplicate=False), config.optim.freeze)


def evaluation_data(prepared: Prepared) -> dict[str, EvaluationData]:
    """The texts on which each task of the run is validated and tested, by its name."""
    from multihead.tasks.base import EvaluationData

    found: dict[str, EvaluationData] = {}
    for name, text in prepared.texts.items():
        evaluated = {split: prepared.encoded[name][split] for split in ("val", "test") if split in text.lines}
        streams = {split: ids for split, ids in evaluated.items() if isinstance(ids, Stream)}
        rows = text.corpus.splits if text.corpus is not None and not text.lines else {}
        columns = {split: rows[split].columns for split in ("val", "test") if split in rows}
        found[name] = EvaluationData(columns, streams, prepared.unknown.get(name, {}))
    return found


def source_of(config: Config, task: Task, prepared: Prepared) -> TaskData:
    """The data of one task, without what is too long for it, and the functions that make batches of them."""
    from multihead.data.module import TaskData

    name, encoded = task.settings.name, {}
    text = prepared.texts[name]
    for split, ids in prepared.encoded[name].items():
        encoded[split] = ids
        if isinstance(ids, Encoded):
            origin = text.corpus.splits[split].origin
            encoded[split], note = apply_overlong(ids, task.limits(), config.data.overlong, origin=origin, split=split)
            prepared.notes += [note] if note else []
    return TaskData(encoded, task.lengths, task.targets, task.collate)


def _vocab(config: Config, resumed: Path | None) -> Vocabulary | None:
    """The tokenizers and classes of the run that is resumed, or from which this one starts; None if there is none."""
    if resumed is not None:
        return starting_vocab(resumed)
    if config.init_from and config.init_tokenizer == "same":
        from multihead.pretrained.source import tokenizers_of
        from multihead.text.vocabulary import Vocabulary
        from multihead.training.transfer import tokenizers_from

        found = [role for task in config.task.members().values() for role in roles_of(config.data, task)]
        roles = list(dict.fromkeys(role for role in found if role != "label"))
        if is_published(config.init_from):
            published = tokenizers_of(config.init_from)
            return Vocabulary({role: published.get(role, next(iter(published.values()))) for role in roles})
        return Vocabulary(tokenizers_from(run_directory(config.init_from, "init_from"), roles))
    return None


def _source(config: Config) -> Source:
    """The run from which this one starts.

    Raises:
        ConfigError: If its layers have another size.
    """
    from multihead.training.transfer import check_same, published_source, read_source

    if is_published(config.init_from):
        source = published_source(config.init_from)
    else:
        source = read_source(run_directory(config.init_from, "init_from"))
    check_same(config.model, source)
    return source


def starting(composition: Composition, resumed: Path | None = None) -> tuple[Prepared, Source | None]:
    """The data, ready for the task, and the run from whose weights this one starts, if there is one.

    Args:
        composition: The configuration.
        resumed: The run that is resumed; its tokenizers and classes are kept.
    """
    config = composition.config
    source = _source(config) if config.init_from and resumed is None else None
    prepared = prepare(composition, SPLITS, _vocab(config, resumed))
    recut_train(config, prepared)
    return prepared, source


def build_trainer(
    composition: Composition, steps: Steps, loggers: list[Any], callbacks: Sequence[Any] = ()
) -> L.Trainer:
    """Builds Lightning's Trainer; `multihead.training.steps.Steps` does validation, checkpoints and signals."""
    import lightning as L

    from multihead.runs.loggers import SamplesFile
    from multihead.runs.progress import Progress
    from multihead.training.averaging import averaging
    from multihead.training.profiling import StepProfiler

    capabilities.limit_kernel_caches()
    config, plugin = composition.config, composition.plugin
    profiler = StepProfiler(steps) if config.trainer.profile_steps else None
    added = [make() for make in plugin.callbacks.values()] if plugin else []
    return L.Trainer(
        **devices(config),
        max_steps=config.trainer.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=steps.data.accumulation(world_size()),
        gradient_clip_val=config.trainer.gradient_clip_val or None,
        check_val_every_n_epoch=None,
        val_check_interval=NEVER,
        num_sanity_val_steps=0,
        logger=loggers or False,
        profiler=profiler,
        callbacks=[*callbacks, *averaging(config.trainer), *added, SamplesFile(steps.run_dir), Progress(config), steps],
    )


def whole_task(composition: Composition, trainer: L.Trainer, task: Task) -> Task:
    """The task into which the end of the run loads weights. If the task is sharded, it is a new one that is not."""
    from multihead.model.sharded import is_sharded
    from multihead.tasks import build_task

    if not is_sharded(task):
        return task
    evaluation = {name: member.evaluation for name, member in task.members().items()}
    fresh = build_task(task.config, task.vocab, composition.plugin, evaluation)
    choose_trained(fresh, task.config)
    trainer.precision_plugin.convert_module(fresh)  # in place
    fresh.count_on(task.tokens_seen, task.recorded)
    return fresh
