"""The documented door: ``python train.py task=translation`` is the same as ``multihead train task=translation``."""

import sys

from multihead.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
