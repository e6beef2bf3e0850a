"""What the user, the shell and the machine have set, and that no test may see."""

import locale
import os
import signal
import site
import tempfile
import time

KEPT = (
    *("PATH", "HOME", "TMPDIR", "TEMP", "TMP", "USER", "LOGNAME", "SHELL", "CI", "VIRTUAL_ENV", "SSL_CERT_FILE"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "MULTIHEAD_DATA"),
)
"""Variables that the tests keep, and those that begin with PYTHON or PYTEST. Others would change what is tested."""
OF_PYTHON = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONHOME", "PYTHONHASHSEED")
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a4944415478da63f8"
    "0f00010101001cb08c990000000049454e44ae426082"
)  # a picture of one pixel
UTF_8 = ("C.UTF-8", "C.utf8", "en_US.UTF-8")


def clean_environment() -> None:
    """Takes out whatever the user, the shell or the machine has set; workers and child processes inherit the rest."""
    for name in list(os.environ):
        if name not in (*KEPT, *OF_PYTHON) and not name.startswith(("PYTEST_", "COV_CORE_", "COVERAGE_")):
            del os.environ[name]
    os.environ["PYTHONUSERBASE"] = site.getuserbase()  # HOME will be another
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true", "TZ": "UTC"}
    os.environ.setdefault("HOME", tempfile.gettempdir())
    time.tzset()
    for name in UTF_8:
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            continue
        os.environ["LC_ALL"] = name
        break


def hear_signals() -> None:
    """A process that `nohup` or a shell's ``&`` started ignores signals, and so would all that it starts.

    A handler that does nothing is as deaf, but programs that the tests start get the default.
    """
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda *_: None)


def draw_one_pixel(maps, path):
    """Takes the place of what draws the pictures of attention, which takes half of a tiny training."""
    path.write_bytes(DOT)
