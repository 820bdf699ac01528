"""From the arguments of a `ContinualLearner` to its run directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import DataError, Problem, RecipeError
from ..base.schema import build, nearest, resolve_aliases
from ..config import CLBlock, CLConfig, EvalConfig, Recipe, ReplayConfig
from ..evaluation.scorers import get_scorer
from ..streams import Stream, Task
from .host import TEST, TRAIN, LearnerHost
from .learner_run import LearnerRun
from .rows import ScoreFunction, Test, TestRow, read_rows
from .settings import learner_keys


if TYPE_CHECKING:
    from peft import LoraConfig

    from ..adapters.plain_base import PlainBase
    from ..contract.method import Method
    from .session import AnswerFunction


#: The name of a stream that has none.
STREAM = "python"


def open_run(
    base: PlainBase,
    method: Method,
    directory: Path,
    *,
    tasks: Stream | Sequence[str | Task],
    tests: Mapping[str, Test],
    lora: LoraConfig | None,
    options: Mapping[str, Any],
    seed: int,
    replay: ReplayConfig,
    evaluation: Mapping[str, Any],
    reader: Any,
    answer: AnswerFunction | None,
) -> LearnerRun:
    """Open the run directory of a learner.

    Args:
        base: The base of the learner.
        method: Its method.
        directory: The directory.
        tasks: The tasks in the order of learning.
        tests: Task -> its test.
        lora: The LoRA.
        options: The method's options as given.
        seed: Seed of the stream.
        replay: The buffer's settings.
        evaluation: As ``cl.eval``.
        reader: Tokenizer or processor.
        answer: The user's own function for answers.

    Raises:
        RecipeError: With every problem of tasks, tests and evaluation.
        RunStateError: If the directory belongs to another run, or the script was changed.
    """
    problems: list[Problem] = []
    stream = _stream(tasks, tests, problems)
    read = _tests(tests, stream, problems)
    settings = _settings(evaluation, problems)
    if settings is not None and settings.oracle and not method.follows_told:
        what = f"compares with answers for the true task, and '{method.name}' does not find out a task for every question."
        problems.append(Problem("evaluation.oracle", what, "Leave it out."))
    if problems or stream is None or settings is None:
        raise RecipeError(problems, "The learner cannot be made:")
    if not read:
        settings = dataclasses.replace(settings, scope="none")
    config = CLConfig(
        stream=stream,
        method=method.name,
        method_options=resolve_aliases(type(method).config_class, dict(options)),
        block=CLBlock(stream=stream.name, method=method.name, replay=replay, eval=settings),
        options=method.config,
    )
    _join_processes()
    keys = learner_keys(base.model, lora, directory, seed)
    return LearnerRun(LearnerHost(base, reader, read, answer), Recipe(keys, config), method)


def _stream(tasks: Stream | Sequence[str | Task], tests: Mapping[str, Test], problems: list[Problem]) -> Stream | None:
    """The stream, each task with the names that its data have in ``run.json``."""
    given = tasks.tasks if isinstance(tasks, Stream) else tasks
    if isinstance(given, str) or not isinstance(given, Iterable):
        problems.append(Problem("tasks", f"is {given!r}.", "Give the names of the tasks, or `Task`s, in order."))
        return None
    found = []
    for number, each in enumerate(given):
        task = Task(name=each) if isinstance(each, str) else each
        if not isinstance(task, Task):
            problems.append(Problem(f"tasks[{number}]", f"is a {type(each).__name__}.", "Give a name or a `Task`."))
            continue
        try:
            get_scorer(task.scorer, where=f"tasks[{number}].scorer", task=task.name)
        except RecipeError as error:
            problems += error.problems
        test = (f"{task.name}/{TEST}",) if task.name in tests else ()
        own: dict[str, Any] = {
            "train": (f"{task.name}/{TRAIN}",),
            "test": test,
            "valid": (),
            "overrides": {},
            "defaults": {},
        }
        found.append(dataclasses.replace(task, **own))
    stream = Stream(name=tasks.name if isinstance(tasks, Stream) else STREAM, tasks=tuple(found))
    if not problems:
        problems += [
            Problem(p.where.removeprefix("learner."), p.what, p.fix) for p in stream.value_problems("learner")
        ]
    return stream


def _tests(
    tests: Mapping[str, Test], stream: Stream | None, problems: list[Problem]
) -> dict[str, tuple[TestRow, ...] | ScoreFunction]:
    """The tests, their rows checked."""
    names = stream.task_names if stream is not None else ()
    found: dict[str, tuple[TestRow, ...] | ScoreFunction] = {}
    for name, test in tests.items():
        if name not in names:
            fix = f"{nearest(name, names)} Tasks: {', '.join(names)}.".strip()
            problems.append(Problem("tests", f"names the unknown task {name!r}.", fix))
        elif callable(test):
            found[name] = test
        else:
            try:
                found[name] = read_rows(name, test)
            except DataError as error:
                problems += error.problems
    return found


def _settings(evaluation: Mapping[str, Any], problems: list[Problem]) -> EvalConfig | None:
    """As ``cl.eval``, with what a script cannot have refused."""
    settings = build(EvalConfig, dict(evaluation), "evaluation", problems)
    if settings is not None and settings.backend != "host":
        what = f"is {settings.backend!r}, which a script cannot use."
        fix = "Leave it out, and give `answer=`, a function that asks your engine."
        problems.append(Problem("evaluation.backend", what, fix))
    return settings


def _join_processes() -> None:
    """Under a launcher the processes must know each other before one of them decides something for all."""
    if ranks.launched():
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())
