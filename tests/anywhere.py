"""The same tests wherever they are started: ``python tests/anywhere.py [WORDS FOR PYTEST]`` prints a table.

Starts pytest, on a part of the suite unless words say otherwise, in the background, without HOME, as another user, in
other locales and time zones, on a read-only repository, from another folder, and with variables that a user may have
set. Needs root for another user and for the read-only repository, and `localedef` for locales; says what it leaves out.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PART = [
    *("-n", "0"),
    *(
        "tests/runs/test_progress.py",
        "tests/data/test_readers.py",
        "tests/commands/test_runs.py",
        "tests/runs/test_checkpoint.py",
    ),
    *(f"tests/test_cli.py::test_{name}" for name in ("help", "completion", "statuses", "the_documented_door")),
    "tests/runs/test_resume.py::test_signals_save_and_leave[2-130-on_validation_batch_start-15]",
    "tests/runs/test_going_on.py::test_a_signal_before_the_first_step_ends_with_its_status[1-129]",
    "tests/training/test_attention_maps.py::test_a_run_leaves_its_pictures[classification-kinds2]",
]
VARIABLES = {
    "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online", "WANDB_PROJECT": "mine", "WANDB_DIR": "/nowhere",
    "HYDRA_FULL_ERROR": "1", "MULTIHEAD_CONF": "/nowhere", "MULTIHEAD_CACHE": "/nowhere", "MULTIHEAD_DATA": "/nowhere",
    "MULTIHEAD_TRACEBACK": "1", "MULTIHEAD_PLANTED": "x", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4",
    "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "OMP_NUM_THREADS": "7", "COMP_LINE": "multihead tr",
    "HF_HOME": "/nowhere", "XDG_CACHE_HOME": "/nowhere", "MPLBACKEND": "TkAgg", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


@dataclass
class Place:
    """A way in which pytest is started."""

    name: str
    variables: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    deaf: bool = False
    """Signals of the terminal are ignored, as under `nohup` and by a shell's ``&``."""
    folder: Path = ROOT
    wrap: tuple[str, ...] = ()
    """A program that runs pytest."""
    missing: str = ""
    """Why it cannot be tried here."""


def locales(folder: Path) -> Iterator[Place]:
    """Those of Python's coercion, of another encoding, and of another alphabet."""
    yield Place("LC_ALL=C", {"LC_ALL": "C"}, without=("LANG",))
    for name, language, encoding in (("de_DE", "de_DE", "ISO-8859-1"), ("tr_TR.UTF-8", "tr_TR", "UTF-8")):
        made = shutil.which("localedef") and subprocess.run(
            ["localedef", "-i", language, "-f", encoding, str(folder / name)], capture_output=True, check=False
        )
        missing = "" if made and made.returncode == 0 else "localedef cannot make it"
        yield Place(f"LC_ALL={name}", {"LC_ALL": name, "LOCPATH": str(folder)}, missing=missing)


def places(folder: Path) -> Iterator[Place]:
    """Every way, the usual one first."""
    root = os.geteuid() == 0 and bool(shutil.which("setpriv") and shutil.which("unshare"))
    yield Place("as usual")
    yield Place("in the background, under nohup", deaf=True)
    yield Place("without HOME", without=("HOME", "USER", "LOGNAME"))
    other = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    probe = [*other, "sh", "-c", f"{sys.executable} -c ''"]
    can = root and subprocess.run(probe, capture_output=True, check=False).returncode == 0
    yield Place(
        "as another user, who may not write here",
        without=("HOME", "USER", "LOGNAME"),
        wrap=other,
        missing="" if can else "needs root, setpriv, and an interpreter that everyone may run",
    )
    yield from locales(folder)
    for zone in ("Pacific/Kiritimati", "America/St_Johns"):
        yield Place(f"TZ={zone}", {"TZ": zone})
    yield Place("COLUMNS=40 NO_COLOR=1", {"COLUMNS": "40", "LINES": "5", "NO_COLOR": "1"})
    yield Place("COLUMNS=300 FORCE_COLOR=1", {"COLUMNS": "300", "FORCE_COLOR": "1", "TERM": "xterm-256color"})
    read_only = f'mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} && cd {ROOT} && exec "$@"'
    yield Place(
        "repository read-only",
        wrap=("unshare", "-m", "sh", "-c", read_only, "sh"),
        missing="" if root else "needs root and unshare",
    )
    yield Place("variables of W&B, Hydra, SLURM and ours", VARIABLES)
    yield Place("from another folder", folder=folder)


def started(place: Place, words: list[str], temporary: Path) -> tuple[int, str, float]:
    """Status, last line and seconds of pytest there."""
    temporary.mkdir()
    temporary.chmod(0o777)
    variables = {name: value for name, value in os.environ.items() if name not in place.without}
    variables |= {"TMPDIR": str(temporary)} | place.variables
    paths = [str(ROOT / word) if word.startswith("tests/") else word for word in words]
    command = [*place.wrap, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=place.folder, env=variables, capture_output=True, text=True, errors="replace", check=False,
        stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=ignore if place.deaf else None,
    )  # fmt: skip
    (temporary.parent / f"{temporary.name}.log").write_text(done.stdout + done.stderr)
    lines = [line for line in done.stdout.splitlines() if " in " in line and ("passed" in line or "failed" in line)]
    return done.returncode, lines[-1] if lines else done.stderr.strip()[-200:], time.monotonic() - began


def ignore() -> None:
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def main(words: list[str]) -> int:
    """Prints a row for each place; 1 if a test failed somewhere."""
    folder, worst = Path(tempfile.mkdtemp(prefix="anywhere_")), 0
    folder.chmod(0o755)
    for number, place in enumerate(places(folder)):
        if place.missing:
            print(f"| {place.name} | left out: {place.missing} |", flush=True)
            continue
        status, told, seconds = started(place, words or PART, folder / f"place_{number}")
        worst = max(worst, status)
        print(f"| {place.name} | status {status} | {told} | {seconds:.0f} s |", flush=True)
        with contextlib.suppress(OSError):
            if status == 0:
                shutil.rmtree(folder / f"place_{number}")
    print(f"logs: {folder}")
    return min(worst, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
