"""The experts of all tasks on one base, weighted per row by how much it is like each task.

The weights are computed once, at the prompt (`BaseModel.rows`), and hold for the whole answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ..adapters import bank
from ..adapters.features import of_rows
from .checked import checked_scores
from .router import Learned, check_places, check_rows


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..adapters.row_features import Rows
    from ..adapters.rows import RowState
    from ..contract.base_model import BaseModel
    from .selector import Selector


#: ``(selector, prepared, vectors) -> weights``: from what `Selector.prepare` gave and the rows' (rows, width) to their
#: (rows, tasks), fp64 on the CPU.
Weigh: TypeAlias = "Callable[[Selector, Mapping[str, Tensor], Tensor], Tensor]"
#: The experts of one layer that are in use without weights: the tasks that have one, and the layer.
Fuse: TypeAlias = "Callable[[Sequence[Learned], str], bank.Experts]"


def put_on(
    base: BaseModel,
    tasks: Sequence[Learned],
    selector: Selector,
    carried: dict[str, Tensor],
    *,
    weigh: Weigh,
    fuse: Fuse,
    weighted: Callable[[str], bool],
) -> Module:
    """Let a base weigh the experts of its tasks for every row.

    Args:
        base: The base, without adapters; modules that tasks train as a whole are put in place by the caller.
        tasks: The tasks in the order in which they were learned.
        selector: The selector.
        carried: What it has carried.
        weigh: Gives the weights.
        fuse: Gives the experts of the layers that are not weighted.
        weighted: Whether the experts of a layer are weighted.

    Returns:
        The model.

    Raises:
        CompatibilityError: If an expert lies where the features come from.
    """
    import torch

    check_places(base, [n for learned in tasks for n in (*learned.update.a, *learned.update.replaced)])
    check_rows(base, [n for learned in tasks for n in learned.update.a if weighted(n)])
    prepared = selector.prepare(carried)
    names = [learned.task for learned in tasks]

    def begin(rows: Rows) -> None:
        if rows.told in names:
            weights = torch.zeros(rows.count, len(names))
            weights[:, names.index(rows.told)] = 1
        else:
            vectors = selector.join([of_rows(state, rows, look) for look in selector.looks])
            weights = checked_scores(selector, weigh(selector, prepared, vectors), rows.count, len(names))
        route = [names[i] for i in weights.argmax(dim=1).tolist()]
        rows.kept.update(weights=weights.float().to(rows.ids.device), route=route)

    state: RowState = base.rows(begin)
    layers = {}
    for name in dict.fromkeys(n for learned in tasks for n in learned.update.a):
        own = [i for i, learned in enumerate(tasks) if name in learned.update.a]
        if weighted(name):
            layers[name] = separate([tasks[i] for i in own], name, RowWeights(state, own))
        else:
            fused = fuse([tasks[i] for i in own], name)
            layers[name] = bank.Experts(fused.trunks, fused.experts, gate=Always(state))
    bank.attach(base, layers)
    return base.model


def put_on_told(
    base: BaseModel, tasks: Sequence[Learned], told: int, *, fuse: Fuse, weighted: Callable[[str], bool]
) -> Module:
    """The model of rows that are known to belong to one task: its expert alone where experts are weighted.

    Args:
        base: The base, without adapters.
        tasks: The tasks in the order in which they were learned.
        told: Number of the task.
        fuse: As for `put_on`.
        weighted: As for `put_on`.
    """
    layers = {}
    for name in dict.fromkeys(n for learned in tasks for n in learned.update.a):
        having = [learned for learned in tasks if name in learned.update.a]
        if not weighted(name):
            layers[name] = fuse(having, name)
        elif name in tasks[told].update.a:
            layers[name] = separate([tasks[told]], name)
    bank.attach(base, layers)
    return base.model


def separate(tasks: Sequence[Learned], name: str, gate: bank.Gate | None = None) -> bank.Experts:
    """An expert per task on one layer: ``sum_i g_i s_i B_i A_i``.

    Args:
        tasks: Tasks that have a low-rank update of the layer.
        name: The layer.
        gate: Their weights; None for 1.
    """
    updates = [learned.update for learned in tasks]
    experts = [bank.Expert(update.b[name], i, update.scaling) for i, update in enumerate(updates)]
    return bank.Experts([update.a[name] for update in updates], experts, gate=gate)


class RowWeights:
    """The weights of a layer's experts for the rows of the forward.

    Args:
        state: The row state.
        own: For each expert of the layer the number of its task.
    """

    def __init__(self, state: RowState, own: Sequence[int]) -> None:
        self._state, self._own = state, list(own)

    def __call__(self, inputs: Tensor) -> bank.Weights:
        """(rows, experts); none is in use while the base computes alone."""
        import torch

        if self._state.off:
            return bank.Chosen(torch.full((len(inputs),), -1))
        weights: Tensor = self._state.current.kept["weights"][:, self._own]
        return weights.to(inputs.device)


class Always:
    """Experts that all rows use, but not while the base computes alone.

    Args:
        state: The row state.
    """

    def __init__(self, state: RowState) -> None:
        self._state = state

    def __call__(self, inputs: Tensor) -> bank.Weights:
        """None for all."""
        import torch

        return bank.Chosen(torch.full((len(inputs),), -1)) if self._state.off else None
