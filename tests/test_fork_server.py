"""The server that forks trainings ends with the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from trial import FORKS

PARENT = """
import multiprocessing.forkserver, sys, time
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(sys.argv[1:])
process = context.Process(target=time.sleep, args=(60,))
process.start()
print(multiprocessing.forkserver._forkserver._forkserver_pid, process.pid, flush=True)
time.sleep(60)
"""


def lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def outlives(preloaded):
    """Whether the server still lives 3 seconds after its parent was killed, while a process that it forked hangs."""
    path = {"PYTHONPATH": str(Path(__file__).parent), "FORKS_WITHOUT_TRAINING": "1"}
    command = [sys.executable, "-c", PARENT, *preloaded]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | path) as parent:
        server, hangs = map(int, parent.stdout.readline().split())
        parent.kill()
    try:
        until = time.monotonic() + 3
        while lives(server) and time.monotonic() < until:
            time.sleep(0.05)
        assert lives(hangs)
        return lives(server)
    finally:
        os.kill(hangs, signal.SIGKILL)


def test_it_ends_with_its_parent_although_a_fork_hangs():
    assert not outlives(["fork_server"])
    assert outlives([])  # Python's own


def tell(queue):
    queue.put("fork_server" in sys.modules)


def test_the_server_of_the_tests_does_so():
    queue = FORKS.SimpleQueue()
    FORKS.Process(target=tell, args=(queue,)).start()
    assert queue.get()
