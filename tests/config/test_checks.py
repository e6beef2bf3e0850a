"""Every value that a dataclass refuses is refused with its key, its requirement and the value."""

import re

import pytest

from multihead.config.data import DataConfig, GrammarConfig, TokenizerConfig
from multihead.config.model import ModelConfig
from multihead.config.slots import check_monitor
from multihead.config.task import TaskConfig, TranslationConfig
from multihead.config.training import Config, DecodingConfig, OptimConfig, TrainerConfig
from multihead.errors import ConfigError

INF, NAN = float("inf"), float("nan")
REFUSED = [
    (ModelConfig, {"d_model": 0}, "model.d_model: must be at least 1, got 0"),
    (ModelConfig, {"num_heads": 0}, "model.num_heads: must be at least 1, got 0"),
    (ModelConfig, {"d_ff": -1}, "model.d_ff: must be at least 1, got -1"),
    (ModelConfig, {"max_len": 0}, "model.max_len: must be at least 1, got 0"),
    (ModelConfig, {"num_kv_heads": -1}, "model.num_kv_heads: must be at least 0, got -1"),
    (ModelConfig, {"num_encoder_layers": -1}, "model.num_encoder_layers: must be at least 0, got -1"),
    (ModelConfig, {"num_decoder_layers": -1}, "model.num_decoder_layers: must be at least 0, got -1"),
    (ModelConfig, {"dropout": 1.0}, "model.dropout: must be in [0, 1), got 1.0"),
    (ModelConfig, {"dropout": NAN}, "model.dropout: must be in [0, 1), got nan"),
    (ModelConfig, {"attention_dropout": -0.1}, "model.attention_dropout: must be in [0, 1), got -0.1"),
    (ModelConfig, {"ff_dropout": 2.0}, "model.ff_dropout: must be in [0, 1), got 2.0"),
    (ModelConfig, {"activation": "rellu"}, "model.activation: must be one of relu, gelu, gelu_tanh"),
    (ModelConfig, {"norm_placement": "mid"}, "model.norm_placement: must be one of pre, post, got 'mid'"),
    (ModelConfig, {"tie_embeddings": "yes"}, "model.tie_embeddings: must be one of none, source_target"),
    (ModelConfig, {"init": "normal"}, "model.init: must be one of xavier, depth_scaled, got 'normal'"),
    (ModelConfig, {"d_model": 100, "num_heads": 3}, "model.num_heads: must be a divisor of model.d_model=100, got 3"),
    (ModelConfig, {"num_kv_heads": 3}, "model.num_kv_heads: must be a divisor of model.num_heads=8, got 3"),
    (ModelConfig, {"d_model": 24, "position": "rotary"}, "model.position: must be other than rotary if the rotated"),
    (
        ModelConfig,
        {"d_model": 32, "num_heads": 2, "position": "rotary", "rotary_share": 0.05},
        "model.rotary_share: must be at least 0.125, which is two dimensions of a head of 16, got 0.05",
    ),
    (ModelConfig, {"d_model": 15, "num_heads": 5}, "model.d_model: must be even if model.position=sinusoidal"),
    (GrammarConfig, {"train_size": 0}, "data.grammar.train_size: must be at least 1, got 0"),
    (GrammarConfig, {"val_size": 0}, "data.grammar.val_size: must be at least 1, got 0"),
    (GrammarConfig, {"test_size": -5}, "data.grammar.test_size: must be at least 1, got -5"),
    (DataConfig, {"name": "../x"}, "data.name: must be letters, digits, '.', '_' and '-', at most 100, got '../x'"),
    (DataConfig, {"name": "x" * 101}, "data.name: must be letters, digits, '.', '_' and '-', at most 100, got 'xxx"),
    (DataConfig, {"normalize": "nfd"}, "data.normalize: must be one of none, nfc, nfkc, got 'nfd'; fix: data.normal"),
    (DataConfig, {"overlong": "keep"}, "data.overlong: must be one of drop, cut, error, got 'keep'"),
    (DataConfig, {"on_bad_line": "warn"}, "data.on_bad_line: must be one of error, skip, got 'warn'"),
    (DataConfig, {"split": "dev"}, "data.split: must be one of train, val, test, got 'dev'"),
    (DataConfig, {"batch_tokens": 0}, "data.batch_tokens: must be at least 1, got 0"),
    (DataConfig, {"part_tokens": 0}, "data.part_tokens: must be at least 1, got 0"),
    (DataConfig, {"eval_tokens": 0}, "data.eval_tokens: must be at least 1, got 0"),
    (DataConfig, {"num_workers": -1}, "data.num_workers: must be at least 0, got -1"),
    (DataConfig, {"splits": {"dev": 0.1}}, "data.splits: must be one of val, test, got 'dev'"),
    (DataConfig, {"splits": {"val": 0.0}}, "data.splits.val: must be above 0 and finite, got 0.0"),
    (DataConfig, {"format": "parallel", "train": "a.tsv"}, "data.train: must be a list of files, one for each column"),
    (DataConfig, {"format": "folders", "train": ["a", "b"]}, "data.train: must be one file, got ['a', 'b']"),
    (TokenizerConfig, {"vocab_size": 4}, "tokenizer.vocab_size: must be at least 8, got 4"),
    (TokenizerConfig, {"min_frequency": 0}, "tokenizer.min_frequency: must be at least 1, got 0"),
    (TokenizerConfig, {"dropout": 1.0}, "tokenizer.dropout: must be in [0, 1), got 1.0"),
    (TokenizerConfig, {"dropout_copies": 0}, "tokenizer.dropout_copies: must be at least 1, got 0"),
    (
        TokenizerConfig,
        {"dropout": 0.1, "kind": "char"},
        "tokenizer.dropout: must be 0 unless tokenizer.kind=bpe, because the other kinds have no merges, got 0.1; "
        "fix: tokenizer.kind=bpe",
    ),
    (TaskConfig, {"monitor_mode": "mean"}, "task.monitor_mode: must be one of min, max, got 'mean'"),
    (TaskConfig, {"monitor": "loss"}, "task.monitor: must be a validation metric (val/...), got 'loss'"),
    (TranslationConfig, {"monitor_mode": "best"}, "task.monitor_mode: must be one of min, max, got 'best'"),
    (TranslationConfig, {"topology": "encoder"}, "task.topology: must be one of encoder_decoder, decoder"),
    (TranslationConfig, {"label_smoothing": 1.0}, "task.label_smoothing: must be in [0, 1), got 1.0"),
    (TranslationConfig, {"simcut_alpha": -1.0}, "task.simcut_alpha: must be at least 0 and finite, got -1.0"),
    (TranslationConfig, {"simcut_alpha": INF}, "task.simcut_alpha: must be at least 0 and finite, got inf"),
    (TranslationConfig, {"simcut_cut": 1.0}, "task.simcut_cut: must be in [0, 1), got 1.0"),
    (TranslationConfig, {"num_samples": -1}, "task.num_samples: must be at least 0, got -1"),
    (
        TranslationConfig,
        {"copy": True, "topology": "decoder"},
        "task.copy: must be false if task.topology=decoder, got True",
    ),
    (OptimConfig, {"lr": 0.0}, "optim.lr: must be above 0 and finite, got 0.0"),
    (OptimConfig, {"lr": NAN}, "optim.lr: must be above 0 and finite, got nan"),
    (OptimConfig, {"muon_lr": INF}, "optim.muon_lr: must be above 0 and finite, got inf"),
    (OptimConfig, {"eps": -1.0}, "optim.eps: must be above 0 and finite, got -1.0"),
    (OptimConfig, {"weight_decay": -0.1}, "optim.weight_decay: must be in [0, 1), got -0.1"),
    (OptimConfig, {"betas": [0.9]}, "optim.betas: must be two numbers in [0, 1), got [0.9]"),
    (OptimConfig, {"muon_momentum": 1.0}, "optim.muon_momentum: must be in [0, 1), got 1.0"),
    (OptimConfig, {"muon_steps": 0}, "optim.muon_steps: must be at least 1, got 0"),
    (OptimConfig, {"warmup_steps": -1}, "optim.warmup_steps: must be at least 0, got -1"),
    (OptimConfig, {"min_lr_ratio": 2.0}, "optim.min_lr_ratio: must be in [0, 1], got 2.0"),
    (OptimConfig, {"decay_share": 0.0}, "optim.decay_share: must be in (0, 1], got 0.0"),
    (TrainerConfig, {"max_steps": 0}, "trainer.max_steps: must be at least 1, got 0"),
    (TrainerConfig, {"val_every_n_steps": 0}, "trainer.val_every_n_steps: must be at least 1, got 0"),
    (TrainerConfig, {"checkpoint_every_n_steps": 0}, "trainer.checkpoint_every_n_steps: must be at least 1, got 0"),
    (TrainerConfig, {"log_every_n_steps": 0}, "trainer.log_every_n_steps: must be at least 1, got 0"),
    (TrainerConfig, {"keep_checkpoints": 0}, "trainer.keep_checkpoints: must be at least 1, got 0"),
    (TrainerConfig, {"average_every_n_steps": 0}, "trainer.average_every_n_steps: must be at least 1, got 0"),
    (TrainerConfig, {"accumulate_grad_batches": -1}, "trainer.accumulate_grad_batches: must be at least 0, got -1"),
    (TrainerConfig, {"early_stopping_patience": -1}, "trainer.early_stopping_patience: must be at least 0, got -1"),
    (TrainerConfig, {"average_last_steps": -1}, "trainer.average_last_steps: must be at least 0, got -1"),
    (TrainerConfig, {"limit_val_examples": -1}, "trainer.limit_val_examples: must be at least 0, got -1"),
    (TrainerConfig, {"overfit_examples": -1}, "trainer.overfit_examples: must be at least 0, got -1"),
    (TrainerConfig, {"gradient_clip_val": INF}, "trainer.gradient_clip_val: must be at least 0, got inf"),
    (TrainerConfig, {"ema_decay": 1.0}, "trainer.ema_decay: must be in [0, 1), got 1.0"),
    (TrainerConfig, {"max_time": "1h"}, "trainer.max_time: must be DD:HH:MM:SS, got '1h'"),
    (TrainerConfig, {"ema_decay": 0.9, "average_last_steps": 5}, "trainer.average_last_steps: must be 0 if trainer"),
    (DecodingConfig, {"num_beams": 0}, "decoding.num_beams: must be at least 1, got 0"),
    (DecodingConfig, {"num_return_sequences": 0}, "decoding.num_return_sequences: must be at least 1, got 0"),
    (DecodingConfig, {"no_repeat_ngram_size": -1}, "decoding.no_repeat_ngram_size: must be at least 0, got -1"),
    (DecodingConfig, {"min_new_tokens": -1}, "decoding.min_new_tokens: must be at least 0, got -1"),
    (DecodingConfig, {"max_new_tokens": -1}, "decoding.max_new_tokens: must be at least 0, got -1"),
    (DecodingConfig, {"length_penalty": NAN}, "decoding.length_penalty: must be finite, got nan"),
    (DecodingConfig, {"num_return_sequences": 2}, "decoding.num_return_sequences: must be at most decoding.num_beams"),
    (
        DecodingConfig,
        {"min_new_tokens": 9, "max_new_tokens": 8},
        "decoding.min_new_tokens: must be at most decoding.max_new_tokens=8, got 9",
    ),
    (Config, {"accelerator": "npu"}, "accelerator: must be one of auto, cpu, gpu, cuda, mps, tpu, got 'npu'"),
    (Config, {"strategy": "deepspeed"}, "strategy: must be one of auto, ddp, fsdp, got 'deepspeed'"),
    (Config, {"precision": "bf17"}, "precision: must be one of auto, 32-true, bf16-mixed, bf16-true, 16-mixed, 64"),
    (Config, {"logger": "mlflow"}, "logger: must be one of auto, none, wandb, tensorboard, got 'mlflow'"),
    (Config, {"seed": -1}, "seed: must be in [0, 2**32), got -1"),
    (Config, {"num_nodes": 0}, "num_nodes: must be at least 1, got 0"),
    (Config, {"devices": "0"}, "devices: must be a number of at least 1, auto, or a list such as '0,1', got '0'"),
    (
        Config,
        {"task": TranslationConfig(), "data": DataConfig(name="ag_news", roles={"text": "a", "label": "b"})},
        "data=ag_news: has no source and no target for task=translation; it has text, label; fix: choose another",
    ),
    (
        Config,
        {"tokenizer": TokenizerConfig(joint=False)},
        "model.tie_embeddings: must be none or target_output if tokenizer.joint=false, got 'all'",
    ),
    (
        Config,
        {
            "task": TranslationConfig(topology="decoder"),
            "tokenizer": TokenizerConfig(joint=False),
            "model": ModelConfig(tie_embeddings="none"),
        },
        "tokenizer.joint: must be true if task.topology=decoder or if several tasks share the run, got False",
    ),
    (
        Config,
        {"task": TranslationConfig(copy=True), "model": ModelConfig(output_scale=True)},
        "model.output_scale: must be false if task.copy=true, whose head has none, got True",
    ),
    (
        Config,
        {
            "task": TranslationConfig(copy=True),
            "tokenizer": TokenizerConfig(joint=False),
            "model": ModelConfig(tie_embeddings="none"),
        },
        "tokenizer.joint: must be true if task.copy=true: a copied token must be in the target's vocabulary",
    ),
]


@pytest.mark.parametrize(("cls", "values", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", None))
def test_refused_with_key_requirement_and_value(cls, values, message):
    with pytest.raises(ConfigError, match=re.escape(f"error[config] {message}")) as caught:
        cls(**values)
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["1", "8", "auto", "0,1", "0,", "2,3,"])
def test_devices_as_lightning_writes_them(value):
    assert Config(devices=value).devices == value


def test_nearest_choice_is_the_fix():
    with pytest.raises(ConfigError, match=re.escape("fix: model.activation=gelu")):
        ModelConfig(activation="gleu")


def test_a_monitor_and_its_mode_must_agree():
    with pytest.raises(ConfigError, match=r"task.monitor_mode: must be min if task.monitor=val/loss, got 'max'"):
        check_monitor(TranslationConfig(monitor="val/loss"), None)
    with pytest.raises(ConfigError, match=r"task.monitor: must be one of .*'val/blue'; fix: task.monitor=val/bleu"):
        check_monitor(TranslationConfig(monitor="val/blue"), None)
    check_monitor(TranslationConfig(monitor="val/loss", monitor_mode="min"), None)
