"""Ranks that are forks of the tests' server: for tests of what ranks compute, and not of how they start and end."""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from torch.distributed.launcher.api import elastic_launch
from trial import start_server

ELASTIC = ("RANK", "LOCAL_", "GROUP_", "ROLE_", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")
"""Beginnings of the variables by which PyTorch's launcher tells a rank which one it is."""


def run_rank(variables, here, file):
    own = {name: value for name, value in os.environ.items() if name.startswith(ELASTIC)}
    os.environ.clear()
    os.environ.update(variables | own)
    os.chdir(here)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    multiprocessing.set_start_method(None, force=True)
    from multihead.training.rank import main

    if status := main(file):
        sys.exit(status)


def launch_forks(settings, executable):
    """Takes the place of `elastic_launch`, whose ranks are processes of ``executable`` and import all for seconds."""
    start_server()
    settings.start_method = "forkserver"
    launch = elastic_launch(settings, run_rank)
    return lambda *command: launch(dict(os.environ), os.getcwd(), Path(command[-1]))
