"""Readers of raw files that never hold a whole file, and a reader of pickles that makes nothing but plain containers."""

from __future__ import annotations

import codecs
import json
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...base.errors import DataError, Problem
from .extras import library


_CHUNK = 2**18  # characters read at once
_LONGEST = 2**26  # characters of one JSON record


def json_records(path: Path) -> Iterator[Any]:
    """The records of a JSON array or of JSON lines, one after the other.

    Args:
        path: The file: ``[...]``, or one value per line. UTF-8, with or without a byte order mark.

    Raises:
        DataError: Not UTF-8, not JSON, or neither form; says at which character. Records before that have been given.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _values(file, path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "")) from error


def _values(file: Any, path: Path) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    text, start, done, at_end = "", 0, 0, False
    in_array: bool | None = None  # None: not known yet
    expects = "value"  # inside an array: "value" or "comma"; afterwards "nothing"

    def fill() -> bool:
        nonlocal text, start, done, at_end
        more = file.read(_CHUNK)
        done += start
        text, start = text[start:] + more, 0
        at_end = not more
        return bool(more)

    def bad(what: str) -> DataError:
        return DataError(Problem(str(path), f"is not JSON: {what} at character {done + start}.", "Download it again."))

    while True:
        while start < len(text) and text[start] in " \t\r\n":
            start += 1
        if start >= len(text):
            if fill():
                continue
            if in_array and expects != "nothing":
                raise bad("the file ends inside of the list")
            return
        sign = text[start]
        if in_array is None:
            in_array = sign == "["
            if in_array:
                start += 1
                continue
        if in_array:
            if expects == "nothing":
                raise bad("something follows the list")
            if sign == "]":
                expects, start = "nothing", start + 1
                continue
            if expects == "comma":
                if sign != ",":
                    raise bad("a comma is missing")
                expects, start = "value", start + 1
                continue
        try:
            value, end = decoder.raw_decode(text, start)
        except RecursionError as error:
            raise bad("nested too deeply") from error
        except json.JSONDecodeError as error:
            if len(text) - start > _LONGEST:
                raise bad("a record is longer than any record may be") from error
            if not at_end and fill():
                continue
            raise bad(error.msg) from error
        # A number may go on in the next piece: it has ended where something follows that cannot belong to it.
        open_end = end >= len(text) or (sign in "-0123456789" and text[end] not in ",] \t\r\n")
        if open_end and not at_end and fill():
            continue
        start = end
        expects = "comma"
        yield value


def _not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    fix = "Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 FILE; or download it again."
    return DataError(Problem(str(path), f"is not UTF-8 ({error.reason}).", fix))


def csv_rows(path: Path, columns: Sequence[str], chunk: int = 2000) -> Iterator[dict[str, str]]:
    """The rows of a CSV file as texts, spaces at both ends removed; cells that are missing are "".

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        columns: Columns that must be there; only these are given.
        chunk: Rows read at once.

    Raises:
        DataError: Not UTF-8, no header, a column is missing, or the file is damaged.
    """
    pandas: Any = library("pandas")
    try:
        # dtype=str and keep_default_na=False: a caption "NA" or "null" is a text, not a missing value.
        with pandas.read_csv(
            path, dtype=str, keep_default_na=False, chunksize=chunk, encoding="utf-8-sig", skipinitialspace=False
        ) as reader:
            for frame in reader:
                frame.columns = [str(name).strip() for name in frame.columns]
                absent = [name for name in columns if name not in frame.columns]
                if absent:
                    what = f"has no column {', '.join(map(repr, absent))}; it has {', '.join(frame.columns)}."
                    raise DataError(Problem(str(path), what, "Is it the right file? Download it again."))
                for values in zip(*(frame[name].tolist() for name in columns), strict=True):
                    yield {
                        name: value.strip() if isinstance(value, str) else ""
                        for name, value in zip(columns, values, strict=True)
                    }
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        if isinstance(error, DataError):
            raise
        raise DataError(Problem(str(path), f"cannot be read as CSV ({error}).", "Download it again.")) from error


def parquet_rows(path: Path, columns: Sequence[str], first: int, last: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Some rows of a parquet file.

    Args:
        path: The file.
        columns: Columns that must be there; only these are read.
        first: Number of the first row wanted.
        last: Number of the row after the last one wanted.

    Yields:
        (row number, cells).

    Raises:
        DataError: Truncated, damaged, no parquet, or a column is missing.
    """
    pyarrow: Any = library("pyarrow")
    file = open_parquet(path, columns)
    try:
        row = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if row + size > first and row < last:
                at = row
                for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=list(columns)):
                    if at + batch.num_rows > first and at < last:
                        low, high = max(first - at, 0), min(last - at, batch.num_rows)
                        rows = batch.slice(low, high - low).to_pylist()
                        yield from enumerate(rows, start=at + low)
                    at += batch.num_rows
                    if at >= last:
                        break
            row += size
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(Problem(str(path), f"is damaged ({error}).", "Download it again.")) from error


def open_parquet(path: Path, columns: Sequence[str] = ()) -> Any:
    """A ``pyarrow.parquet.ParquetFile`` with these columns.

    Raises:
        DataError: Truncated, damaged, no parquet, or a column is missing.
    """
    pyarrow: Any = library("pyarrow")
    parquet: Any = library("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        what = f"is no parquet file, or was not downloaded to its end ({error})."
        raise DataError(Problem(str(path), what, "Download it again.")) from error
    absent = [name for name in columns if name not in file.schema_arrow.names]
    if absent:
        what = f"has no column {', '.join(map(repr, absent))}; it has {', '.join(file.schema_arrow.names)}."
        raise DataError(Problem(str(path), what, "Is it the right file?"))
    return file


class _PlainUnpickler(pickle.Unpickler):
    """Makes dicts, lists, tuples, sets, texts and numbers; everything that has to be imported is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain containers are read")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of the file")


def plain_pickle(path: Path, limit: int = 2**30) -> Any:
    """Read a pickle that holds nothing but plain containers, such as PathVQA's.

    No code of the file is run: a pickle that names any class or function is refused. The content is held in memory,
    as the format allows nothing else.

    Args:
        path: The file.
        limit: Largest size of the file in bytes.

    Raises:
        DataError: Too large, damaged, or it holds anything else.
    """
    try:
        if path.stat().st_size > limit:
            raise DataError(Problem(str(path), f"is larger than {limit} bytes.", "Is it the right file?"))
        with path.open("rb") as file:
            # Python 2 wrote PathVQA's pickles; its texts come as bytes with this encoding.
            return _texts(_PlainUnpickler(file, encoding="bytes").load())
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        fix = "Download it again; if it comes from elsewhere, do not trust it."
        raise DataError(Problem(str(path), f"is no plain pickle ({error}).", fix)) from error
    except (OSError, RecursionError, MemoryError, OverflowError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Download it again.")) from error


def _texts(value: Any) -> Any:
    """Bytes become text: UTF-8, else Latin-1, which never fails."""
    if isinstance(value, bytes):
        try:
            return codecs.decode(value, "utf-8")
        except UnicodeDecodeError:
            return codecs.decode(value, "latin-1")
    if isinstance(value, dict):
        return {_texts(key): _texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in value]
    return value
