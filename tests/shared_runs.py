"""Trains tiny runs once a session. The first test that asks trains one, and the tests of all workers use it."""

import contextlib
import fcntl
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def locked(path: Path):
    """Holds the lock of this name, so that no other worker of the session holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Runs:
    """Runs of ``debug=smoke`` and more words. Each is trained once.

    Args:
        folder: A folder of the session, the same for all workers.
        cache: Folder of tokenizers and encoded rows.
    """

    def __init__(self, folder: Path, cache: Path):
        self.folder, self.cache = folder, cache

    def finished(self, *words: str) -> Path:
        """The run directory of ``multihead train debug=smoke WORDS``. Never write into it."""
        name = words[0].removeprefix("task=") + "_" + hashlib.sha256(repr(words).encode()).hexdigest()[:8]
        run = self.folder / name
        with locked(self.folder / f"{name}.lock"):
            if not run.is_dir():
                self._train(run, words)
        return run

    def _train(self, run: Path, words: tuple[str, ...]) -> None:
        import multihead

        new = run.with_name(run.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MULTIHEAD_CACHE", str(self.cache))
            patch.delenv("MULTIHEAD_DATA", raising=False)
            result = multihead.train([*words[:1], "debug=smoke", f"run_dir={new}", *words[1:]])
        run.with_name(run.name + ".json").write_text(json.dumps(result | {"run_dir": str(run)}))
        new.rename(run)

    def result(self, *words: str) -> dict[str, Any]:
        """Returns what ``multihead.train`` returned for the run of these words."""
        run = self.finished(*words)
        return json.loads(run.with_name(run.name + ".json").read_text())

    def copy(self, to: Path, *words: str) -> Path:
        """Copies the run of these words to a folder that does not exist yet. The test may change the copy."""
        return shutil.copytree(self.finished(*words), to)

    def unfinished(self, to: Path, *words: str) -> Path:
        """Copies a run so that it looks as if it was killed after it had saved step 5 of 10."""
        run = self.copy(to, *words)
        shutil.rmtree(run / "model")
        shutil.rmtree(run / "checkpoints" / "step_10")
        (run / "result.json").unlink()
        return run
