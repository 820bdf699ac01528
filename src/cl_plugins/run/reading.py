"""What a run reads before its base loads: every test set, and the training sets of all tasks.

What is wrong with the last task's data is reported before the first training, with all other problems.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import DataError, Problem, RecipeError
from ..base.logs import logger
from ..evaluation.items import Item
from ..evaluation.scorers import get_scorer
from .harness import task_problems


if TYPE_CHECKING:
    from ..contract.session import Rows, TaskArgs
    from ..contract.test_item import TestItem
    from ..streams import Task
    from .state import RunState


#: A scorer that gives the references themselves less than this is worth a warning.
FULL_MARKS = 99.995


@contextmanager
def quiet_examples() -> Iterator[None]:
    """The host prints the tokens of an example at every load; that is once per task here."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def read_data(
    state: RunState, tests: Sequence[str], trainings: Sequence[str], known: Collection[tuple[str, str]] = ()
) -> None:
    """Read and check what a run needs; both are kept until they are used.

    Args:
        state: The run.
        tests: Tasks whose test sets are needed.
        trainings: Trainings whose data are checked.
        known: Training and task whose test set is known to be trained on, see `trained_tests`.

    Raises:
        DataError: With everything that is wrong with the data.
        RecipeError: The same, if the host also refuses the keys of a task.
    """
    parsed, refusals = parse_all(state, trainings)
    problems: list[Problem] = []
    for name, args in parsed.items():
        try:
            with quiet_examples():
                state.keep_training_set(name, args)
        except DataError as error:
            problems += error.at(f"task '{name}'")
    for name in tests:
        problems += _test_problems(state, state.config.tested(name))
    if refusals:
        refused = [argument_problem(state, trainings, message, names) for message, names in refusals.items()]
        raise RecipeError([*refused, *problems])
    if problems:
        raise DataError(problems)
    for line in ranks.on_main(lambda: _trained(state, list(parsed), tests, set(known))):
        logger.warning("%s", line)


def parse_all(state: RunState, trainings: Sequence[str]) -> tuple[dict[str, TaskArgs], dict[str, list[str]]]:
    """Let the host parse the keys of every training.

    Args:
        state: The run.
        trainings: Their names.

    Returns:
        Training -> arguments, and message of the host -> trainings with this message.
    """
    parsed: dict[str, TaskArgs] = {}
    refusals: dict[str, list[str]] = {}
    for name in trainings:
        try:
            parsed[name] = state.task_args(name)
        except Exception as error:  # the host raises the exceptions of its libraries, from ValueError to ImportError
            refusals.setdefault(str(error).strip() or type(error).__name__, []).append(name)
    return parsed, refusals


def argument_problem(state: RunState, trainings: Sequence[str], message: str, refused: Sequence[str]) -> Problem:
    """The problem of keys that the host refuses.

    Args:
        state: The run.
        trainings: All trainings that were tried.
        message: What the host says.
        refused: The trainings with this message.
    """
    some = f"task{'s' if len(refused) > 1 else ''} {', '.join(refused)}"
    fix = ""
    if "use_cpu" in message or "bf16" in message.lower():
        engine = state.host_keys.get("deepspeed")
        fix = "Check it on a machine with a GPU" + ("." if engine else ", or add `use_cpu=true`.")
    where = "the recipe" if len(refused) == len(trainings) else some
    return Problem(where, f"{state.host.name} says: {message}", fix)


def _test_problems(state: RunState, task: Task) -> list[Problem]:
    """What is wrong with a task's test set, its references scored against themselves included."""
    probe = state.config.probe(task.name)
    if probe is not None and probe.harness:
        return ranks.on_main(lambda: task_problems(probe))
    try:
        items = state.tests(task)
    except DataError as error:
        return error.at(f"task '{task.name}'")
    return ranks.on_main(lambda: reference_problems(task, items))


def _trained(
    state: RunState, trainings: Sequence[str], tests: Sequence[str], known: Set[tuple[str, str]]
) -> list[str]:
    """Test items that are in training sets, in sentences for the log."""
    probes = (state.config.probe(name) for name in tests)
    sets = {
        name: state.tests(state.config.tested(name))
        for name, probe in zip(tests, probes, strict=True)
        if probe is None or not probe.harness
    }
    items = [(name, item) for name, found in sets.items() for item in found]
    lines = []
    for training in trainings:
        dataset = state.kept_training_set(training).get("train_dataset")
        if dataset is None:
            continue
        found = state.session.trained_items(dataset, [item for _, item in items])
        for test, numbers in groupby(sorted(found), key=lambda number: items[number][0]):
            rows = list(numbers)
            if (training, test) not in known:
                lines.append(
                    f"task '{training}': its training set contains {len(rows)} of the {len(sets[test])} test items of task "
                    f"'{test}' (first: item {items[rows[0]][1].id!r} in sample {found[rows[0]]}): their scores measure what was "
                    "learned by heart"
                )
    return lines


def reference_problems(task: Task, items: Sequence[TestItem]) -> list[Problem]:
    """What a task's scorer says to its own references, each taken as an answer.

    A scorer that cannot read a reference would stop the run after a training; one that gives the references less than
    everything is named in the log, since no model can do better.

    Args:
        task: The task.
        items: Its test items.
    """
    right = [Item(t.id, t.prompt, t.reference, t.reference, t.options, t.fields) for t in items]
    try:
        score = get_scorer(task.scorer, task=task.name).score(right)
    except (DataError, RecipeError) as error:
        return error.at(f"task '{task.name}'")
    if score.score < FULL_MARKS:
        logger.warning(
            "task '%s': its references score %.1f against themselves with '%s'; this is the upper bound",
            task.name,
            score.score,
            task.scorer,
        )
    return []


class TrainingSets:
    """Training sets that were prepared before the run began, each kept until its training.

    The arguments stay with them: an engine's settings live as long as they do.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, tuple[dict[str, Any], Rows | None]]] = {}

    def add(self, task: str, args: Any, found: tuple[dict[str, Any], Rows | None]) -> None:
        """Keep the training set of a task."""
        self._kept[task] = args, found

    def look(self, task: str) -> dict[str, Any]:
        """The training set of a task, which stays kept; nothing if it was not prepared."""
        return self._kept[task][1][0] if task in self._kept else {}

    def take(self, task: str) -> tuple[dict[str, Any], Rows | None] | None:
        """The training set of a task, no longer kept; None if it was not prepared."""
        found = self._kept.pop(task, None)
        return found[1] if found is not None else None
