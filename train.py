"""The documented door: ``python train.py task=translation`` is the same as ``multihead train task=translation``."""

import sys

try:
    from multihead.cli import main
except ModuleNotFoundError as error:  # this Python is not the one of the set-up
    if error.name != "multihead":
        raise
    what = "has no multihead; activate the environment of the set-up, or install it here"
    fix = f'{sys.executable} -m pip install -e ".[dev]" -c constraints.txt'
    sys.stderr.write(f"error[machine] {sys.executable}: {what}; fix: {fix}\n")
    sys.exit(5)

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
