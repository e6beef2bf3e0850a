"""A process that trains leaves at once: the interpreter does not search all of torch's objects for garbage."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["multihead.cli", "multihead.training.rank"])
def test_no_object_is_searched_for_garbage_as_a_program_ends(module):
    code = f"import {module}, atexit, gc; atexit._run_exitfuncs(); print(gc.get_freeze_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1000
