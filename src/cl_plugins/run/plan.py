"""The plan of a run: which steps, in which order. Pure; nothing here loads or trains anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import CLConfig
from ..contract.method import Method
from ..records.results import JOINT, ORACLE, PREDICTIONS, PROBES, ZERO_SHOT, row_name


@dataclass(frozen=True)
class Step:
    """One unit of work and of resuming.

    Attributes:
        kind: What is done.
        task: The task that is trained, consolidated or tested, or the probe; None for ``finish``.
        row: For ``evaluate`` and ``probe``: the row of the accuracy matrix, or `ORACLE`.
        phase: For ``train``: a further phase of the task, see `cl_plugins.contract.phase.Phase`.
    """

    kind: Literal["evaluate", "probe", "train", "consolidate", "finish"]
    task: str | None = None
    row: str | None = None
    phase: str | None = None

    @property
    def tests(self) -> bool:
        """Whether a model answers questions."""
        return self.kind in ("evaluate", "probe")

    @property
    def place(self) -> str:
        """The folder of the run that holds the answers of all rows."""
        return PROBES if self.kind == "probe" else PREDICTIONS

    @property
    def key(self) -> str:
        """Key in the journal, e.g. ``evaluate:after_path:sur``."""
        return ":".join(part for part in (self.kind, self.row, self.task, self.phase) if part)


def make_plan(config: CLConfig, method: Method, earlier: tuple[str, ...] = ()) -> list[Step]:
    """The steps of a run.

    Args:
        config: The checked ``cl:`` block.
        method: The method: its schedule and the phases of its tasks.
        earlier: Tasks that went into the carry that this run starts from.

    Returns:
        Steps in order; the last one is ``finish``.
    """
    stream, settings, schedule = config.stream, config.eval, method.capabilities.schedule
    tested = [task.name for task in stream.tasks if task.test]
    steps: list[Step] = []
    if settings.zero_shot and settings.scope != "none":
        chosen = (config.block.only,) if config.block.only and settings.scope != "all" else stream.task_names
        steps += [Step("evaluate", name, ZERO_SHOT) for name in tested if name in chosen]
        steps += _probes(config, ZERO_SHOT)
    if schedule == "joint":
        steps += _training(JOINT, method)
        if settings.scope != "none":
            steps += [Step("evaluate", name, JOINT) for name in tested]
            steps += _probes(config, JOINT)
        return [*steps, Step("finish")]
    trained = [config.block.only] if config.block.only else list(stream.trained_names)
    never = [task.name for task in stream.tasks if not task.train]  # tested after every task, never trained
    seen = [name for name in earlier if name in stream.task_names]
    for name in trained:
        seen = [*seen, name] if name not in seen else seen
        steps += _training(name, method, seen.index(name) + 1)
        wanted = tested if settings.scope == "all" else [name] if schedule == "independent" else seen
        wanted = [*wanted, *never]
        if settings.scope != "none":
            steps += [
                Step("evaluate", other, row_name(name))
                for other in stream.task_names
                if other in wanted and other in tested
            ]
            steps += _probes(config, row_name(name), last=name == trained[-1])
    if settings.oracle and settings.scope != "none" and method.follows_told:
        steps += [Step("evaluate", name, ORACLE) for name in stream.task_names if name in seen and name in tested]
    return [*steps, Step("finish")]


def _probes(config: CLConfig, row: str, *, last: bool = True) -> list[Step]:
    """The steps of the probes in a row."""
    return [Step("probe", probe.name, row) for probe in config.eval.probes if last or probe.after == "every"]


def _training(task: str, method: Method, number: int = 1) -> list[Step]:
    """The steps from the first training of a task to its carry."""
    trained = [Step("train", task, phase=phase.name or None) for phase in method.phases if phase.since <= number]
    return [*trained, Step("consolidate", task)]


def rows(steps: list[Step]) -> list[str]:
    """Rows of the accuracy matrix without the zero-shot one, in order; also those of which nothing is tested."""
    found = [row_name(s.task) if s.task != JOINT else JOINT for s in steps if s.kind == "train" and s.task]
    return list(dict.fromkeys(found))
