"""Which media files the records of a data file name: JSON, CSV, Parquet and Arrow, as far as names are texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.outside import parse_json


if TYPE_CHECKING:
    import pyarrow as pa


#: Kinds of files other than JSON whose columns can hold names.
TABLES = (".csv", ".parquet", ".arrow")


@lru_cache(maxsize=64)
def read_records(
    path: str, changed: int, size: int, columns: tuple[str, ...], limit: int | None
) -> tuple[int, tuple[str, ...]]:
    """Number of records in a JSON file and the media they name; read again only if the file's time or size differ.

    Args:
        path: The file.
        changed: Time of its last change, in nanoseconds.
        size: In bytes.
        columns: Those that name media.
        limit: Only the first records up to this number; None for all.

    Raises:
        ValueError: It is not JSON.
    """
    count = 0
    names: list[str] = []
    for count, record in enumerate(_records(Path(path)), start=1):
        if limit is not None and count > limit:
            break
        if isinstance(record, Mapping):
            for column in columns:
                names.extend(names_in(record.get(column)))
    return count, tuple(names)


@lru_cache(maxsize=64)
def read_table(path: str, changed: int, size: int, columns: tuple[str, ...], limit: int | None) -> tuple[str, ...]:
    """Media that the rows of a CSV, Parquet or Arrow file name; none of a file that cannot be read: the host says why.

    Args:
        path: As for `read_records`.
        changed: As for `read_records`.
        size: As for `read_records`.
        columns: As for `read_records`.
        limit: As for `read_records`.
    """
    import pyarrow as pa

    if not columns:
        return ()
    try:
        values = _csv_values(path, columns, limit) if path.endswith(".csv") else _arrow_values(path, columns, limit)
        return tuple(name for value in values for name in names_in(value))
    except (ValueError, OSError, pa.ArrowException):
        return ()


def names_in(value: Any, *, addresses: bool = False) -> Iterator[str]:
    """File names in a media column: a name, a list of names, a list of lists (frames), or ``{"path": name}``.

    Args:
        value: A value of the column.
        addresses: Also what is an address (``https://...``) and no file.
    """
    if isinstance(value, str):
        if addresses or "://" not in value:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from names_in(item, addresses=addresses)
    elif isinstance(value, Mapping) and value.get("bytes") is None:
        yield from names_in(value.get("path"), addresses=addresses)


def _csv_values(path: str, columns: tuple[str, ...], limit: int | None) -> Iterator[Any]:
    """Cells as the `datasets` library reads them, which takes some for missing (NA)."""
    import pandas as pd

    table = pd.read_csv(path, usecols=lambda name: name in columns, dtype=str, nrows=limit)
    for column in table.columns:
        yield from table[column].dropna().tolist()


def _arrow_values(path: str, columns: tuple[str, ...], limit: int | None) -> Iterator[Any]:
    rows = 0
    for batch in _batches(path, columns):
        if limit is not None:
            batch = batch.slice(0, max(0, limit - rows))
        rows += batch.num_rows
        for column in columns:
            if column in batch.schema.names and texts_only(batch.schema.field(column).type):
                yield from batch.column(column).to_pylist()


def _batches(path: str, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if path.endswith(".parquet"):
        with ParquetFile(path) as file:
            yield from file.iter_batches(columns=[name for name in columns if name in file.schema_arrow.names])
        return
    with pa.memory_map(path) as source:
        try:
            yield from pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            file = pa.ipc.open_file(source)
            for number in range(file.num_record_batches):
                yield file.get_batch(number)


def texts_only(kind: pa.DataType) -> bool:
    """Whether values are texts, or lists of them; pictures in the file itself are part of its hash.

    Args:
        kind: Type of a column.
    """
    import pyarrow as pa

    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _records(path: Path) -> Iterator[Any]:
    """Records of a JSON array, of JSON lines (independent of the name of the file), or a single object.

    JSON lines are read one after the other; the other forms are held whole, as the host holds them.
    """
    with path.open("rb") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        _, first = next(lines, (0, b""))
        if not first:
            return
        try:
            record = parse_json(first)
        except ValueError:
            record = None  # a value that continues in the next line
        if isinstance(record, dict):
            yield record
            for number, line in lines:
                try:
                    yield parse_json(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
            return
    value = parse_json(path.read_bytes())
    yield from value if isinstance(value, list) else [value]
