"""The experts of all tasks on one base, and a selector that chooses among them per row.

The choice is taken once, at the prompt (`BaseModel.rows`). Each row is then computed by the low-rank terms of its choice, and
each of its pictures by the projector of its choice, where tasks have trained one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..adapters import bank
from ..adapters.pictures import check_known
from ..adapters.places import find_decoder, find_tower
from ..adapters.rows import RowState
from ..adapters.versions import Versions
from ..base.errors import CompatibilityError, Problem
from .checked import checked_scores


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..adapters.row_features import Rows
    from ..contract.base_model import BaseModel
    from ..contract.low_rank import LowRankUpdate
    from .selector import Selector


@dataclass(frozen=True)
class Learned:
    """One task's part of a model.

    Attributes:
        task: Its name.
        update: Its low-rank update, and what it has trained as a whole.
    """

    task: str
    update: LowRankUpdate


def put_on(
    base: BaseModel,
    tasks: Sequence[Learned],
    selector: Selector,
    carried: dict[str, Tensor],
    *,
    cumulative: bool = False,
    router: LowRankUpdate | None = None,
) -> Module:
    """Let a base choose among the parts of its tasks.

    Args:
        base: The base, without adapters.
        tasks: The tasks in the order in which they were learned.
        selector: The selector.
        carried: What it has carried.
        cumulative: A task is answered by its own update and those of all tasks before it; else by its own alone.
        router: The update with which a `TrainedSelector` reads prompts; it has the number behind the last task's.

    Returns:
        The model.

    Raises:
        CompatibilityError: If a part lies where the choice is not yet known.
    """
    prepared = selector.prepare(carried)
    names = [learned.task for learned in tasks]
    tasks = tasks if router is None else [*tasks, Learned("", router)]
    check_places(base, [n for learned in tasks for n in (*learned.update.a, *learned.update.replaced)])
    check_rows(base, [n for learned in tasks for n in learned.update.a])
    check_versions(base, [n for learned in tasks for n in learned.update.replaced])

    state: RowState = base.rows(lambda rows: choose(state, rows, selector, prepared, names))
    state.decided_by = "expert"
    gates: dict[tuple[int, ...], bank.Gate] = {}
    layers = {}
    for name in dict.fromkeys(n for learned in tasks for n in learned.update.a):
        own = [i for i, learned in enumerate(tasks) if name in learned.update.a]
        if tuple(own) not in gates:
            gates[tuple(own)] = (Prefix if cumulative else OneOf)(state, own, len(names))
        trunks = [tasks[i].update.a[name] for i in own]
        experts = [bank.Expert(tasks[i].update.b[name], place, tasks[i].update.scaling) for place, i in enumerate(own)]
        layers[name] = bank.Experts(trunks, experts, gate=gates[tuple(own)])
    bank.attach(base, layers)
    _replace(base, tasks, state)
    return base.model


def choose(state: RowState, rows: Rows, selector: Selector, prepared: dict[str, Tensor], names: Sequence[str]) -> None:
    """Give each prompt the number of a task as ``kept["expert"]`` and its name as ``kept["route"]``.

    Args:
        state: The row state.
        rows: The prompts; those that are told a task get it.
        selector: The selector.
        prepared: What its `prepare` gave.
        names: The tasks in the order in which they were learned.
    """
    import torch

    if rows.told in names:
        chosen = torch.full((rows.count,), names.index(rows.told))
    else:
        scores = checked_scores(selector, selector.of_rows(prepared, state, rows), rows.count, len(names))
        chosen = scores.argmax(dim=1).cpu()
    rows.kept.update(expert=chosen, route=[names[i] for i in chosen.tolist()])


class _OfRows(ABC):
    """A gate of what the rows have been given, made anew when that changes: the layers of a forward share it.

    Args:
        state: The row state.
        own: For each expert of the layer the number of its task.
        count: Number of tasks.
    """

    def __init__(self, state: RowState, own: Sequence[int], count: int) -> None:
        self._state, self._own, self._count = state, list(own), count
        self._made: tuple[Tensor, Any, bank.Weights] | None = None

    def __call__(self, inputs: Tensor) -> bank.Weights:
        """The weights of the rows; no expert is in use while the base computes alone."""
        import torch

        if self._state.off:
            return bank.Chosen(torch.full((len(inputs),), -1))
        experts: Tensor = self._state.current.kept["expert"]
        made = self._made  # read once: other threads have other rows
        if made is None or made[0] is not experts or made[1] != inputs.device:
            made = self._made = (experts, inputs.device, self._weights(experts, inputs.device))
        return made[2]

    @abstractmethod
    def _weights(self, experts: Tensor, device: Any) -> bank.Weights:
        """The weights of rows that have been given the tasks ``experts``, (rows,)."""


class OneOf(_OfRows):
    """A row is computed by the expert of its task."""

    def _weights(self, experts: Tensor, device: Any) -> bank.Chosen:
        """The layer's expert of each row; -1 where the task has none."""
        import torch

        places = [self._own.index(task) if task in self._own else -1 for task in experts.tolist()]
        return bank.Chosen(torch.tensor(places, device=device))


class Prefix(_OfRows):
    """A row is computed by the experts of its task and of all tasks before it, or by the router alone.

    The router's number is the number of tasks.
    """

    def _weights(self, experts: Tensor, device: Any) -> Tensor:
        """(rows, experts), 0 or 1."""
        import torch

        own, chosen = torch.tensor(self._own, device=device), experts.to(device)[:, None]
        before = torch.where(chosen < self._count, own[None, :] <= chosen, own[None, :] == self._count)
        return before.float()


def check_places(base: BaseModel, names: Sequence[str]) -> None:
    """Everything that is trained lies behind the tower, and nothing in front of the prompt's features.

    Args:
        base: The base.
        names: Layers with a low-rank update, and parameters that are trained as a whole.

    Raises:
        CompatibilityError: If not.
    """
    tower = find_tower(base.model)
    early = [n for n in names if tower is not None and f"{n}.".startswith(f"{tower[0]}.")]
    embedding: Any = base.model.get_input_embeddings()  # type: ignore[operator]
    early += [n for n in names if base.model.get_submodule(n.rpartition(".")[0]) is embedding]
    if early:
        what = f"has trained '{early[0]}', which computes before it is known which task a row is like."
        fix = "Leave vision tower and input embeddings frozen, or use `selector: {kind: oracle}`."
        raise CompatibilityError(Problem("a selector", what, fix))


def check_versions(base: BaseModel, names: Sequence[str]) -> None:
    """Modules with a version per task compute rows, or pictures that can be told apart.

    Args:
        base: The base.
        names: Parameters that tasks train as a whole.

    Raises:
        CompatibilityError: If not.
    """
    if _of_pictures(base.model, names):
        check_known(base.model.config)


def check_rows(base: BaseModel, names: Sequence[str]) -> None:
    """Layers whose low-rank update is chosen per row compute rows, and not pictures.

    Args:
        base: The base.
        names: The layers.

    Raises:
        CompatibilityError: If not.
    """
    found = _of_pictures(base.model, names)
    if found:
        what = f"names '{found[0]}', which computes pictures, while the low-rank update of a layer is chosen for rows."
        fix = "Leave it out, or train the projector as a whole (`additional_target`)."
        raise CompatibilityError(Problem("lora_target", what, fix))


def _of_pictures(model: Any, names: Sequence[str]) -> list[str]:
    """Those of some layers and parameters of a base that lie between its tower and its language model."""
    if find_tower(model) is None:
        return []
    inside = [find_decoder(model), model.get_output_embeddings()]
    by_row = tuple(f"{name}." for name, module in model.named_modules() if any(module is one for one in inside))
    return [name for name in names if not f"{name}.".startswith(by_row)]


def _replace(base: BaseModel, tasks: Sequence[Learned], state: RowState) -> None:
    """Modules that tasks have trained as a whole, each with a version per task."""
    model: Any = base.model
    inner, output = find_decoder(model), model.get_output_embeddings()
    inside = {id(module) for module in inner.modules()} | {id(output)}
    owners = dict.fromkeys(n.rpartition(".")[0] for learned in tasks for n in learned.update.replaced)

    def versions(name: str, module: Module) -> Module:
        found: list[Mapping[str, Tensor]] = [
            {n.rpartition(".")[2]: t for n, t in learned.update.replaced.items() if n.rpartition(".")[0] == name}
            for learned in tasks
        ]
        return Versions(module, found, state, by_row=id(module) in inside or find_tower(model) is None)

    base.wrap(list(owners), versions)
