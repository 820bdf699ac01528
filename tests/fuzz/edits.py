"""Ways to change a file: its fields, its bytes, and what it is."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cl_plugins.records.record import checksum


#: What a field may be replaced by; some of it leads out of the directory.
VALUES = [
    None, True, 0, 1, -1, 1.5, 99.5, float("nan"), float("inf"), 10**400, "", "x", "../../outside/x.safetensors", "/etc/passwd",
    "a\x1b[31mb", "\ud800", "x" * 5000, [], [None], [[]], {}, {"x": {}},
]  # fmt: skip
MOST_ITEMS = 2  # of a list; the others are alike
Edit = tuple[str, Callable[[Path], None]]


def _paths(value: Any, place: tuple = ()) -> Iterator[tuple]:
    yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _paths(item, (*place, key))
    elif isinstance(value, list):
        for number in sorted({0, len(value) - 1} & set(range(len(value))))[:MOST_ITEMS]:
            yield from _paths(value[number], (*place, number))


def _at(value: Any, place: tuple) -> Any:
    for part in place:
        value = value[part]
    return value


def fields(content: Any) -> Iterator[tuple[str, Any]]:
    """Every field removed, replaced, changed a little, and joined by one that is unknown.

    Args:
        content: A JSON value.

    Yields:
        What was done, and the new value.
    """
    for place in _paths(content):
        name = ".".join(map(str, place)) or "all"
        old = _at(content, place)
        options: list[tuple[str, Any]] = [
            (f"= {value!r:.30}", value) for value in VALUES if value != old or value is None
        ]
        if isinstance(old, bool):
            options.append(("the other", not old))
        elif isinstance(old, int | float):
            options += [("+ 1", old + 1), ("as text", str(old))]
        elif isinstance(old, str):
            options += [("longer", old + "x"), ("shorter", old[:-1]), ("upper", old.swapcase())]
        elif isinstance(old, list) and old:
            options += [("twice", old * 2), ("reversed", old[::-1]), ("shorter", old[:-1])]
        elif isinstance(old, dict):
            options.append(("unknown field", {**old, "unknown": 1}))
        for label, value in options:
            if not place:
                yield f"{name} {label}", value
                continue
            changed = copy.deepcopy(content)
            _at(changed, place[:-1])[place[-1]] = value
            yield f"{name} {label}", changed
        if place:
            changed = copy.deepcopy(content)
            del _at(changed, place[:-1])[place[-1]]
            yield f"{name} removed", changed


def field_edits(path: Path, *, sealed: bool) -> Iterator[Edit]:
    """Edits of the fields of a JSON or JSONL file.

    Args:
        path: The file as it is.
        sealed: Whether checksums are computed anew, as somebody could who wants to be believed.
    """
    lines = path.suffix == ".jsonl"
    content = [json.loads(line) for line in path.read_text().splitlines()] if lines else json.loads(path.read_text())
    for label, value in fields(content):
        if lines and (not isinstance(value, list) or value == content[: len(value)]):
            continue  # without its last lines a journal is that of a run which was stopped earlier

        def edit(target: Path, value: Any = value) -> None:
            if not lines:
                items = [value]
            else:
                items = value
            previous, text = "", ""
            for item in items:
                if sealed and isinstance(item, dict) and "checksum" in item:
                    item = {**item, "checksum": checksum(item, previous)}
                    previous = item["checksum"] if lines else ""
                text += json.dumps(item) + "\n"
            replace(target, text.encode("utf-8", "surrogatepass"))

        yield label, edit


def byte_edits(path: Path) -> Iterator[Edit]:
    """Bytes cut, flipped, put in front and behind; JSON that is too deep or too long."""
    data = path.read_bytes()
    places = sorted(
        {1, len(data) // 4, len(data) // 2, len(data) * 3 // 4, len(data) - 2, len(data) - 1} & set(range(len(data)))
    )
    for place in places:
        yield f"cut at {place}", lambda target, place=place: replace(target, data[:place])
        flipped = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        yield f"flipped at {place}", lambda target, flipped=flipped: replace(target, flipped)
        yield f"flipped at {place}, time kept", lambda target, flipped=flipped: keep_time(target, flipped)
    yield "zeros, time kept", lambda target: keep_time(target, bytes(len(data)))
    others = {
        "empty": b"", "bom": b"\xef\xbb\xbf" + data, "nul": b"\0" + data, "no utf-8": b"\xff\xfe" + data, "twice": data + data,
        "a line more": data + b"{}\n", "deep": b"[" * 200_000, "deep objects": b'{"format":' * 5000, "digits": b"9" * 6000,
        "digits in a field": b'{"format": ' + b"9" * 6000 + b"}", "null": b"null", "nan": b"NaN", "pickle": b"\x80\x04N.",
    }  # fmt: skip
    for label, value in others.items():
        yield label, lambda target, value=value: replace(target, value)


def kind_edits(outside: Path) -> Iterator[Edit]:
    """The file gone, or a link, a pipe, a device or a folder in its place."""

    def link_to(value: Path | str) -> Callable[[Path], None]:
        def edit(target: Path) -> None:
            target.unlink()
            target.symlink_to(value)

        return edit

    def link_to_copy(target: Path) -> None:
        shutil.copy2(target, outside / "copy")
        link_to(outside / "copy")(target)

    def pipe(target: Path) -> None:
        target.unlink()
        os.mkfifo(target)

    def folder(target: Path) -> None:
        target.unlink()
        target.mkdir()

    yield "removed", lambda target: target.unlink()
    yield "link to a copy", link_to_copy
    yield "link to a file of the system", link_to("/etc/passwd")
    yield "link to a device", link_to("/dev/zero")
    yield "link to nothing", link_to("nowhere")
    yield "link to itself", link_to("./")
    yield "pipe", pipe
    yield "folder", folder


def replace(target: Path, data: bytes) -> None:
    """Other bytes in a new file: hard links to the old one stay whole."""
    target.unlink()
    target.write_bytes(data)


def keep_time(target: Path, data: bytes) -> None:
    """Other bytes in a file whose time stays."""
    status = target.stat()
    replace(target, data)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def some(edits: list[Edit], count: int | None, seed: str) -> list[Edit]:
    """All of the edits, or the same few every time."""
    if count is None or len(edits) <= count:
        return edits
    return random.Random(seed).sample(edits, count)
