"""The ``cl:`` block of a recipe as strict dataclasses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from .base.errors import Problem
from .base.schema import option
from .streams import Probe, Stream, Task


@dataclass(frozen=True)
class EvalConfig:
    """What is measured after every task."""

    scope: Literal["seen", "all", "none"] = option(
        "seen", help="After a task, test the tasks seen so far, all tasks (needed for forward transfer), or nothing."
    )
    zero_shot: bool = option(
        True,
        help="Test the base on every task before any training; with `cl.only` on this task, and with `scope: all` on every "
        "task that has a test set here.",
    )
    oracle: bool = option(
        False,
        help="Answer the last row a second time with the true task's part, where the model finds out the task itself; the "
        "report shows both.",
    )
    max_new_tokens: int = option(64, help="Longest answer in tokens, for tasks that do not set it.", minimum=1)
    too_long: Literal["error", "drop"] = option(
        "error",
        help="What happens to test items whose prompt is longer than `cutoff_len`: an error, or they are left out and "
        "counted in every table.",
    )
    max_items: int | None = option(None, help="Use only the first N test items; printed in every table.", minimum=1)
    probes: tuple[Probe, ...] = option(
        (),
        help="Tests outside of the stream, answered before the first task and after every task: what else the model loses.",
    )
    backend: Literal["host", "vllm"] = option(
        "host", help="Engine for the answers: the model in memory, or vLLM with the merged model (see Evaluation)."
    )
    backend_options: dict[str, Any] = option(
        factory=dict, help="Arguments for `vllm.LLM`, e.g. `gpu_memory_utilization`; only with `backend: vllm`."
    )

    def value_problems(self, where: str) -> list[Problem]:
        """Probes that share a name, or are never measured.

        Args:
            where: YAML path for the messages.
        """
        found = []
        seen: dict[str, int] = {}
        for number, probe in enumerate(self.probes):
            key = probe.name.casefold()
            if key in seen:
                what = f"{probe.name!r} is also the name of probe {seen[key] + 1}."
                found.append(Problem(f"{where}.probes[{number}].name", what, "Rename one."))
            seen.setdefault(key, number)
        if self.probes and self.scope == "none":
            fix = "Use `scope: seen`, or leave the probes out."
            found.append(Problem(f"{where}.probes", "is given with `scope: none`, which tests nothing.", fix))
        return found


@dataclass(frozen=True)
class ReplayConfig:
    """Which samples of past tasks are kept, and how they are mixed with new ones. Nothing is kept by default."""

    capacity_per_task: int = option(0, help="Training samples kept per past task; 0 keeps none.", minimum=0)
    capacity_total: int | None = option(
        None, help="Training samples kept of all past tasks together, instead of `capacity_per_task`.", minimum=0
    )
    policy: Literal["task_balanced", "reservoir"] = option(
        "task_balanced",
        help="How `capacity_total` is shared: equally among the tasks, or as a uniform sample of all training samples.",
    )
    selection: Literal["random", "class_balanced", "herding", "k_center", "highest_loss", "lowest_loss"] = option(
        "random",
        help="Which samples of a task are kept: at random; equally many per answer; close to the mean, or spread out, "
        "by the trained model's features; or by its loss.",
    )
    candidates: int | None = option(
        1000,
        help="Herding, k_center and the losses choose from this number of samples of a task, drawn at random; null: from all.",
        minimum=1,
    )
    mixing: Literal["concatenate", "ratio", "separate"] = option(
        "concatenate",
        help="Add every kept sample once to the next training set; repeat them until they make up `ratio` of it; or add "
        "the loss of a memory batch to that of every micro-batch.",
    )
    ratio: float = option(0.5, help="With `mixing: ratio`: share of kept samples in the training set.")
    weight: float = option(1.0, help="With `mixing: separate`: weight of the memory batch's loss.", minimum=0)
    batch: int | None = option(
        None,
        help="Memory samples per micro-batch, for `mixing: separate` and DER; null takes as many as there are new ones.",
        minimum=1,
    )

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return bool(self.capacity_per_task or self.capacity_total)

    def value_problems(self, where: str) -> list[Problem]:
        """Settings that contradict each other.

        Args:
            where: YAML path for the messages.
        """
        found = []
        if self.capacity_per_task and self.capacity_total is not None:
            fix = "Keep one of the two."
            found.append(Problem(f"{where}.capacity_total", "is given together with capacity_per_task.", fix))
        if self.policy == "reservoir" and not self.capacity_total:
            fix = "Give `capacity_total`, or use `policy: task_balanced`."
            found.append(Problem(f"{where}.policy", "is 'reservoir', which shares one capacity among all tasks.", fix))
        if self.policy == "reservoir" and self.selection != "random":
            what = f"is {self.selection!r}, but a reservoir always draws at random."
            found.append(Problem(f"{where}.selection", what, "Use `policy: task_balanced`."))
        if not 0 < self.ratio < 1:
            found.append(Problem(f"{where}.ratio", f"is {self.ratio}.", "Give a number between 0 and 1."))
        return found


@dataclass(frozen=True)
class CLBlock:
    """The keys of the ``cl:`` block as written in the YAML."""

    stream: str | dict[str, Any] = option(help="Built-in stream, path of a stream file, or the stream itself.")
    method: str | dict[str, Any] = option(help="Name of the method, or its `name` together with its options.")
    task_overrides: dict[str, dict[str, Any]] = option(factory=dict, help="LLaMA-Factory keys for single tasks.")
    replay: ReplayConfig = option(factory=ReplayConfig, help="Replay of past samples.")
    eval: EvalConfig = option(factory=EvalConfig, help="Evaluation.")
    order: list[str] | None = option(None, help="Order of the tasks, if not that of the stream.")
    order_seed: int | None = option(None, help="Shuffle the order of the tasks with this seed.")
    only: str | None = option(None, help="Train this one task only, from `carry_from`.")
    carry_from: str | None = option(
        None,
        help="Directory of an earlier run whose carry this run starts from, or a file that `cl-plugins carry pack` wrote.",
    )
    seed_per_task: bool = option(
        True, help="Task k trains with seed + 1000 (k-1); false gives every task the same seed."
    )
    keep: Literal["last", "all", "none"] = option("all", help="Which tasks' updates stay under `tasks/`.")
    stop_after: int | None = option(None, help="End cleanly after this number of steps of the run.", minimum=1)
    restart: bool = option(False, help="Move an existing output directory aside and start again.")

    def value_problems(self, where: str) -> list[Problem]:
        """Keys that contradict each other.

        Args:
            where: YAML path for the messages.
        """
        found = []
        if self.order is not None and self.order_seed is not None:
            found.append(Problem(f"{where}.order", "is given together with order_seed.", "Keep one of the two."))
        if self.carry_from is not None and self.only is None:
            fix = "Name the task to train: `only: NAME`."
            found.append(Problem(f"{where}.carry_from", "is given without `only`.", fix))
        return found


@dataclass(frozen=True)
class CLConfig:
    """The checked ``cl:`` block.

    Attributes:
        stream: The stream in the order in which it is learned.
        method: Name of the method.
        method_options: Options of the method, as given, but for aliases.
        block: The remaining keys.
        options: The method's own dataclass with all of its options.
    """

    stream: Stream
    method: str
    method_options: dict[str, Any]
    block: CLBlock
    options: Any = None

    @property
    def eval(self) -> EvalConfig:
        """Evaluation settings."""
        return self.block.eval

    @property
    def replay(self) -> ReplayConfig:
        """Replay settings."""
        return self.block.replay

    def probe(self, name: str) -> Probe | None:
        """The probe called ``name``; None if there is none."""
        return next((probe for probe in self.eval.probes if probe.name == name), None)

    def tested(self, name: str) -> Task:
        """The task of the stream, or the probe as a task; KeyError if there is neither."""
        probe = self.probe(name)
        return self.stream.task(name) if probe is None else probe.task

    def overrides_for(self, task: str) -> dict[str, Any]:
        """LLaMA-Factory keys of one task or probe: the stream's, then the recipe's."""
        probe = self.probe(task)
        if probe is not None:
            return dict(probe.overrides)
        return {**self.stream.task(task).overrides, **self.block.task_overrides.get(task, {})}

    def with_defaults(self, keys: Collection[str]) -> CLConfig:
        """The block with the defaults of the stream's tasks for what the recipe leaves open.

        Args:
            keys: The host keys at the recipe's top level.
        """
        own = self.block.task_overrides
        tasks = tuple(
            task.with_defaults({*keys, *own.get(task.name, ())}).with_length(keys, own.get(task.name, ()))
            for task in self.stream.tasks
        )
        return replace(self, stream=replace(self.stream, tasks=tasks))

    def max_new_tokens(self, task: str) -> int:
        """Longest answer for one task or probe, in tokens."""
        return self.tested(task).max_new_tokens or self.eval.max_new_tokens

    @property
    def first_datasets(self) -> tuple[str, ...]:
        """Training sets of the first task that is trained."""
        first = next(task for task in self.stream.tasks if task.train)
        return self.stream.task(self.block.only).train if self.block.only else first.train


@dataclass(frozen=True)
class Recipe:
    """A checked recipe, from the parser's hook to the report.

    Attributes:
        host_keys: The recipe without ``cl``, ``~`` expanded in its paths.
        config: The checked ``cl:`` block.
    """

    host_keys: dict[str, Any]
    config: CLConfig
