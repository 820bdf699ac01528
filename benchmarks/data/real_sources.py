"""Clones of public repositories, what is read from them, and pictures that stand in for those they do not hold."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


SIZES = ((320, 240), (240, 320), (256, 256), (300, 200))  # wide, high, square: padding and cropping see all of them


class Absent(Exception):
    """A repository or a file of it is not there; says which."""


@dataclass
class Clone:
    """A clone of a repository, read at one commit through git; the work tree is not looked at.

    Attributes:
        folder: The clone, with or without a work tree.
        commit: What is read; may be older than the newest one.
        used: Path -> size and sha256 of every file that was read.
    """

    folder: Path
    commit: str
    used: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, path: str) -> bytes:
        """The content of a file.

        Args:
            path: Relative to the root of the repository.

        Raises:
            Absent: There is no such clone, commit or file.
        """
        if not self.folder.is_dir():
            raise Absent(f"no clone in {self.folder.parent.name}/{self.folder.name}")
        command = ["git", "-C", str(self.folder), "cat-file", "blob", f"{self.commit}:{path}"]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode:
            raise Absent(f"{path} cannot be read at {self.commit[:12]}")
        self.used[path] = {"bytes": len(done.stdout), "sha256": hashlib.sha256(done.stdout).hexdigest()}
        return done.stdout

    def names(self, end: str) -> list[str]:
        """Paths of all files whose path ends so; none if there is no such clone or commit."""
        command = ["git", "-C", str(self.folder), "ls-tree", "-r", "-z", "--name-only", self.commit]
        done = subprocess.run(command, check=False, capture_output=True)
        return [name for name in done.stdout.decode(errors="replace").split("\0") if name.endswith(end)]

    def json(self, path: str) -> Any:
        """A JSON file."""
        return json.loads(self.read(path))

    def lines(self, path: str) -> list[Any]:
        """The objects of a file of JSON lines."""
        return [json.loads(line) for line in self.read(path).decode().splitlines() if line.strip()]


@dataclass(frozen=True)
class Row:
    """What one row of the source has to become, worked out without the converter.

    Attributes:
        turns: Questions and answers as they are written, the placeholder of the picture included.
        columns: Columns of the record that have to hold these values.
        picture: Name of its picture; empty for none.
        dropped: Why it has to be left out; empty if it has to be kept.
        identity: Its id; empty for the usual ``<task>-<split>-<row>``.
    """

    turns: Sequence[tuple[str, str]] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)
    picture: str = ""
    dropped: str = ""
    identity: str = ""


@dataclass(frozen=True)
class Laid:
    """Raw files that were laid out for a converter, and what has to come of them.

    Attributes:
        rows: Split -> what has to come of its rows, in their order.
        made: What is not the repository's; pictures are said separately.
        refused: Texts of the refusal, where the files are to be refused.
        remarked: Split -> texts that the remarks of the manifest have to contain.
        settings: Settings of the converter.
        agrees: What was compared between files of the repositories -> whether it is equal.
    """

    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    made: Sequence[str] = ()
    refused: Sequence[str] = ()
    remarked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    agrees: Mapping[str, bool] = field(default_factory=dict)


def ask(question: str, answer: object, picture: str = "", **columns: Any) -> Row:
    """A row with one question, which is written behind the placeholder of its picture."""
    front = "<image>\n" if picture else ""
    return Row([(front + question.strip(), str(answer).strip())], columns, picture)


@lru_cache(maxsize=8)
def picture(kind: int) -> bytes:
    """One of a few pictures with noise in them, as a JPEG file."""
    width, height = SIZES[kind % len(SIZES)]
    pixels = np.random.default_rng(kind).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def picture_of(name: str) -> bytes:
    """The picture that stands in for a name: which one depends on the name, so that a swap is seen."""
    return picture(zlib.crc32(name.encode()) % 8)


def put(folder: Path, name: str) -> None:
    """Write the picture that stands in for ``name``, as a link to an equal one."""
    path = folder / name
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data = picture_of(name)
    first = folder / f".{hashlib.sha256(data).hexdigest()[:8]}.stand-in"
    if not first.exists():
        first.parent.mkdir(parents=True, exist_ok=True)
        first.write_bytes(data)
    os.link(first, path)
