"""What the server does before it forks its first process. It imports this module; see `trial.FORKS`.

- It ends within a second after its parent. Python's server ends only after every process that it has forked, so a
  process that hangs would keep it alive.
- It imports what a training imports, composes a configuration and generates rows, so that its forks need not.
"""

import importlib
import os
import signal

PARENT = os.getppid()
MODULES = (
    *("metrics.classification", "metrics.regression", "metrics.rouge", "metrics.sacrebleu_private", "metrics.text"),
    *("tasks.classification", "tasks.translation", "training.attention_maps", "training.job", "training.profiling"),
    *("commands.train", "data.grammar.passages", "data.grammar.ratings", "data.lightning_module", "training.screen"),
    *("config.multirun", "pretrained.source", "training.steps", "training.suspicions", "training.transfer"),
)


def _look(*_):
    if os.getppid() != PARENT:
        os._exit(1)


signal.signal(signal.SIGALRM, _look)
signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)  # a fork does not inherit the timer

if "FORKS_WITHOUT_TRAINING" not in os.environ:
    for name in MODULES:
        importlib.import_module(f"multihead.{name}")
    from grammar_once import columns, grammar

    from multihead.config.compose import compose

    data = compose(["task=translation", "debug=smoke"]).config.data
    for split in ("train", "val", "test"):
        for names in grammar.FAMILIES:
            columns(data.grammar, split, list(names))
    grammar.columns = columns
