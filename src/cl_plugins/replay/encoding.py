"""With which keys the host encoded the samples of each task: a later run encodes them in the same way, at whatever site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .store import Buffer


#: Entry of a buffer's settings: task -> key -> number, truth value, or null where the key was not set.
ENTRY = "encoded"


def encoding_of(keys: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The keys that a buffer keeps: numbers and truth values only, since it may leave the site.

    Args:
        keys: The keys of a task's training.
        names: The keys that decide what a sample is trained on.
    """
    given = {name: keys.get(name) for name in sorted(names)}
    return {name: value for name, value in given.items() if _is_plain(value)}


def stored_encoding(buffer: Buffer | None, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What a buffer says of its tasks; nothing of a buffer of an earlier version.

    Args:
        buffer: The buffer.
        names: As for `encoding_of`; others are not looked at.
    """
    return {task: encoding_of(keys, set(names) & {*keys}) for task, keys in _entry(buffer).items()}


def next_encoding(buffer: Buffer | None, task: str, encoding: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The entry of the buffer that a task leaves.

    Args:
        buffer: The buffer so far.
        task: The task.
        encoding: From `encoding_of`.
    """
    return {**_entry(buffer), task: dict(encoding)}


def _entry(buffer: Buffer | None) -> dict[str, dict[str, Any]]:
    """What a buffer holds under `ENTRY`, as far as it has the form of keys by task."""
    entry = buffer.settings.get(ENTRY) if buffer is not None else None
    given = entry if isinstance(entry, Mapping) else {}
    return {str(task): dict(keys) for task, keys in given.items() if isinstance(keys, Mapping)}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int)
