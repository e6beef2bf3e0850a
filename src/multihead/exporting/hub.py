"""Uploads an export to the Hugging Face hub, where the user is logged in."""

from __future__ import annotations

import shlex
from pathlib import Path

from multihead.config.extras import install, installed
from multihead.errors import ConfigError, MachineError


def push(folder: Path, name: str) -> str:
    """Uploads the files of a folder as one commit to a model repository, which is created private if it is new.

    Args:
        folder: The export.
        name: ``ORG/NAME`` of the repository.

    Returns:
        The repository's address.

    Raises:
        ConfigError: huggingface_hub is not installed, or the user is not logged in or may not write there.
        MachineError: The hub cannot be reached.
    """
    upload = f"hf upload {name} {shlex.quote(str(folder))} --private"
    kept = f"{folder} is written, but not uploaded"
    if not installed("huggingface_hub"):
        what = f"{kept}: huggingface_hub is not installed"
        raise ConfigError("push", what, f"{install('huggingface_hub')} && {upload}")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if get_token() is None:
        raise ConfigError("push", f"{kept}: you are not logged in to the hub", f"hf auth login && {upload}")
    sending: type[Exception] = HfHubHTTPError.__mro__[1]
    """The base of all errors of the library that sends requests."""
    try:
        api = HfApi()
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a model trained by Multihead")
    except (HfHubHTTPError, HFValidationError) as error:
        what = f"{kept}: the hub refuses {name} ({_line(error)})"
        raise ConfigError("push", what, f"hf auth whoami && {upload}") from None
    except (OSError, sending) as error:
        what = f"{kept}: the hub cannot be reached ({_line(error)})"
        raise MachineError("push", what, upload) from None
    return str(address)


def _line(error: Exception) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())[:160]
