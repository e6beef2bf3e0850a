"""Parquet and Arrow files, which pyarrow reads. It is an extra."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multihead.errors import DataError
from multihead.tables.found import Look
from multihead.tables.records import MOST_ROWS, look_of_records


def look_at_parquet(path: Path, name: str) -> Look:
    """Returns what a Parquet file is.

    Raises:
        DataError: It is not a Parquet file, or pyarrow is not installed.
    """
    with _reading(name, "a Parquet file"):
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]

        file = parquet.ParquetFile(path)
        batch = next(file.iter_batches(batch_size=MOST_ROWS), None)
    records = batch.to_pylist() if batch is not None else []
    found = look_of_records(list(enumerate(records, start=1)), name, "parquet")
    found.count, found.whole = file.metadata.num_rows, file.metadata.num_rows <= len(records)
    return found


def look_at_arrow(path: Path, name: str) -> Look:
    """Returns what an Arrow file is.

    Raises:
        DataError: As for `arrow_batches`.
    """
    records: list[Any] = []
    count = 0
    for batch in arrow_batches(path, name):
        records += batch.to_pylist() if len(records) < MOST_ROWS else []
        count += batch.num_rows
    found = look_of_records(list(enumerate(records, start=1)), name, "arrow")
    found.count, found.whole = count, count == len(records)
    return found


def arrow_batches(path: Path, name: str) -> Iterator[Any]:
    """Yields the record batches of an Arrow file, in the file or in the stream format.

    Raises:
        DataError: It is not an Arrow file, or pyarrow is not installed.
    """
    with _reading(name, "an Arrow file"):
        from pyarrow import ipc  # pyright: ignore[reportMissingImports]

        with open(path, "rb") as file:
            head = file.read(6)
            file.seek(0)
            if head == b"ARROW1":
                reader = ipc.open_file(file)
                yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                yield from ipc.open_stream(file)


@contextlib.contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """Raises `DataError` for what goes wrong inside: there is no pyarrow, or it cannot read the file."""
    try:
        yield
    except ImportError as error:
        raise DataError(name, "needs the package pyarrow, an extra", "pip install 'multihead[parquet]'") from error
    except (ValueError, OSError) as error:  # pyarrow's own errors are among them
        said = str(error).splitlines()[0]
        raise DataError(name, f"is not {what} ({said})", "copy or download the file again") from error
