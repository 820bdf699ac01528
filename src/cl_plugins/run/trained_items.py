"""Test items that are in a training set: the same question about the same media, in whichever file it stands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyarrow.compute import list_value_length

from ..contract.test_item import MEDIA, TestItem


_ROWS = 1000  # samples looked at together
#: One odd factor for every position of a prompt. A prompt's sum modulo 2^64 is its hash, so that a running sum over a
#: sample gives the hashes of all its beginnings.
_FACTORS = np.random.default_rng(0).integers(0, 2**63, size=1 << 16, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def trained_items(dataset: Any, items: Sequence[TestItem]) -> dict[int, int]:
    """Which test items a training set contains.

    A sample contains an item if it begins with the tokens of the item's prompt, or one of its packed samples does, and
    has the item's media: paths of the same files. Media within tables (bytes) are not compared, and neither is the
    answer.

    Args:
        dataset: A tokenised training set, ``input_ids`` of integers; with ``position_ids`` where samples are packed.
        items: Test items.

    Returns:
        Item -> the first sample that contains it, both as numbers.
    """
    media = {
        number: _paths_of(item.media)
        for number, item in enumerate(items)
        if len(item.tokens) <= len(_FACTORS) and isinstance(item.media, Mapping)
    }
    wanted: dict[tuple[int, str | None], list[int]] = {}  # hash of the prompt and first medium -> items
    for number, own in media.items():
        first = next((path for paths in own.values() for path in paths), None)
        wanted.setdefault((_hash(items[number].tokens), first), []).append(number)
    found: dict[int, int] = {}
    if not wanted:
        return found
    hashes = np.array(sorted({key[0] for key in wanted}), dtype=np.uint64)
    is_length = np.zeros(len(_FACTORS) + 1, dtype=bool)
    is_length[[len(items[number].tokens) for number in media]] = True
    for part in _parts(dataset):
        sums = _prefix_hashes(part.ids, part.places)
        ends = np.flatnonzero(is_length[np.minimum(part.places + 1, len(_FACTORS))])
        ends = ends[_contained(sums[ends], hashes)]
        rows = np.searchsorted(part.starts, ends, side="right") - 1
        media_of = part.media_of(np.unique(rows))
        for end, row in zip(ends.tolist(), rows.tolist(), strict=True):
            given = media_of[row]
            tokens = part.ids[end - int(part.places[end]) : end + 1]
            for path in (None, *(path for paths in given.values() for path in paths)):
                for number in wanted.get((int(sums[end]), path), ()):
                    same = number not in found and np.array_equal(tokens, items[number].tokens)
                    if same and all(_has(given.get(kind, []), paths) for kind, paths in media[number].items()):
                        found[number] = part.first + row
    return found


@dataclass
class _Part:
    """Some samples of a training set.

    Attributes:
        first: Number of the first one.
        ids: All their token ids, int64.
        starts: Where each sample begins.
        places: Place of each token in its sample, or in its part of a pack.
        media: Their columns of paths, an Arrow table.
    """

    first: int
    ids: Any
    starts: Any
    places: Any
    media: Any

    def media_of(self, rows: Any) -> dict[int, dict[str, list[str]]]:
        """Sample of this part -> kind of media -> its paths."""
        records = self.media.take(rows).to_pylist() if self.media.num_columns else [{}] * len(rows)
        return {row: _paths_of(record) for row, record in zip(rows.tolist(), records, strict=True)}


def _parts(dataset: Any) -> Iterator[_Part]:
    packed = "position_ids" in dataset.column_names
    kinds = [kind for kind in MEDIA if kind in dataset.column_names]
    columns = ["input_ids", *(["position_ids"] if packed else []), *kinds]
    first = 0
    for table in dataset.select_columns(columns).with_format("arrow").iter(batch_size=_ROWS):
        lists = table["input_ids"].combine_chunks()
        ids = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        sizes = list_value_length(lists).to_numpy(zero_copy_only=False)
        starts = np.cumsum(sizes) - sizes
        places = np.arange(len(ids)) - np.repeat(starts, sizes)
        if packed:
            places = table["position_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        paths = [kind for kind in kinds if "binary" not in str(table.schema.field(kind).type)]
        yield _Part(first, ids, starts, places, table.select(paths))
        first += len(lists)


def _prefix_hashes(ids: Any, places: Any) -> Any:
    """The hash of the tokens from the begin of a sample to each place."""
    sums = np.cumsum(_terms(ids, places), dtype=np.uint64)
    begins = np.flatnonzero(places == 0)
    before = np.concatenate([np.zeros(1, dtype=np.uint64), sums])[begins]
    return sums - np.repeat(before, np.diff(np.append(begins, len(ids))))


def _hash(tokens: Any) -> int:
    """The hash of a whole prompt."""
    return int(_terms(tokens, np.arange(len(tokens))).sum(dtype=np.uint64))


def _terms(ids: Any, places: Any) -> Any:
    return (np.asarray(ids).astype(np.uint64) + np.uint64(1)) * _FACTORS[np.minimum(places, len(_FACTORS) - 1)]


def _contained(values: Any, hashes: Any) -> Any:
    """Whether each value is one of the sorted hashes."""
    return hashes[np.minimum(np.searchsorted(hashes, values), len(hashes) - 1)] == values


def _has(given: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether media stand together among those of a sample, which may be packed."""
    size = len(wanted)
    return any(given[start : start + size] == wanted for start in range(len(given) - size + 1))


def _paths_of(media: Mapping[str, Any]) -> dict[str, list[str]]:
    """Kind of media -> absolute paths; a medium that is no path (bytes) has none that another one equals."""
    return {kind: _absolute(media[kind]) for kind in MEDIA if media.get(kind)}


def _absolute(media: Any) -> list[str]:
    if isinstance(media, list | tuple):
        return [path for one in media for path in _absolute(one)]
    return [os.path.abspath(media) if isinstance(media, str) else f"no path {id(media)}"]
