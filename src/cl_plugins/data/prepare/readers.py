"""Readers of raw files that never hold a whole file, and a reader of pickles that makes nothing but plain containers."""

from __future__ import annotations

import codecs
import csv
import io
import json
import pickle
import pickletools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...base.errors import DataError, Problem
from ...base.outside import MIB, OutsideError, is_regular, open_regular, read_bytes, whole_number
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
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
            yield from _values(file, path)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except (OSError, OutsideError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "")) from error


def _values(file: Any, path: Path) -> Iterator[Any]:
    decoder = json.JSONDecoder(parse_int=whole_number)
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
                raise bad("the file ends inside the list")
            return
        sign = text[start]
        if in_array is None:
            in_array = sign == "["
            if in_array:
                start += 1
                continue
        if in_array:
            if expects == "nothing":
                raise bad("there is text after the list")
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
        except OutsideError as error:
            raise bad(str(error)) from error
        except json.JSONDecodeError as error:
            if len(text) - start > _LONGEST:
                raise bad("a record is longer than any record may be") from error
            if not at_end and fill():
                continue
            raise bad(error.msg) from error
        # A number may continue in the next piece: it has ended where something follows that cannot belong to it.
        open_end = end >= len(text) or (sign in "-0123456789" and text[end] not in ",] \t\r\n")
        if open_end and not at_end and fill():
            continue
        start = end
        expects = "comma"
        yield value


def _check_regular(path: Path) -> None:
    """Libraries would wait for a pipe, and read a device for ever."""
    if path.exists() and not is_regular(path):
        raise DataError(Problem(str(path), "is not a regular file.", "Is it the right file?"))


def _not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    fix = "Convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 FILE; or download it again."
    return DataError(Problem(str(path), f"is not UTF-8 ({error.reason}).", fix))


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file as texts, spaces at both ends removed; cells that are missing are "".

    Empty cells beyond the header are none: some programs write a comma behind the last cell. Others are an error, since
    which column they belong to is unknown.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        columns: Columns that must be there, once; only these are given.

    Raises:
        DataError: Not UTF-8, no header, a column is missing or there twice, a row is longer than the header, or the file
            is damaged.
    """
    rows = csv_lines(path)
    _, header = next(rows, (0, []))
    header = [name.strip() for name in header]
    absent = [name for name in columns if name not in header]
    if absent:
        what = f"has no column {', '.join(map(repr, absent))}; it has {', '.join(header) or 'none'}."
        raise DataError(Problem(str(path), what, "Is it the right file? Download it again."))
    twice = [name for name in columns if header.count(name) > 1]
    if twice:
        what = f"has more than one column {', '.join(map(repr, twice))}."
        raise DataError(Problem(str(path), what, "Rename all but the right one."))
    places = {name: header.index(name) for name in columns}
    for line, cells in rows:
        if any(cells[len(header) :]):
            what = (
                f"has more cells than columns in the row that ends in line {line} ({len(cells)}, not {len(header)})."
            )
            raise DataError(Problem(str(path), what, "Texts that hold commas need quotes. Download it again."))
        yield {name: cells[place].strip() if place < len(cells) else "" for name, place in places.items()}


def csv_header(path: Path) -> list[str]:
    """The names of the columns of a CSV file, spaces at both ends removed; none if the file is empty.

    Raises:
        DataError: Not UTF-8, or the file is damaged.
    """
    return [name.strip() for name in next(csv_lines(path), (0, []))[1]]


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of its last line, cells) of every row, also the header; empty lines are left out.

    Raises:
        DataError: Not UTF-8, or the file is damaged.
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            # strict: quotes without an end would swallow the rows behind them.
            reader = csv.reader(file, strict=True)
            yield from ((reader.line_num, cells) for cells in reader if cells)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    except csv.Error as error:
        what = f"cannot be read as CSV (line {reader.line_num}: {error})."
        raise DataError(Problem(str(path), what, "Download it again.")) from error
    except (OSError, OutsideError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "")) from error


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
    _check_regular(path)
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


#: Operations that import, call, or refer to something outside of the file.
_NO_PLAIN = frozenset(
    "GLOBAL STACK_GLOBAL REDUCE BUILD INST OBJ NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 PERSID BINPERSID "
    "NEXT_BUFFER READONLY_BUFFER".split()
)


def plain_pickle(path: Path, limit: int = 2**30) -> Any:
    """Read a pickle that holds nothing but plain containers, such as PathVQA's.

    No code of the file is run: a pickle that names any class or function is refused. So is one that asks for more memory
    than its size explains: nine bytes can make the reader reserve gigabytes, and lists that hold one another many times
    stand for more values than any memory holds. The content is held in memory, as the format allows nothing else.

    Args:
        path: The file.
        limit: Largest size of the file in bytes.

    Raises:
        DataError: Too large, damaged, or it holds anything else.
    """
    fix = "Download it again; if it comes from elsewhere, do not trust it."
    try:
        data = read_bytes(path, limit)
        _check_pickle(data)
        # Python 2 wrote PathVQA's pickles; its texts come as bytes with this encoding.
        value = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
        most = max(MIB, 20 * len(data))
        if _unfolded(value, {}, set(), most) > most:
            raise pickle.UnpicklingError("its nested lists expand to more than fits into memory")
        return _texts(value)
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(Problem(str(path), f"is no plain pickle ({error}).", fix)) from error
    except RecursionError as error:
        raise DataError(Problem(str(path), "is no plain pickle (it is nested too deeply).", fix)) from error
    except (OSError, MemoryError, OverflowError) as error:
        raise DataError(Problem(str(path), f"cannot be read ({error}).", "Download it again.")) from error


def _check_pickle(data: bytes) -> None:
    """Read the operations of a pickle without carrying them out; lengths beyond its end are errors here already.

    Raises:
        pickle.UnpicklingError: An operation that no plain pickle needs, or a place in the memo beyond all operations.
    """
    texts: list[Any] = []  # the last two, which name a class in newer pickles
    for count, (operation, argument) in enumerate(_operations(data), start=1):
        if operation.name in _NO_PLAIN:
            if operation.name in ("GLOBAL", "INST"):
                name = str(argument).replace(" ", ".")
            else:
                name = ".".join(map(str, texts)) if operation.name == "STACK_GLOBAL" else operation.name
            raise pickle.UnpicklingError(f"it asks for {name:.100}; only plain containers are read")
        number = argument if isinstance(argument, int) else 0
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > count + 256:
            raise pickle.UnpicklingError(f"it asks for a memo of {number} places")
        if operation.name == "FRAME" and number > len(data):
            raise pickle.UnpicklingError("it states a frame that is longer than the file")
        if isinstance(argument, str):
            texts = [*texts[-1:], argument]


def _operations(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    """Operations and arguments, as `pickletools.genops`, which cannot read Python 2's texts beyond ASCII."""
    known = {operation.code: operation for operation in pickletools.opcodes}
    file = io.BytesIO(data)
    while True:
        code = file.read(1).decode("latin-1")
        operation = known.get(code)
        if operation is None:
            raise pickle.UnpicklingError("it ends too early" if not code else f"it has the unknown operation {code!r}")
        if operation.name == "STRING":
            yield operation, file.readline()
        else:
            yield operation, None if operation.arg is None else operation.arg.reader(file)
        if operation.name == "STOP":
            return


def _unfolded(value: Any, known: dict[int, int], above: set[int], most: int) -> int:
    """How many values and characters something would have if nothing in it were shared; more than ``most`` is enough."""
    if isinstance(value, str | bytes):
        return 1 + len(value) // 16
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return 1
    if id(value) in known:
        return known[id(value)]
    if id(value) in above:
        raise pickle.UnpicklingError("it contains a list that contains itself")
    above.add(id(value))
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    count = 1
    for part in parts:
        count += _unfolded(part, known, above, most)
        if count > most:
            break
    above.discard(id(value))
    known[id(value)] = count
    return count


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
