"""Several runs as groups with means and intervals: what the comparison's tables and picture are made of."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import Problem, RunStateError
from . import earlier, scores
from .coarse_picture import NUMBERED
from .data_apart import data_remarks, unlike_tests
from .environment import Environment, environments
from .labels import labels as group_labels
from .notes import counted
from .probes import end_drift, shared_probes
from .run_data import Cell, Run, read_run
from .shared_tasks import left_out, on_tasks, shared_tasks
from .text import listing, said_once
from .training import mixed_recipes, unequal_training


METRICS = ("last", "average", "bwt", "forgetting", "mft")
NO_METRIC = "No metric is defined for these runs."
#: Metrics that are means over all tasks, so that a trivial answer has them too.
TASK_MEANS = ("last", "mft")


@dataclass(frozen=True)
class Summary:
    """Mean and interval of one quantity over the runs that have it.

    Attributes:
        values: The single runs, in the order given.
        mean: Their mean, or ``None`` without any.
        half_width: Half the 95 % t-interval, or ``None`` for fewer than two runs.
    """

    values: tuple[float, ...]
    mean: float | None
    half_width: float | None


@dataclass(frozen=True)
class Member:
    """One run of a comparison.

    Attributes:
        run: The run.
        name: Its directory, as short as tells it from the others.
        label: The group it belongs to.
        order: What it has learned, in this order, up to the point of the comparison; also tasks that others do not have.
    """

    run: Run
    name: str
    label: str
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Runs that repeat each other: one method and one recipe, other seeds or task orders.

    Attributes:
        label: The method, and what sets its recipe apart; or the name the user gave.
        members: The runs.
        metrics: Key to summary.
        final: Task to the summary of its final score.
        trivial: Task, or metric of `TASK_MEANS`, to what the best answer that needs no model reaches; only where all
            runs know it.
        drift: Probe to the summary of its difference to the zero-shot score after the last task.
    """

    label: str
    members: tuple[Member, ...]
    metrics: Mapping[str, Summary]
    final: Mapping[str, Summary]
    trivial: Mapping[str, float] = field(default_factory=dict)
    drift: Mapping[str, Summary] = field(default_factory=dict)

    def is_trivial(self, key: str) -> bool:
        """Whether the mean of a task or metric is not above what a trivial answer reaches."""
        summary = self.metrics[key] if key in self.metrics else self.final[key]
        return scores.is_trivial(summary.mean, self.trivial.get(key))

    @property
    def finished(self) -> int:
        """How many runs trained the whole stream."""
        return sum(member.run.stream_trained for member in self.members)


@dataclass(frozen=True)
class Comparison:
    """Runs on the tasks that all of them have.

    Attributes:
        tasks: The tasks, in the order of the first run.
        heads: The scorer of each task, for the heads of columns.
        unlike: Whether means over the tasks are means over unlike scores.
        probes: The probes that all runs share.
        groups: In the order in which their methods were given; groups of one method side by side.
        members: All runs.
        notes: What the runs themselves want every reader to know; what several say of different methods stands once.
        remarks: What else a reader has to know.
        environments: The versions and machines, and which runs were made with each.
        after: The task after whose row the streams are taken to have ended; ``None`` for whole streams.
        apart: The tasks and probes that not all runs were tested on with the same items.
    """

    tasks: tuple[str, ...]
    heads: tuple[str, ...]
    unlike: bool
    probes: tuple[str, ...]
    groups: tuple[Group, ...]
    members: tuple[Member, ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    environments: tuple[Environment, ...]
    after: str | None = None
    apart: tuple[str, ...] = ()

    def is_apart(self, key: str) -> bool:
        """Whether the values of a task, a probe or a metric come from different tests, so that they cannot be compared."""
        return key in self.apart or (key in METRICS and any(task in self.apart for task in self.tasks))

    @property
    def many(self) -> bool:
        """Whether there are more tasks than a table can have columns for."""
        return len(self.tasks) > NUMBERED

    @property
    def orders(self) -> tuple[tuple[str, ...], ...]:
        """The orders in which the runs learn the tasks, as they are met."""
        return tuple(dict.fromkeys(member.run.tasks for member in self.members))


def read_comparison(
    run_dirs: Sequence[Path], names: Sequence[str] | None = None, after: str | None = None
) -> Comparison:
    """Read several runs and group them.

    Runs of one method whose resolved recipes differ in nothing but seed, task order, places and logging form a group;
    what the stream sets for single tasks is part of the recipe. Runs of one method with other differences form several,
    named by what differs. With ``names``, equal names form a group. Where the runs have different tasks, the ones that
    all of them have are compared.

    Args:
        run_dirs: The directories; one that is given twice counts once.
        names: A name per directory.
        after: Compares the runs at an earlier point: each as if its stream had ended after the row of this task, see
            `earlier`.

    Returns:
        The comparison.

    Raises:
        RunStateError: A run cannot be read or has no row of the task ``after``, or the runs share no task or have other
            scorers; lists every problem.
        ValueError: ``names`` has another length than ``run_dirs``.
    """
    if names is not None and len(names) != len(run_dirs):
        raise ValueError(f"{len(names)} names for {len(run_dirs)} runs")
    read, given, remarks = _read(run_dirs, names, after)
    whole_runs = read if after is None else earlier.up_to_row(read, after)
    tasks = shared_tasks(whole_runs)
    _check_comparable(whole_runs, tasks)
    labels = list(given) if names is not None else group_labels(whole_runs)
    short = _short_names([run.path for run in whole_runs])
    remarks += (
        left_out(read, short, tasks) if after is None else earlier.remarks(read, whole_runs, short, tasks, after)
    )
    runs = [on_tasks(run, tasks) for run in whole_runs]
    orders = [run.learned for run in whole_runs]
    members = tuple(Member(*one) for one in zip(runs, short, labels, orders, strict=True))
    groups = []
    probes = shared_probes(whole_runs)
    methods = [run.method for run in runs]
    for label in sorted(dict.fromkeys(labels), key=lambda label: methods.index(methods[labels.index(label)])):
        found = _group(label, tuple(member for member in members if member.label == label), tasks)
        ends = [run for run, own in zip(whole_runs, labels, strict=True) if own == label and run.stream_trained]
        drifts = {probe: summarise([_difference(run, probe) for run in ends]) for probe in probes}
        groups.append(dataclasses.replace(found, drift=drifts))
    notes = said_once(note for run in runs for note in run.notes)
    made_with = environments((member.name, member.run) for member in members)
    remarks += _remarks(tuple(groups), members)
    named = [(run, label, name) for run, label, name in zip(whole_runs, labels, short, strict=True)]
    remarks += data_remarks(named, tasks, probes)
    remarks += unequal_training([(run, label) for run, label in zip(whole_runs, labels, strict=True)], tasks)
    if names is not None:
        remarks += mixed_recipes([(run, label) for run, label in zip(whole_runs, labels, strict=True)])
    first = runs[0]
    return Comparison(
        tasks,
        scores.heads(first),
        scores.unlike(first),
        probes,
        tuple(groups),
        members,
        notes,
        tuple(remarks),
        made_with,
        after,
        unlike_tests(whole_runs, tasks, probes),
    )


def _group(label: str, members: tuple[Member, ...], tasks: Sequence[str]) -> Group:
    """The members with their means. A run that stopped half-way has no final scores, and its metrics are of another stream."""
    whole = [member.run for member in members if member.run.stream_trained]
    metrics = {key: summarise([metric_of(run, key) for run in whole]) for key in METRICS}
    final = {task: summarise([run.final[run.tasks.index(task)].score for run in whole]) for task in tasks}
    trivial: dict[str, float] = {}
    for task in tasks:
        found = [scores.trivial_score(run.final[run.tasks.index(task)]) for run in whole]
        known = [value for value in found if value is not None]
        if known and len(known) == len(whole):
            trivial[task] = math.fsum(known) / len(known)
    if len(trivial) == len(tasks):
        trivial |= dict.fromkeys(TASK_MEANS, math.fsum(trivial.values()) / len(tasks))
    return Group(label, members, metrics, final, trivial)


def _difference(run: Run, probe: str) -> float | None:
    """The difference of a probe at the end of a run."""
    part = end_drift(run, probe)
    return part.difference if part is not None else None


def summarise(values: Sequence[float | None]) -> Summary:
    """Mean and half the 95 % interval ``t_{0.975, n-1} · s / sqrt(n)`` of the values that are there.

    Args:
        values: One per run; ``None`` where a run has none.

    Returns:
        The summary; no interval for fewer than two values.
    """
    found = tuple(value for value in values if value is not None)
    count = len(found)
    if not count:
        return Summary((), None, None)
    mean = math.fsum(found) / count
    if count < 2:
        return Summary(found, mean, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (count - 1))
    return Summary(found, mean, t_quantile(count - 1) * deviation / math.sqrt(count))


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (`scipy.stats.t`).

    Args:
        freedom: Degrees of freedom, at least 1.
    """
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


def latest_cell(run: Run, task: str) -> Cell:
    """The final cell of a task, or the latest measured one of a run that has not finished; an empty one without any."""
    column = run.tasks.index(task)
    if run.stream_trained or run.independent:  # the other rows of independent models say nothing of this task's
        return run.final[column]
    cells = [row.cells[column] for row in run.trained_rows]
    return next((cell for cell in reversed(cells) if cell.score is not None), Cell())


def metric_of(run: Run, key: str) -> float | None:
    """A metric of a run, or ``None``."""
    return run.metrics[key].value if key in run.metrics else None


def _read(
    run_dirs: Sequence[Path], names: Sequence[str] | None, after: str | None
) -> tuple[list[Run], list[str], list[str]]:
    """Every run once, with its name; all problems at once."""
    if not run_dirs:
        raise RunStateError(Problem("compare", "no runs were given.", "Name at least one output_dir."))
    runs: list[Run] = []
    given: list[str] = []
    remarks: list[str] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for index, directory in enumerate(run_dirs):
        place = Path(directory).resolve()
        if place in seen:
            remarks.append(f"{Path(directory).name} was given more than once and counts once.")
            continue
        seen.add(place)
        try:
            runs.append(read_run(Path(directory)))
            problems += earlier.problems(runs[-1], after) if after is not None else []
            given.append(names[index] if names is not None else "")
        except RunStateError as error:
            problems += error.problems
    if problems:
        raise RunStateError(problems)
    return runs, given, remarks


def _check_comparable(runs: Sequence[Run], tasks: Sequence[str]) -> None:
    """Raise if the runs share no task, or score one that they share with different scorers."""
    first = runs[0]
    problems = []
    if not tasks:
        lists = "; ".join(f"{run.path} has {listing(run.tasks)}" for run in runs)
        fix = "Compare runs that have at least one task in common."
        raise RunStateError(Problem("compare", f"no task is part of all runs: {lists}.", fix))
    for run in runs[1:]:
        for task in tasks:
            mine, theirs = run.scorers.get(task), first.scorers.get(task)
            if mine != theirs:
                what = f"scores {task} with {mine}, {first.path} with {theirs}."
                problems.append(Problem(str(run.path), what, "Score one of them again: `cl-plugins report --scorer`."))
    if problems:
        raise RunStateError(problems, "These runs cannot be compared:")


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The directories without what they have in common, never empty."""
    places = [path.resolve() for path in paths]
    if len(places) == 1:
        return [places[0].name]
    common = Path(os.path.commonpath([str(place.parent) for place in places]))
    return [place.relative_to(common).as_posix() for place in places]


def _remarks(groups: tuple[Group, ...], members: tuple[Member, ...]) -> Iterator[str]:
    """What keeps the numbers from saying what they seem to say."""
    for member in members:
        if member.run.unfinished:
            left_out = "" if member.run.stream_trained else "; left out of the means"
            yield f"† {member.name} is not complete: {member.run.unfinished}{left_out}."
    orders = {member.run.tasks for member in members}
    if len(orders) > 1:
        yield f"The runs learn the tasks in {len(orders)} orders; means are taken over them."
    if len({member.run.stream for member in members}) > 1:
        yield f"The streams have different names: {listing(sorted({member.run.stream for member in members}))}."
    tasks = members[0].run.tasks
    if note := scores.unlike_note(members[0].run):
        yield note
    limited = sorted({task for member in members for task in member.run.limits}, key=tasks.index)
    if limited:
        yield f"Tests limited by cl.eval.max_items in some or all runs: {counted(limited, listing(limited))}."
    shortened = sorted({task for member in members for task in member.run.left_out}, key=tasks.index)
    if shortened:
        yield f"Test items left out in some or all runs, because their prompts exceed cutoff_len: {counted(shortened, listing(shortened))}."
    for group in groups:
        repeated = [(member.run.seed, member.run.tasks) for member in group.members if member.run.seed is not None]
        if len(set(repeated)) < len(repeated):
            yield f"{group.label}: runs of equal seed and task order are not independent; the interval is too narrow."
        methods = sorted({member.run.method for member in group.members})
        if len(methods) > 1:
            yield f"{group.label}: one name for runs of several methods ({listing(methods)})."
    if any(member.run.joint is not None or member.run.independent for member in members):
        yield "Joint and independent models see no stream of tasks, so metrics over the stream are not defined for them."
