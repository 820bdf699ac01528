"""What a run takes from the records of a test set besides their token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract.test_item import MEDIA, StoredMedia
from ..evaluation.items import FIELDS


def id_columns(records: Any) -> tuple[str, ...]:
    """Where ids are looked for: ``question_id`` goes first if ``id`` is repeated and it is not.

    Args:
        records: The raw records; None if they have no column of interest.
    """
    columns = ("id", "question_id")
    if records is None or not set(columns) <= set(records.column_names):
        return columns
    ids, questions = ([value for value in records[name] if value not in (None, "")] for name in columns)
    repeated = len(set(map(str, ids))) < len(ids)
    unique = len(questions) == len(records) and len(set(map(str, questions))) == len(questions)
    return columns[::-1] if repeated and unique else columns


def is_decoded(raw: Any, column: str) -> bool:
    """Whether reading a value of a column would decode a picture.

    Args:
        raw: The raw records.
        column: Name of the column.
    """
    from datasets import Image

    return isinstance(raw.features[column], Image)


def fields_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What scorers may need, as plain JSON values; of a picture only the name of its file.

    Args:
        record: A raw record.
    """
    plain = (str, int, float)
    found: dict[str, Any] = {}
    for name in FIELDS:
        value = record.get(name)
        if name == "image" and isinstance(value, list):
            value = value[0] if value else None
        if name == "image" and isinstance(value, str):
            value = value.replace("\\", "/").rsplit("/", 1)[-1]
        listed = isinstance(value, list) and all(isinstance(entry, plain) for entry in value)
        empty = value is None or (value in ("", []) and name != "answer_type")  # an empty type is a type of its own
        if not empty and (isinstance(value, plain) or listed):
            found[name] = value
    return found


def media_of(example: Mapping[str, Any], aligned: Any, row: int) -> Mapping[str, Any] | StoredMedia:
    """Paths as they are; anything else would stay in memory for the whole run, so only its place is kept.

    Args:
        example: A record of the host, before tokenising.
        aligned: The data set that it is in.
        row: Its row.
    """
    media = {kind: example.get(f"_{kind}") for kind in MEDIA}
    return media if all(_only_paths(value) for value in media.values()) else StoredMedia(aligned, row)


def _only_paths(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_only_paths, value))
    return value is None or isinstance(value, str)
