"""A test item ready for generation: what a host makes of a record, and what generates answers from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload


if TYPE_CHECKING:
    import numpy as np


#: Label of a token that the loss leaves out.
IGNORE_INDEX = -100
MEDIA = ("images", "videos", "audios")


@dataclass(frozen=True)
class StoredMedia:
    """Pictures, videos or sounds that are part of a data set: read from the disk when they are needed.

    Attributes:
        dataset: The host's data set.
        row: The row in it.
    """

    dataset: Any
    row: int

    def load(self) -> dict[str, Any]:
        """``images``, ``videos`` and ``audios`` of the row, as the host's collator takes them."""
        example = self.dataset[self.row]
        return {kind: example.get(f"_{kind}") for kind in MEDIA}


@dataclass(frozen=True)
class TestItem:
    """One test item, ready for generation.

    Attributes:
        id: From the raw record, or ``<task>/<n>``.
        prompt: Text of the last user turn.
        reference: The expected answer.
        options: Option texts, if the task names a column of them.
        tokens: Token ids of the prompt, with every picture token, int32.
        media: Paths of ``images``, ``videos`` and ``audios``, or where in a data set they are.
        kinds: Which kinds of media it has.
        picture_count: Number of its pictures.
        engine_tokens: Token ids with one token per picture, as vLLM takes them; only if requested.
        fields: The record's columns that some scorers need (`cl_plugins.evaluation.items.FIELDS`).
        reference_thought: The reasoning that the template teaches in front of the expected answer.
        thought_words: What the template writes before and behind reasoning.
    """

    __test__ = False  # not a test class, although pytest would collect it

    id: str
    prompt: str
    reference: str
    options: tuple[str, ...] | None
    tokens: np.ndarray
    media: Mapping[str, Any] | StoredMedia
    kinds: tuple[str, ...] = ()
    picture_count: int = 0
    engine_tokens: np.ndarray | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    reference_thought: str = ""
    thought_words: tuple[str, str] | None = None

    @property
    def feature(self) -> dict[str, Any]:
        """``input_ids`` (prompt only), ``attention_mask``, ``labels`` and media, rebuilt for the host's collator.

        The labels are empty: nothing is computed from them when answers are generated.
        """
        media = self.media.load() if isinstance(self.media, StoredMedia) else dict(self.media)
        ids = self.tokens.tolist()
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [IGNORE_INDEX], **media}


class TestSet(list[TestItem]):
    """The items of a test set.

    Attributes:
        dropped: Number of items that were left out because their prompt is too long.
        shortened: Number of items of which the model gets the beginning only.
    """

    __test__ = False

    def __init__(self, items: Iterable[TestItem] = (), dropped: int = 0, shortened: int = 0) -> None:
        """Set up.

        Args:
            items: The items, in the order of the data.
            dropped: Number of items that were left out.
            shortened: Number of items of which the model gets the beginning only.
        """
        super().__init__(items)
        self.dropped, self.shortened = dropped, shortened


class Features(Sequence[dict[str, Any]]):
    """The features of test items, made one by one when they are needed.

    Args:
        items: The items.
    """

    def __init__(self, items: Sequence[TestItem]) -> None:
        self._items = items

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Features: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Features:
        """The feature of one item."""
        return Features(self._items[index]) if isinstance(index, slice) else self._items[index].feature
