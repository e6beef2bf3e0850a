"""``new`` writes a plugin that works, with its test, from the files in ``templates``."""

from __future__ import annotations

import ast
import importlib.util
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from multihead.config.check import require
from multihead.config.settings import read_words
from multihead.config.slots import SLOTS
from multihead.config.task import TASKS
from multihead.config.verbs import BLOCKS, NewSettings
from multihead.config.words import pasted, typed_as
from multihead.errors import ConfigError, MachineError

TEMPLATES = Path(__file__).with_name("templates")
FOR_EACH_TOKEN = "docs/examples/plugins/tagging.py"


def run(words: Sequence[str]) -> int:
    """Runs ``multihead new``; see `NewSettings`."""
    settings, _ = read_words(NewSettings, words)
    file = Path(settings.file or f"my_{settings.block}.py").expanduser()
    _check_name(file, settings.block, (TEMPLATES / f"{settings.block}.py").read_text(encoding="utf-8"))
    test, sample = file.with_name(f"test_{file.name}"), TEMPLATES / f"{settings.block}.txt"
    templates = {file: TEMPLATES / f"{settings.block}.py", test: TEMPLATES / f"{settings.block}_test.py"}
    templates |= {file.with_suffix(".txt"): sample} if sample.is_file() else {}
    for path in templates:
        if path.exists():
            other = typed_as("file", str(file.with_name(f"{file.stem}_2.py")))
            raise ConfigError("file", f"{path} exists, and new overwrites nothing", other)
    words = BLOCKS[settings.block].replace("NAME", file.stem).split()
    chosen = " ".join(_filled_word(word, str(file.with_suffix(""))) for word in words)
    command = f"multihead train {typed_as('plugin', str(file))} {chosen}"
    for path, template in templates.items():
        _write(path, filled(template, settings.block, file.stem, command))
    sys.stdout.write(
        f"wrote {', '.join(map(str, templates))}\n\ntrain:\n  {command}\ntest:\n  {pasted('pytest', str(test))}\n"
    )
    if settings.block == "task":
        sys.stdout.write(f"\nIf each token gets a label, begin with {FOR_EACH_TOKEN} of the repository.\n")
    return 0


def _filled_word(word: str, path: str) -> str:
    """A word of the command that trains, quoted for the shell, with the path in place of FILE."""
    name, _, value = word.partition("=")
    return typed_as(name, value.replace("FILE", path)) if "FILE" in value else word


def filled(template: Path, block: str, name: str, command: str) -> str:
    """The text of a template, whose part ``my_BLOCK`` and class ``MyBlock`` get other names.

    Args:
        template: The file.
        block: A key of `BLOCKS`.
        name: The name of the part.
        command: The command that trains with it.
    """
    text = template.read_text(encoding="utf-8").replace("TRAIN", command, 1)
    return text.replace(f"my_{block}", name).replace(_camel(f"my_{block}"), _camel(name))


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def _check_name(file: Path, block: str, template: str) -> None:
    """Checks that the name of a file can be the name of a part, and hides nothing that the file needs.

    Raises:
        ConfigError: It cannot.
    """
    name, fix = file.stem, f"file=my_{block}.py"
    fits = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and not keyword.iskeyword(name)
    require(file.suffix == ".py" and fits, "file", "NAME.py with small letters, digits and _", str(file), fix)
    own = [choice for slot in SLOTS.values() if slot.field.startswith(block) for choice in slot.own]
    own += TASKS if block == "task" else []
    require(name not in own, "file", f"another name than our {block}s have ({', '.join(own)})", str(file), fix)
    spec = importlib.util.find_spec(name)
    what = "another name than that of an installed package, which the file would hide"
    require(spec is None or spec.origin is None, "file", what, str(file), fix)
    used = {node.id for node in ast.walk(ast.parse(template)) if isinstance(node, ast.Name)}
    placeholders = {f"my_{block}", _camel(f"my_{block}")}
    for clash in (used - placeholders) & {name, _camel(name)}:
        require(False, "file", f"another name, because the file uses {clash}", str(file), fix)


def _write(path: Path, text: str) -> None:
    """Writes a new file, and creates its folder.

    Raises:
        MachineError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise MachineError(str(path), f"cannot be written ({error.strerror})", "file=FOLDER/NAME.py") from error
