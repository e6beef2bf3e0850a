"""The tests behave the same however they were started."""

import subprocess
import sys
from pathlib import Path

CHILD = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, " \
        "signal.getsignal(signal.SIGHUP) is signal.SIG_DFL)"  # fmt: skip
PARENT = """
import os, signal, subprocess, sys
for signum in (signal.SIGINT, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
import surroundings
surroundings.hear_signals()
for signum in (signal.SIGINT, signal.SIGHUP):
    os.kill(os.getpid(), signum)
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


def test_children_hear_signals_that_the_tests_ignore():
    """In the background and under nohup, tests that send signals to their children failed."""
    here = Path(__file__).parent
    told = subprocess.run([sys.executable, "-c", PARENT, CHILD], cwd=here, capture_output=True, text=True)
    assert (told.returncode, told.stdout, told.stderr) == (0, "True True\n", "")
