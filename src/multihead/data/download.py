"""Downloads one file, checks its sha256, and puts it in place whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.parse
import urllib.request
from pathlib import Path

from multihead.errors import ConfigError, DataError, MachineError

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def download(url: str, path: Path, sha256: str, *, key: str) -> None:
    """Downloads the content of ``url`` to ``path``.

    Args:
        url: An http, https or file address.
        path: Place of the file. Its folder is created.
        sha256: Checksum that the content must have.
        key: Configuration key of the checksum, which messages name.

    Raises:
        ConfigError: No checksum is given, or the address is of another kind.
        DataError: The address does not answer, or its content has another checksum.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise ConfigError("data.url", f"must be an http, https or file address, got {url!r}")
    if not sha256:
        raise ConfigError(key, "is missing: a file that is downloaded needs its checksum", f"{key}=CHECKSUM")
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _fetch(url, part)
        if found != sha256.lower():
            raise DataError(url, f"its content has sha256 {found}, expected {sha256}", f"check the address and {key}")
        os.replace(part, path)
    except (PermissionError, NotADirectoryError) as error:
        raise MachineError(str(path), f"cannot be written ({error.strerror})", "set MULTIHEAD_DATA") from error
    finally:
        part.unlink(missing_ok=True)


def _fetch(url: str, part: Path) -> str:
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, open(part, "wb") as out:
            while chunk := answer.read(CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
    except PermissionError:
        raise
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise DataError(
            url, f"cannot be downloaded ({reason})", "check the network, or put the file in place"
        ) from error
    return digest.hexdigest()
