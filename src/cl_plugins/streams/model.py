"""`Task` and `Stream`, the two words that everything else leans on."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..base.errors import Problem
from ..base.schema import option
from ..records.names import TASK as NAME


RESERVED = ("zero_shot", "joint")  # names of rows of the accuracy matrix
ROW_PREFIX = "after_"  # and so are these
#: Names of devices on Windows, also with an ending: no file there can have them.
DEVICES = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9])(?:\..*)?")
LENGTH = frozenset({"max_steps", "num_train_epochs"})  # either says how long to train


@dataclass(frozen=True)
class Task:
    """One named pair of data sets with a scorer."""

    name: str = option(help="Short name; used in file names and tables.")
    train: tuple[str, ...] = option((), help="Training sets: names in `dataset_info.json`, one or a list.")
    test: tuple[str, ...] = option(
        (), help="Test sets: names in `dataset_info.json`; without one the column stays empty."
    )
    valid: tuple[str, ...] = option(
        (),
        help="Validation sets: names in `dataset_info.json`; their loss is measured while the task trains, if the recipe sets "
        "`eval_strategy`.",
    )
    scorer: str = option("exact_match", help="How answers are scored; `cl-plugins list` shows the scorers.")
    peer_scorer: str | None = option(
        None, help="The published rule for the same answers (`peer:...`), for comparison; a run does not need it."
    )
    modality: str | None = option(None, help="Modality label, for methods that need one.")
    max_new_tokens: int | None = option(
        None, help="Longest answer in tokens; default: `cl.eval.max_new_tokens`.", minimum=1
    )
    options_column: str | None = option(
        None, help="Column of the raw record that lists the options (multiple choice)."
    )
    overrides: dict[str, Any] = option(
        factory=dict, help="Per-task LLaMA-Factory keys; `cl.task_overrides` takes precedence."
    )
    defaults: dict[str, Any] = option(
        factory=dict, help="LLaMA-Factory keys of the paper for this task, for recipes that do not set them."
    )
    title: str | None = option(None, help="Long name.")
    source: str | None = option(None, help="Where the data come from.")
    licence: str | None = option(None, help="Under which terms.")
    train_size: int | None = option(None, help="Number of training samples, where known.")
    test_size: int | None = option(None, help="Number of test items, where known.")

    def name_problems(self, where: str) -> list[Problem]:
        """A name that can be no file name, or is taken."""
        plain = self.name.casefold()  # some file systems know no capitals
        if NAME.fullmatch(self.name) and (plain.endswith(".") or DEVICES.fullmatch(plain)):
            what = f"is {self.name!r}, which cannot be the name of a file on Windows."
            return [
                Problem(where, what, "Do not end it with '.', and use no name of a device (con, nul, com1 and so on).")
            ]
        if NAME.fullmatch(self.name) and plain not in RESERVED and not plain.startswith(ROW_PREFIX):
            return []
        fix = (
            f"Use letters, digits, '_', '.' and '-'; not {' or '.join(RESERVED)}, and no '{ROW_PREFIX}' at the beginning: "
            "rows of the matrix have these names."
        )
        return [Problem(where, f"is {self.name!r}.", fix)]

    def with_defaults(self, keys: Collection[str]) -> Task:
        """The task with its ``defaults`` among its ``overrides``, but for those that a recipe has decided.

        Args:
            keys: The host keys that the recipe sets for this task; of `LENGTH`, one decides for both.
        """
        decided = {*keys, *self.overrides}
        decided |= LENGTH if decided & LENGTH else set()
        taken = {key: value for key, value in self.defaults.items() if key not in decided}
        return dataclasses.replace(self, overrides={**taken, **self.overrides})

    def with_length(self, keys: Collection[str], own: Collection[str]) -> Task:
        """The task with its own length of training: a number of steps from above it would win over its epochs.

        Args:
            keys: The host keys at the recipe's top level.
            own: Those that the recipe sets for this task, which decide over the stream's.
        """
        decided = LENGTH if LENGTH & {*own} else frozenset()
        overrides = {key: value for key, value in self.overrides.items() if key not in decided}
        given = LENGTH & {*own, *overrides}
        if given == {"num_train_epochs"} and "max_steps" in keys:
            overrides["max_steps"] = -1  # which is the host's word for none
        return dataclasses.replace(self, overrides=overrides)


@dataclass(frozen=True)
class Stream:
    """An ordered list of tasks."""

    name: str = option(help="Name of the stream.")
    tasks: tuple[Task, ...] = option(help="The tasks, in the order in which they are learned.")
    title: str | None = option(None, help="Long name.")
    notes: tuple[str, ...] = option((), help="Notes on the numbers; printed in every report.")
    paper: str | None = option(None, help="Where the stream was defined.")
    homepage: str | None = option(None, help="Where to find it.")

    @cached_property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks in order."""
        return tuple(task.name for task in self.tasks)

    @property
    def trained_names(self) -> tuple[str, ...]:
        """Names of the tasks that have training data, in order; the others are only tested."""
        return tuple(task.name for task in self.tasks if task.train)

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Names of the tasks that have neither training nor test data here: another site trains them."""
        return tuple(task.name for task in self.tasks if not task.train and not task.test)

    @property
    def learned_names(self) -> tuple[str, ...]:
        """Names of the tasks that are trained, here or at another site, in order."""
        return tuple(task.name for task in self.tasks if task.train or not task.test)

    def task(self, name: str) -> Task:
        """The task called ``name``; KeyError if there is none."""
        for task in self.tasks:
            if task.name == name:
                return task
        raise KeyError(name)

    def reordered(self, names: tuple[str, ...]) -> Stream:
        """The same tasks in the order of ``names``."""
        return dataclasses.replace(self, tasks=tuple(self.task(name) for name in names))

    def shuffled(self, seed: int) -> Stream:
        """A permutation of the tasks, the same for the same seed on every machine."""
        names = list(self.task_names)
        random.Random(seed).shuffle(names)
        return self.reordered(tuple(names))

    def value_problems(self, where: str) -> list[Problem]:
        """Names that clash, are reserved or cannot be file names."""
        found: list[Problem] = []
        seen: dict[str, int] = {}
        if not self.tasks:
            found.append(Problem(f"{where}.tasks", "is empty.", "A stream needs at least one task."))
        for i, task in enumerate(self.tasks):
            here = f"{where}.tasks[{i}]"
            found += task.name_problems(f"{here}.name")
            key = task.name.casefold()
            if key in seen:
                found.append(
                    Problem(f"{here}.name", f"{task.name!r} is also the name of task {seen[key] + 1}.", "Rename one.")
                )
            seen.setdefault(key, i)
            if task.peer_scorer is not None and not task.peer_scorer.startswith("peer:"):
                fix = "Write `peer:<library>` or `peer:<library>:<task>`; a strict scorer belongs under `scorer`."
                found.append(Problem(f"{here}.peer_scorer", f"is {task.peer_scorer!r}.", fix))
            found += self._valid_problems(task, f"{here}.valid")
        return found

    def _valid_problems(self, task: Task, where: str) -> list[Problem]:
        """Validation sets that are no use, or are something else as well."""
        found = []
        if task.valid and not task.train:
            what = "has a validation set, but no training data to validate."
            found.append(Problem(where, f"task '{task.name}' {what}", "Leave it out."))
        for name in task.valid:
            tested = next((other.name for other in self.tasks if name in other.test), None)
            if tested is not None:
                what = f"{name!r} is a test set of task '{tested}': the weights would be chosen by what they are tested on."
                found.append(Problem(where, what, "Give samples that are not tested."))
            if name in task.train:
                what = f"{name!r} is also a training set of this task."
                found.append(Problem(where, what, "Give samples that are not trained on."))
        return found
