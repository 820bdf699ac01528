"""Differences of every group to one of them, within pairs of runs of equal seed and task order.

What seed and order decide alike for two methods (fresh weights, the order of samples) is then no part of the difference.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from ..base.errors import Problem, RunStateError
from .groups import METRICS, Comparison, Group, Member, Summary, latest_cell, metric_of, summarise
from .run_data import Run
from .text import listing


#: Stands before a difference whose interval does not contain 0.
MARK = "*"
MARK_NOTE = f"{MARK} The interval does not contain 0."
_ROUNDING = 1e-9  # far below a difference of scores, far above the error of their sums

Pair = tuple[Member, Member]


@dataclass(frozen=True)
class PairedGroup:
    """One group and its differences to the baseline.

    Attributes:
        label: The group.
        pairs: A run of the group and the one of the baseline that belongs to it.
        metrics: Key to the summary of the differences, group minus baseline; pairs of which one run has no value are
            not in it.
        tasks: Task to the summary of the differences of its final score.
    """

    label: str
    pairs: tuple[Pair, ...]
    metrics: Mapping[str, Summary]
    tasks: Mapping[str, Summary]

    @property
    def by_seed(self) -> bool:
        """Whether a pair has a joint or independent model, which learns its tasks in no order."""
        return any(_of_no_order(member) for pair in self.pairs for member in pair)


@dataclass(frozen=True)
class Paired:
    """The differences of all groups to one of them.

    Attributes:
        baseline: The label of this group.
        groups: The others, in the order of the comparison.
        remarks: Groups without a pair, and runs that belong to no single pair.
    """

    baseline: str
    groups: tuple[PairedGroup, ...]
    remarks: tuple[str, ...]


def differences(comparison: Comparison, name: str) -> Paired:
    """The differences of every other group to a baseline, within pairs.

    A pair has one finished run of each group, of equal seed and equal order of all tasks learned so far. The order does not
    count where one of the two is a joint or an independent model: what is left then pairs by its seed. Runs of one group
    that share seed and order belong to no single pair and are left out.

    Args:
        comparison: The comparison.
        name: The label of the baseline, or the name of its method where only one group has this method.

    Returns:
        The differences.

    Raises:
        RunStateError: No group or more than one has this name, or there is no other group.
    """
    baseline = _baseline(comparison, name)
    groups = []
    remarks: list[str] = []
    for group in comparison.groups:
        if group is baseline:
            continue
        pairs, unclear = _pairs(_finished(group), _finished(baseline))
        metrics = {key: _summary(pairs, partial(metric_of, key=key)) for key in METRICS}
        tasks = {task: _summary(pairs, partial(_score, task=task)) for task in comparison.tasks}
        groups.append(PairedGroup(group.label, tuple(pairs), metrics, tasks))
        remarks += _remarks(comparison, group, baseline, pairs, unclear)
    return Paired(baseline.label, tuple(groups), tuple(remarks))


def without_zero(summary: Summary) -> bool:
    """Whether there is an interval of a mean, and 0 is not in it."""
    if summary.mean is None or summary.half_width is None:
        return False
    return abs(summary.mean) > summary.half_width + _ROUNDING


def _baseline(comparison: Comparison, name: str) -> Group:
    """The group of a label, or the only one of a method."""
    labels = [group.label for group in comparison.groups]
    found = [group for group in comparison.groups if group.label == name]
    found = found or [g for g in comparison.groups if {member.run.method for member in g.members} == {name}]
    where = f"baseline {name}"
    if len(found) != 1:
        what = f"{len(found)} groups are of this method" if found else "no group has this label"
        what = f"{what}; the labels are: {'; '.join(labels)}."
        raise RunStateError(Problem(where, what, "Give one of these labels, in quotation marks if it has spaces."))
    if len(labels) == 1:
        what = "all runs belong to this group, so that nothing can be compared with it."
        raise RunStateError(Problem(where, what, "Add runs of another method or recipe, or leave the baseline out."))
    return found[0]


def _finished(group: Group) -> list[Member]:
    """The runs that the means are taken over."""
    return [member for member in group.members if member.run.stream_trained]


def _pairs(mine: Sequence[Member], theirs: Sequence[Member]) -> tuple[list[Pair], list[Member]]:
    """The pairs in the order of the first runs, and the runs that have more than one possible partner."""
    pairs: list[Pair] = []
    unclear: list[Member] = []
    rules: tuple[tuple[Callable[[Member], Hashable], Callable[[Member, Member], bool]], ...] = (
        (lambda member: member.order, lambda one, other: True),
        (lambda member: None, lambda one, other: _of_no_order(one) or _of_no_order(other)),
    )
    for part, fit in rules:
        taken = {id(member) for pair in pairs for member in pair} | {id(member) for member in unclear}
        ours, others = ([m for m in side if id(m) not in taken and m.run.seed is not None] for side in (mine, theirs))
        for key in dict.fromkeys((member.run.seed, part(member)) for member in ours):
            first = [member for member in ours if (member.run.seed, part(member)) == key]
            second = [member for member in others if (member.run.seed, part(member)) == key]
            fitting = [(one, other) for one in first for other in second if fit(one, other)]
            if len(fitting) == 1:
                pairs += fitting
            else:
                unclear += {id(member): member for pair in fitting for member in pair}.values()
    place = {id(member): index for index, member in enumerate(mine)}
    return sorted(pairs, key=lambda pair: place[id(pair[0])]), unclear


def _of_no_order(member: Member) -> bool:
    """Whether a run learns its tasks in no order: all at once, or each with a model of its own."""
    return member.run.joint is not None or member.run.independent


def _summary(pairs: Sequence[Pair], value: Callable[[Run], float | None]) -> Summary:
    """The differences of the pairs of which both runs have a value."""
    values = [(value(mine.run), value(theirs.run)) for mine, theirs in pairs]
    return summarise([None if one is None or other is None else one - other for one, other in values])


def _score(run: Run, task: str) -> float | None:
    """The final score of a task."""
    return latest_cell(run, task).score


def _remarks(
    comparison: Comparison, group: Group, baseline: Group, pairs: Sequence[Pair], unclear: Sequence[Member]
) -> Iterator[str]:
    """Why there is no pair, and which runs belong to no single one."""
    start = f"Differences to {baseline.label}: {group.label}"
    if unclear:
        names = listing(member.name for member in comparison.members if any(member is other for other in unclear))
        left = "" if pairs else ", and no pair remains"
        yield f"{start}: runs that could form more than one pair are left out{left}: {names}."
    elif not pairs:
        yield f"{start} has no pair, because {_reason(comparison, group, baseline)}."


def _reason(comparison: Comparison, group: Group, baseline: Group) -> str:
    """Why two groups have no pair."""
    sides = (baseline, group)
    for side in sides:
        if not _finished(side):
            point = "finished" if comparison.after is None else f"complete after {comparison.after}"
            return f"no run of {side.label} is {point}"
    seeds = [{m.run.seed for m in _finished(side)} - {None} for side in sides]
    for side, known in zip(sides, seeds, strict=True):
        if not known:
            return f"no run of {side.label} has recorded its seed"
    if seeds[0] & seeds[1]:
        return "its runs learn other tasks, or in other orders, than those of equal seed"
    return "no seed is common to both"
