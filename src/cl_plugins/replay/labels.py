"""Whether kept samples have, in the batches of a later custom trainer, the labels that they had in their own task.

Trainers make labels in their collator: TRL's masks a prompt if the task's rows have a mask and its settings ask for it,
and decides by the first row of a batch. What a row is trained on can therefore depend on the task and on its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from ..base.errors import CompatibilityError, Problem
from ..training.collated import copied


WHERE = "replay"
OWN = 4  # samples of the task in training that are looked at
PER_TASK = 8  # samples of each past task that are collated alone
LOOKED_AT = 64  # samples of each past task whose form is looked at, and of each form one that is collated; pictures are decoded for it
FIX = (
    "Give all tasks rows of one form (all with `prompt` and `completion`, or all with whole texts) and the same settings "
    "of the loss, or tokenise all tasks beforehand, into rows of `input_ids` and `labels`."
)
_IGNORED = -100
_Form = frozenset[Any] | str
_Tokens = list[Any]  # the labels of each row of a batch, without those that are ignored


class Rows(Protocol):
    """Samples as the collator gets them."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """One row."""


class Stored(Rows, Protocol):
    """Rows of a buffer, see `rows.StoredRows`."""

    def labels(self, index: int) -> int | None:
        """How many label tokens it had in its own task, if that is known."""


class Labels:
    """The labels that a trainer's collator makes.

    Args:
        collate: The collator.
        own: The task's own samples, as the collator gets them.

    Attributes:
        own: The first ones.
        singly: Whether the collator takes a single row.
        alone: Whether a row alone always gets the same labels: the collator draws nothing.
        in_batches: Whether the task's own rows get them also in a batch.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], own: Rows) -> None:
        self._collate = collate
        with same_randomness():
            self.own = [own[index] for index in range(min(OWN, len(own)))]
            try:
                found = [[self._tokens([row])[0] for row in self.own] for _ in range(3)]
                together, reversed_ = self._tokens(self.own), self._tokens(self.own[::-1])[::-1]
            except Exception:  # what fails for the task's own rows is no matter of replay
                found, together, reversed_ = [], [], []
        self.singly = bool(found)
        self.alone = self.singly and found[0] == found[1] == found[2] and None not in found[0]
        self.in_batches = self.alone and together == found[0] == reversed_

    def of(self, rows: Sequence[Any]) -> _Tokens:
        """The labels of each row of a batch; None for all if there are none, or not one sequence per row."""
        with same_randomness():
            return self._tokens(rows)

    def _tokens(self, rows: Sequence[Any]) -> _Tokens:
        labels = self._collate([copied(row) for row in rows]).get("labels")
        if labels is None or len(labels) != len(rows):
            return [None] * len(rows)
        return [row[row != _IGNORED].tolist() for row in labels]

    def count(self, row: Any) -> int | None:
        """How many label tokens a row has; None if that is not the same each time."""
        if not self.alone:
            return None
        (tokens,) = self.of([row])
        return len(tokens) if tokens is not None else None


@contextmanager
def same_randomness() -> Iterator[None]:
    """Leave the random states as they are: collators may draw."""
    import numpy as np
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def check(labels: Labels, stored: Stored, tasks: Sequence[str], *, mixed: bool) -> None:
    """Refuse a task in which kept samples, or its own next to them, would get other labels.

    Args:
        labels: Of the task's collator.
        stored: The kept samples.
        tasks: The task of each.
        mixed: Whether they share batches with the task's own.

    Raises:
        CompatibilityError: If labels differ, or the collator fails.
    """
    looked_at: dict[str, int] = {}
    firsts: dict[tuple[str, _Form], Any] = {}
    for index, task in enumerate(tasks):
        if looked_at.get(task, 0) == LOOKED_AT:
            continue
        row = stored[index]
        first = firsts.setdefault((task, _form(row)), row) is row
        looked_at[task] = looked_at.get(task, 0) + 1
        if first or looked_at[task] <= PER_TASK:
            _check_alone(labels, row, task, stored.labels(index))
    own = {_form(row): row for row in reversed(labels.own)}
    past = [(task, form, row) for (task, form), row in firsts.items()]
    pairs = [(task, row, other, "of this task") for task, _, row in past for other in own.values() if mixed]
    forms = {form: (task, row) for task, form, row in reversed(past)}  # one of each
    for number, (task, row) in enumerate(list(forms.values())):
        pairs += [(task, row, other, f"of task '{name}'") for name, other in list(forms.values())[number + 1 :]]
    for task, row, other, whose in pairs:
        _check_pair(labels, row, other, task, whose)


def _check_alone(labels: Labels, row: Any, task: str, before: int | None) -> None:
    (tokens,) = _collated(labels, [row], f"a sample of task '{task}' cannot be collated by this trainer")
    if before is None or not labels.alone:
        return
    now = len(tokens) if tokens is not None else 0
    if now != before:
        what = (
            f"a sample of task '{task}' has {now} label tokens in the batches of this trainer, and had {before} in its "
            "own task: other parts of it would be trained on."
        )
        raise CompatibilityError(Problem(WHERE, what, FIX))


def _check_pair(labels: Labels, row: Any, other: Any, task: str, whose: str) -> None:
    about = f"in one batch with a sample {whose}{_difference(row, other)}, a sample of task '{task}'"
    for rows in ([other, row], [row, other]):
        tokens = _collated(labels, rows, f"{about} cannot be collated")
        if labels.in_batches and tokens != [labels.of([each])[0] for each in rows]:
            what = f"{about} would not be trained on the same tokens as alone, or change those of the other."
            raise CompatibilityError(Problem(WHERE, what, FIX))


def _collated(labels: Labels, rows: Sequence[Any], about: str) -> _Tokens:
    try:
        return labels.of(rows)
    except Exception as error:  # whatever a collator raises would stop the training somewhere
        if len(rows) == 1 and not labels.singly:
            return [None]
        raise CompatibilityError(Problem(WHERE, f"{about} ({type(error).__name__}: {error}).", FIX)) from error


def _difference(row: Any, other: Any) -> str:
    if not isinstance(row, Mapping) or not isinstance(other, Mapping):
        return ""
    names = sorted(map(str, {key for key in {*row, *other} if (row.get(key) is None) != (other.get(key) is None)}))
    return f" (only one of them has {', '.join(map(repr, names))})" if names else ""


def _form(row: Any) -> _Form:
    """What distinguishes rows for a collator: the columns that have a value."""
    return frozenset(key for key in row if row[key] is not None) if isinstance(row, Mapping) else type(row).__name__
