"""Shards: what one unit became. A shard whose note exists is finished; the note is written last."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...base.files import write_bytes, write_json, write_with
from .checking import finish
from .contract import Converter, Drop, Picture, Unit
from .images import ImageRules, store
from .repeats import key, repeated


WORK = ".prepare"
_TYPED = 4 * 2**20  # bytes at the beginning of a file that surely decide the types of its columns


@dataclass
class Tally:
    """What came out of a unit, or of a split.

    Attributes:
        records: Records that were written.
        pictures: Pictures that they name.
        escaped: Literal placeholders that were escaped.
        dropped: Reason -> how many records.
    """

    records: int = 0
    pictures: int = 0
    escaped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.records += other.records
        self.pictures += other.pictures
        self.escaped += other.escaped
        self.dropped.update(other.dropped)


def image_folder(converter: Converter) -> str:
    """Folder of a task's pictures, shared by its splits, relative to the data folder."""
    return f"images/{converter.stream}_{converter.task}"


def shard_path(out: Path, dataset: str, number: int) -> Path:
    """The JSON lines of a shard; the note and the drops are next to them."""
    return out / WORK / dataset / f"{number:07d}.jsonl"


def make_shard(
    converter: Converter, split: str, unit: Unit, number: int, out: Path, rules: ImageRules, limit: int | None = None
) -> Tally:
    """Convert one unit, unless that has been done.

    Args:
        converter: Of the task.
        split: Which split.
        unit: The work.
        number: Place of the unit in its split.
        out: The data folder.
        rules: How pictures are stored.
        limit: Maximum number of records.
    """
    path = shard_path(out, converter.dataset(split), number)
    found = _finished(path, unit.key, limit, out)
    if found is not None:
        return found
    folder = image_folder(converter)
    tally, lines, drops = Tally(), [], []

    def keep(picture: Picture) -> str:
        return store(picture, out, folder, rules)

    for record in converter.convert(split, unit):
        result: Any = record if isinstance(record, Drop) else finish(record, converter.columns, keep)
        if isinstance(result, Drop):
            tally.dropped[result.reason] += 1
            drops.append(drop_line(result))
            continue
        lines.append(_line(result.value))
        tally.records += 1
        tally.pictures += len(result.value["images"])
        tally.escaped += result.escaped
        if limit is not None and tally.records >= limit:
            break
    data = b"".join(lines)
    write_bytes(path, data)
    write_bytes(path.with_suffix(".dropped"), b"".join(drops))
    note = {
        "key": unit.key,
        "limit": limit,
        "bytes": len(data),
        "records": tally.records,
        "pictures": tally.pictures,
        "escaped": tally.escaped,
        "dropped": dict(tally.dropped),
    }
    write_json(path.with_suffix(".json"), note)
    return tally


def _line(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def drop_line(drop: Drop) -> bytes:
    """One line of the file of drops; what cannot be written as UTF-8 is replaced."""
    text = json.dumps({"id": drop.id, "reason": drop.reason, "detail": drop.detail[:500]}, ensure_ascii=False)
    return (text + "\n").encode(errors="backslashreplace")


def _finished(path: Path, key: str, limit: int | None, out: Path) -> Tally | None:
    """The tally of a shard that is done and whole, pictures included; None otherwise."""
    try:
        note = json.loads(path.with_suffix(".json").read_bytes())
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    if note.get("key") != key or note.get("limit") != limit or note.get("bytes") != len(data):
        return None
    try:
        for line in data.splitlines():
            if any((out / name).stat().st_size == 0 for name in json.loads(line)["images"]):
                return None
        drops = path.with_suffix(".dropped").read_bytes().count(b"\n")
        tally = Tally(note["records"], note["pictures"], note["escaped"], Counter(note["dropped"]))
    except (OSError, ValueError, KeyError, TypeError):  # what a machine that failed may leave
        return None
    return tally if drops == tally.dropped.total() else None


@dataclass(frozen=True)
class Assembled:
    """A finished data set file.

    Attributes:
        tally: What is in it, after records whose id occurred twice were dropped.
        sha256: Of the file.
        size: Its bytes.
        pictures: sha256 over the names of the pictures in order; the names are made from the pictures' bytes.
    """

    tally: Tally
    sha256: str
    size: int
    pictures: str


def assemble(out: Path, dataset: str, shards: int, tally: Tally) -> Assembled:
    """Join the shards of a split into ``<dataset>.jsonl`` and ``dropped/<dataset>.jsonl``.

    Memory: eight bytes a record, for finding ids that occur twice.

    Args:
        out: The data folder.
        dataset: Its name.
        shards: How many shards there are.
        tally: Sum over the shards.
    """
    paths = [shard_path(out, dataset, number) for number in range(shards)]
    double, first = _survey(paths)
    text, names = hashlib.sha256(), hashlib.sha256()
    size = 0
    late: list[Drop] = []

    def produce(temporary: Path) -> None:
        nonlocal size
        seen: set[str] = set()
        with temporary.open("wb") as file:
            for line in _ordered(paths, first):
                record = json.loads(line)
                if key(record["id"]) in double:
                    if record["id"] in seen:
                        late.append(Drop(record["id"], "id occurs twice", "the first record with it is kept"))
                        tally.pictures -= len(record["images"])
                        continue
                    seen.add(record["id"])
                for name in record["images"]:
                    names.update(name.encode() + b"\n")
                text.update(line)
                size += len(line)
                file.write(line)

    write_with(out / f"{dataset}.jsonl", produce)
    tally.records -= len(late)
    tally.dropped.update(drop.reason for drop in late)
    write_drops(out, dataset, paths, late)
    return Assembled(tally, text.hexdigest(), size, names.hexdigest())


def write_drops(out: Path, dataset: str, paths: Iterable[Path], late: Iterable[Drop] = ()) -> None:
    """Join the drops of the shards into ``dropped/<dataset>.jsonl``; no drops, no file.

    Args:
        out: The data folder.
        dataset: Its name.
        paths: The shards.
        late: Drops that were found while joining.
    """
    target = out / "dropped" / f"{dataset}.jsonl"
    late = list(late)
    sources = [path.with_suffix(".dropped") for path in paths]
    if not late and not any(source.stat().st_size for source in sources):
        target.unlink(missing_ok=True)
        return

    def produce(temporary: Path) -> None:
        with temporary.open("wb") as file:
            for source in sources:
                with source.open("rb") as part:
                    shutil.copyfileobj(part, file)
            for drop in late:
                file.write(drop_line(drop))

    write_with(target, produce)


def _lines(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as file:
            yield from file


def _survey(paths: Iterable[Path]) -> tuple[set[int], dict[int, bytes]]:
    """Hashes of ids that occur more than once, and records that have to stand first: place -> line.

    The host's JSON reader takes the types of all columns from the first ten megabytes. A list that is empty in all of
    them has no type, and a name in it later on is an error; so a record whose list is not empty goes to the front.
    """
    untyped: dict[str, None] = {}
    typed: set[str] = set()
    first: dict[int, bytes] = {}

    def identities() -> Iterator[str]:
        offset = 0
        for place, line in enumerate(_lines(paths)):
            record = json.loads(line)
            found = {name for name, value in record.items() if isinstance(value, list) and value} - typed
            if offset > _TYPED and found & untyped.keys():
                first[place] = line
            typed.update(found)
            untyped.update(dict.fromkeys(name for name, value in record.items() if value == []))
            offset += len(line)
            yield record["id"]

    return {int(double) for double in repeated(identities())}, first


def _ordered(paths: Iterable[Path], first: Mapping[int, bytes]) -> Iterator[bytes]:
    """All lines, some of them first."""
    yield from first.values()
    yield from (line for place, line in enumerate(_lines(paths)) if place not in first)
