"""The classes of a stream: their numbers, the tasks that they belong to, and where each is named first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

from ..base.errors import DataError, RecipeError
from ..crossmodal.inputs import EncoderSpec
from ..evaluation.items import Item
from ..evaluation.scorers import get_scorer
from ..evaluation.scorers.text import normalise
from . import keys as key_rules
from .data import RecordSet


FULL = 99.995  # of 100
#: Name, training sets and keys of a task that is trained.
Training = tuple[str, Sequence[str], Mapping[str, Any]]


def record_set(
    name: str, keys: Mapping[str, Any], specs: Mapping[str, EncoderSpec], limit: int | None = None
) -> RecordSet:
    """A data set of a task.

    Args:
        name: Its name.
        keys: The recipe's keys with the task's own.
        specs: The encoders.
        limit: Only the first records up to this number are used.
    """
    return RecordSet(name, Path(str(keys.get("dataset_dir", "data"))), specs, limit)


class Classes:
    """The classes that the trainings of a stream name: task by task, sorted within a task.

    A task's classes are its ``labels``, else those of the records that it trains on.

    Args:
        trainings: The trainings in order.
        specs: The encoders.

    Raises:
        DataError: If a training set cannot be read.
    """

    def __init__(self, trainings: Sequence[Training], specs: Mapping[str, EncoderSpec]) -> None:
        self.places: dict[str, str] = {}
        self._of_task: dict[str, tuple[str, ...]] = {}
        for task, names, keys in trainings:
            given = keys.get(key_rules.LABELS)
            if given is not None:
                found = {str(name): f"`labels` of task '{task}'" for name in given}
            else:
                sets = (record_set(name, keys, specs, keys.get("max_samples")) for name in names)
                found = dict(sorted(first_places(sets).items()))
            self._of_task[task] = tuple(found)
            for name, place in found.items():
                self.places.setdefault(name, place)
        self.names = tuple(self.places)
        self.numbers = {name: number for number, name in enumerate(self.names)}

    def of(self, task: str) -> tuple[str, ...]:
        """The classes of a task; of a training of all tasks at once, all classes."""
        return self._of_task.get(task, self.names)

    def learned(self, tasks: Iterable[str]) -> int:
        """How many classes are learned with some tasks; they are the first ones.

        Args:
            tasks: Names of the tasks, or of a training of all of them.
        """
        return max((1 + self.numbers[name] for task in tasks for name in self.of(task)), default=0)

    def confused(self, scorer: str, task: str, references: Mapping[str, str]) -> list[tuple[str, str]]:
        """Pairs of names, of which the scorer takes one for the other.

        Args:
            scorer: Name of a task's scorer.
            task: The task.
            references: Label of a test set -> its place.
        """
        names = [*self.names, *(name for name in references if name not in self.numbers)]
        if scorer == "exact_match":
            groups: dict[str, list[str]] = {}
            for name in names:
                groups.setdefault(normalise(name), []).append(name)
            return [pair for group in groups.values() for pair in combinations(group, 2)]
        found: dict[tuple[str, str], None] = {}
        pairs = list(permutations(names, 2))
        items = [Item(str(n), "", given, right, None, {}) for n, (given, right) in enumerate(pairs)]
        try:
            values = get_scorer(scorer, task=task).score(items).items if items else ()
        except (DataError, RecipeError):  # of the test set it says the same
            return []
        for (given, right), value in zip(pairs, values, strict=False):  # a scorer may give none for single items
            if value >= FULL:
                found.setdefault((right, given) if (right, given) in found else (given, right))
        return list(found)


def first_places(sets: Iterable[RecordSet]) -> dict[str, str]:
    """Label -> file and number of the first record that has it.

    Args:
        sets: The data sets.

    Raises:
        DataError: If one cannot be read.
    """
    found: dict[str, str] = {}
    for each in sets:
        path = each.file()
        for number, record in enumerate(each.raw(), start=1):
            if "label" in record:
                found.setdefault(str(record["label"]), f"{path}, record {number}")
    return found
