"""The ``cl:`` block of a recipe as strict dataclasses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .errors import Problem, RecipeError
from .schema import build, nearest, option, unknown_key
from .streams import Stream, load_stream


@dataclass(frozen=True)
class EvalConfig:
    """What is measured after every task."""

    scope: Literal["seen", "all", "none"] = option(
        "seen", help="After a task, test the tasks seen so far, all tasks (needed for forward transfer), or nothing."
    )
    zero_shot: bool = option(True, help="Test the base on every task before any training.")
    max_new_tokens: int = option(64, help="Longest answer in tokens, where the task does not say.", minimum=1)
    max_items: int | None = option(None, help="Use only the first N test items; printed in every table.", minimum=1)
    backend: Literal["host", "vllm"] = option(
        "host", help="What generates the answers: the model in memory, or vLLM with the merged model (see Evaluation)."
    )
    backend_options: dict[str, Any] = option(
        factory=dict, help="Arguments for `vllm.LLM`, e.g. `gpu_memory_utilization`; only with `backend: vllm`."
    )


@dataclass(frozen=True)
class ReplayConfig:
    """Which samples of past tasks are kept, and how they meet new ones. Nothing is kept by default."""

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
        help="Herding, k_center and the losses look at so many samples of a task, drawn at random; null looks at all.",
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


@dataclass(frozen=True)
class _Block:
    """The keys of the ``cl:`` block as they stand in the YAML."""

    stream: str | dict[str, Any] = option(help="Built-in stream, path of a stream file, or the stream itself.")
    method: dict[str, Any] = option(help="`name` of the method and its options.")
    task_overrides: dict[str, dict[str, Any]] = option(factory=dict, help="LLaMA-Factory keys for single tasks.")
    replay: ReplayConfig = option(factory=ReplayConfig, help="Replay of past samples.")
    eval: EvalConfig = option(factory=EvalConfig, help="Evaluation.")
    order: list[str] | None = option(None, help="Task names in another order than the stream's.")
    order_seed: int | None = option(None, help="Shuffle the order of the tasks with this seed.")
    only: str | None = option(None, help="Train this one task only, from `carry_from`.")
    carry_from: str | None = option(None, help="Directory of an earlier run whose carry this run starts from.")
    seed_per_task: bool = option(
        True, help="Task k trains with seed + 1000 (k-1); false gives every task the same seed."
    )
    keep: Literal["last", "all", "none"] = option(
        "all", help="Whose own update stays under `tasks/` when a task is done."
    )
    stop_after: int | None = option(None, help="End cleanly after so many steps of the run.", minimum=1)
    restart: bool = option(False, help="Move an existing output directory aside and begin anew.")


@dataclass(frozen=True)
class CLConfig:
    """The checked ``cl:`` block.

    Attributes:
        stream: The stream in the order in which it is learned.
        method: Name of the method.
        method_options: Options of the method, as given, but for aliases (the method's own dataclass checks them).
        block: The remaining keys.
    """

    stream: Stream
    method: str
    method_options: dict[str, Any]
    block: _Block

    @property
    def eval(self) -> EvalConfig:
        """Evaluation settings."""
        return self.block.eval

    @property
    def replay(self) -> ReplayConfig:
        """Replay settings."""
        return self.block.replay

    def overrides_for(self, task: str) -> dict[str, Any]:
        """LLaMA-Factory keys of one task: the stream's, then the recipe's."""
        return {**self.stream.task(task).overrides, **self.block.task_overrides.get(task, {})}

    def with_defaults(self, keys: Collection[str]) -> CLConfig:
        """The block with the defaults of the stream's tasks for what the recipe leaves open.

        Args:
            keys: The host keys at the recipe's top level.
        """
        own = self.block.task_overrides
        tasks = tuple(task.with_defaults({*keys, *own.get(task.name, ())}) for task in self.stream.tasks)
        return replace(self, stream=replace(self.stream, tasks=tasks))

    def max_new_tokens(self, task: str) -> int:
        """Longest answer for one task, in tokens."""
        return self.stream.task(task).max_new_tokens or self.eval.max_new_tokens


CLBlock = _Block  # the public name: docs and `plan` list its keys


def parse_cl(cl: Any, *, where: str = "cl") -> CLConfig:
    """Check a ``cl:`` block.

    Args:
        cl: What stands under ``cl:`` in the YAML.
        where: YAML path for the messages.

    Raises:
        RecipeError: With every problem found in the block, in the stream and in the method's options.
    """
    from .methods.registry import get_method
    from .schema import check_value, resolve_aliases

    if not isinstance(cl, Mapping):
        raise RecipeError(Problem(where, f"is {cl!r}.", "Give a mapping with at least `stream` and `method`."))
    problems: list[Problem] = []
    block = build(_Block, cl, where, problems)
    stream = _stream(cl, where, problems)
    name, options = _method(cl, where, problems)
    if name is not None:
        try:
            method = get_method(name, where=f"{where}.method.name")
            options = resolve_aliases(method.config_class, options)
            check_value(options, method.config_class, f"{where}.method", problems)
        except RecipeError as error:
            problems.extend(error.problems)
    if block is not None and stream is not None:
        stream = _ordered(stream, block, where, problems)
        problems.extend(_cross_checks(stream, block, where))
    if problems or block is None or stream is None or name is None:
        raise RecipeError(problems)
    return CLConfig(stream=stream, method=name, method_options=options, block=block)


def _stream(cl: Mapping[str, Any], where: str, problems: list[Problem]) -> Stream | None:
    spec = cl.get("stream")
    if not isinstance(spec, (str, Mapping)):
        return None  # reported as missing or of the wrong type
    try:
        return load_stream(spec, where=f"{where}.stream")
    except RecipeError as error:
        problems.extend(error.problems)
        return None


def _method(cl: Mapping[str, Any], where: str, problems: list[Problem]) -> tuple[str | None, dict[str, Any]]:
    spec = cl.get("method")
    if not isinstance(spec, Mapping):
        return None, {}
    options = {str(key): value for key, value in spec.items()}
    name = options.pop("name", None)
    if not isinstance(name, str):
        problems.append(Problem(f"{where}.method.name", "is missing.", "Name a method; `cl-plugins list` shows them."))
        return None, {}
    return name, options


def _ordered(stream: Stream, block: _Block, where: str, problems: list[Problem]) -> Stream:
    if block.order is not None and block.order_seed is not None:
        problems.append(Problem(f"{where}.order", "is given together with order_seed.", "Keep one of the two."))
    elif block.order is not None:
        if sorted(block.order) != sorted(stream.task_names):
            fix = f"List each of these once: {', '.join(stream.task_names)}."
            problems.append(Problem(f"{where}.order", f"is {list(block.order)!r}.", fix))
        else:
            return stream.reordered(tuple(block.order))
    elif block.order_seed is not None:
        return stream.shuffled(block.order_seed)
    return stream


def _cross_checks(stream: Stream, block: _Block, where: str) -> list[Problem]:
    from .evaluation.scorers import get_scorer
    from .replay.checks import setting_problems

    found: list[Problem] = []
    names = stream.task_names
    for name in block.task_overrides:
        if name not in names:
            found.append(unknown_key(f"{where}.task_overrides", name, names))
    if block.only is not None and block.only not in names:
        fix = f"{nearest(block.only, names)} Tasks: {', '.join(names)}.".strip()
        found.append(Problem(f"{where}.only", f"there is no task {block.only!r}.", fix))
    if block.carry_from is not None and block.only is None:
        found.append(
            Problem(f"{where}.carry_from", "is given without `only`.", "Say which task to train: `only: NAME`.")
        )
    found.extend(setting_problems(block.replay, f"{where}.replay"))
    for i, task in enumerate(stream.tasks):
        for key, scorer in (("scorer", task.scorer), ("peer_scorer", task.peer_scorer)):
            try:
                if scorer is not None:
                    get_scorer(scorer, task=task.name)
            except RecipeError as error:
                found.extend(Problem(f"{where}.stream.tasks[{i}].{key}", p.what, p.fix) for p in error.problems)
        trained = block.only is None or block.only == task.name
        if trained and not task.train:
            fix = "Name its training set, or train another task with `only:`."
            found.append(Problem(f"{where}.stream.tasks[{i}].train", f"task '{task.name}' has no training data.", fix))
    return found


def first_dataset(cl: Any) -> str:
    """The training sets of the first task to be trained, as LLaMA-Factory's comma-separated string.

    Raises:
        RecipeError: With every problem of the block.
    """
    config = parse_cl(cl)
    task = config.stream.task(config.block.only) if config.block.only else config.stream.tasks[0]
    return ",".join(task.train)
