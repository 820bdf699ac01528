"""Where a deleted sample can still be: looked for, named, and left to its owner, since a run does not own these files."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.outside import is_regular, open_regular, parse_json
from ..records.results import PREDICTIONS, PROBES
from ..replay.store import FOLDER, MANIFEST, RECORDS, Sample


Entries = Sequence[tuple[Sample, Mapping[str, Any]]]
LOOKED_FOR = 50  # samples whose texts are looked for in caches; a cache that holds one holds its whole data set
_SHORTEST = 8  # bytes; a shorter text is found everywhere


@dataclass(frozen=True)
class Place:
    """A place outside of the buffer that holds a sample, or may hold it.

    Attributes:
        where: A path, or words.
        what: What is there.
        fix: How to get rid of it.
    """

    where: str
    what: str
    fix: str


def remains(root: Path, entries: Entries, recipe: Mapping[str, Any] | None = None) -> list[Place]:
    """The places where samples that were deleted from a run's buffer can still be.

    Args:
        root: The run's directory, or that of a `ContinualLearner`.
        entries: The samples and their records, read before they were deleted.
        recipe: The host keys of the run, for its folders.

    Returns:
        Found places first, then those that cannot be searched from here.
    """
    if not entries:
        return []
    recipe = recipe or {}
    found = [
        *_predictions(root, entries),
        *_checkpoints(root),
        *_moved_aside(root, entries),
        *_received(root),
        *_caches(entries, recipe),
    ]
    sources = sorted({sample.dataset for sample, _ in entries if sample.dataset})
    if sources:
        folder = recipe.get("dataset_dir", "data")
        what = "their original data set, and its media"
        found.append(Place(f"{', '.join(sources)} in {folder}", what, "Remove the records there too."))
    what = "copies of the carry at other sites, runs that began from it with `carry_from`, exports, and backups"
    fix = "Tell their owners; `cl-plugins replay delete` works there as well. What was learned stays in the weights."
    return [*found, Place("elsewhere", what, fix)]


def _predictions(root: Path, entries: Entries) -> Iterator[Place]:
    """Files of answers in which a kept sample is also a test item: by its id, or by question and answer."""
    ids = {sample.id for sample, _ in entries}
    turns = {pair for _, record in entries if (pair := _last_turn(record)) is not None}
    for path in sorted(path for place in (PREDICTIONS, PROBES) for path in (root / place).rglob("*.jsonl")):
        count = sum(_is_one_of(item, ids, turns) for item in _objects(path))
        if count:
            what = f"{count} test item{'s' if count > 1 else ''} with the same id, or the same question and answer"
            fix = "Take them out of the test set, and start again with `cl.restart: true`, or delete the run."
            yield Place(str(path), what, fix)


def _is_one_of(item: Any, ids: set[str], turns: set[tuple[str, str]]) -> bool:
    if not isinstance(item, dict):
        return False
    return item.get("id") in ids or (item.get("prompt"), item.get("reference")) in turns


def _last_turn(record: Mapping[str, Any]) -> tuple[str, str] | None:
    messages = record.get("messages")
    return (messages[-2]["content"], messages[-1]["content"]) if isinstance(messages, list) else None


def _objects(path: Path) -> Iterator[Any]:
    try:
        with open_regular(path) as file:
            for line in file:
                try:
                    yield parse_json(line)
                except ValueError:
                    continue
    except (OSError, ValueError):
        return


def _checkpoints(root: Path) -> Iterator[Place]:
    for pattern in ("checkpoint-*", "broken-checkpoint-*"):
        for path in sorted(root.glob(f"tasks/*/{pattern}")):
            what = "a checkpoint of a training that may have used them: weights and optimizer state, no samples"
            yield Place(str(path), what, "Delete it to train this task again, or resume the run, which removes it.")


def _received(root: Path) -> Iterator[Place]:
    """The packed carry that a run began with, where it holds a buffer."""
    path = root / "received"
    if (path / "carry" / FOLDER / RECORDS).exists():
        what = "the carry that the run began with, as it was received, with its training samples"
        yield Place(str(path), what, f"Delete {path} once a task of this run is learned, and the packed file.")


def _moved_aside(root: Path, entries: Entries) -> Iterator[Place]:
    """Directories that `cl.restart` has moved aside, and buffers that a killed process has left in this one."""
    ids = [json.dumps(sample.id, ensure_ascii=escape).encode() for sample, _ in entries for escape in (True, False)]
    for folder in sorted(root.parent.glob(f"{_escaped(root.name)}.before-*")):
        files = [folder / "carry" / FOLDER / name for name in (MANIFEST, RECORDS)]
        files += sorted(folder.glob("tasks/*/replay.json"))
        if any(_holds(path, ids, every=False) for path in files):
            what = "an earlier run, moved aside by `cl.restart`, with the samples in it"
            yield Place(str(folder), what, f"`cl-plugins replay delete {folder} --id ...`, or remove it.")


def _escaped(name: str) -> str:
    from glob import escape

    return escape(name)


def cache_folders(recipe: Mapping[str, Any]) -> list[Path]:
    """Where the ``datasets`` library keeps what it has read and tokenised.

    Args:
        recipe: The host keys; ``cache_dir`` is one of them.
    """
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    named = os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets")
    folders = [Path(named).expanduser()]
    if isinstance(recipe.get("cache_dir"), str):
        folders.append(Path(recipe["cache_dir"]).expanduser())
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _caches(entries: Entries, recipe: Mapping[str, Any]) -> Iterator[Place]:
    """Folders of the cache whose Arrow files hold every text of a sample; tokenised copies are in the same folders."""
    wanted = [texts for _, record in entries if (texts := _texts(record))][:LOOKED_FOR]
    for cache in cache_folders(recipe):
        hit: dict[Path, None] = {}
        for path in sorted(cache.rglob("*.arrow")):
            if path.parent not in hit and any(_holds(path, texts, every=True) for texts in wanted):
                hit[path.parent] = None
        for folder in hit:
            what = (
                "the cache of the `datasets` library: their data set as it was read, and tokenised (`cache-*.arrow`)"
            )
            yield Place(str(folder), what, f"rm -r {folder}   (LLaMA-Factory rebuilds it from the data set)")


def _texts(record: Mapping[str, Any]) -> list[bytes]:
    """The texts of a record as an Arrow file holds them."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    inside = record.get("row") or [message["content"] for message in record.get("messages") or ()]
    plain = (text.replace("<image>", "").strip() for text in walk(inside))
    return [text.encode("utf-8", "replace") for text in plain if len(text.encode("utf-8", "replace")) >= _SHORTEST]


def _holds(path: Path, needles: Iterable[bytes], *, every: bool) -> bool:
    """Whether all (or any) of some byte strings are in a file."""
    if not is_regular(path) or path.stat().st_size == 0:
        return False
    try:
        with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return (all if every else any)(content.find(needle) >= 0 for needle in needles)
    except (OSError, ValueError):
        return False
