"""Draws what a command prints in a terminal of a given width, as SVG.

    python benchmarks/picture_of_output.py width=80 folder=. out=FILE.svg -- COMMAND ...

    python benchmarks/picture_of_output.py width=100 out=docs/run.svg -- \
        python train.py task=translation run_dir=outputs/first

The command runs in a pseudo-terminal, so that it prints what a person sees at its end. The second command drew the
picture in the README. The other pictures in `docs/` come from `python benchmarks/picture_of_output.py width=80
folder=tests/files/29_tickets out=docs/data_80.svg -- multihead data file=tickets.csv`, and the same with 120.
"""

import fcntl
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text


def printed(command: list[str], width: int, folder: Path) -> str:
    """Returns what a command prints in a terminal of a width, with the codes of its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder,
                               env=environment | {"TERM": "xterm-256color"})  # fmt: skip
    os.close(theirs)
    written = b""
    try:
        while piece := os.read(ours, 1 << 16):
            written += piece
    except OSError:  # Linux says so that the last process has closed the terminal
        pass
    if process.wait():
        raise SystemExit(written.decode("utf-8", "replace"))
    return settled(written.decode("utf-8").replace("\r\n", "\n"))


def settled(text: str) -> str:
    """Returns what stands on the screen at the end: a progress bar moves the cursor, and clears lines that it wrote."""
    lines, row = [""], 0
    for part in re.split(r"(\n|\r|\x1b\[\d*A|\x1b\[2K|\x1b\[\?25[lh])", text):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.endswith("A") and part.startswith("\x1b["):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\r" or part.startswith("\x1b[?25"):
            continue  # what follows a carriage return has cleared the line, or is the same line again
        else:
            lines[row] += part
    return "\n".join(lines)


def picture(text: str, width: int, title: str) -> str:
    """Returns the SVG of a text with codes of colours."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=width, file=nowhere)
        console.print(Text.from_ansi(text), soft_wrap=False)
    drawn = console.export_svg(title=title, unique_id="output")
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # fonts of the reader's machine will do


def main() -> None:
    place = sys.argv.index("--")
    settings = {"width": "80", "folder": "."} | dict(word.split("=", 1) for word in sys.argv[1:place])
    command = sys.argv[place + 1 :]
    text = printed(command, int(settings["width"]), Path(settings["folder"]))
    Path(settings["out"]).write_text(picture(text, int(settings["width"]), shlex.join(command)), encoding="utf-8")


if __name__ == "__main__":
    main()
