"""Parquet and Arrow files, which pyarrow reads. It is an extra."""

from __future__ import annotations

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
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _needs_pyarrow(name) from error
    try:
        file = parquet.ParquetFile(path)
        batch = next(file.iter_batches(batch_size=MOST_ROWS), None)
    except (ValueError, OSError) as error:
        raise DataError(
            name, f"is not a Parquet file ({str(error).splitlines()[0]})", "copy or download the file again"
        ) from error
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
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import ipc  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _needs_pyarrow(name) from error
    try:
        with open(path, "rb") as file:
            head = file.read(6)
            file.seek(0)
            if head == b"ARROW1":
                reader = ipc.open_file(file)
                yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                yield from ipc.open_stream(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(
            name, f"is not an Arrow file ({str(error).splitlines()[0]})", "copy or download the file again"
        ) from error


def _needs_pyarrow(name: str) -> DataError:
    return DataError(name, "needs the package pyarrow, an extra", "pip install 'multihead[parquet]'")
