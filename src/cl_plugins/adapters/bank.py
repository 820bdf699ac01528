"""The experts of a linear layer: a sum of low-rank terms in its forward, each of which may be weighted or off.

``y = W x + sum_e g_e s_e B_e A_t(e) x``, computed as two matrix products however many experts there are: ``z = A x``
with all A below each other, the ranks of z weighted by the gate, ``B z`` with all B next to each other. ``t(e)`` is
the trunk that expert e reads: its own, or one that several share. Exact for every base: nothing is added to the
weights, so nothing is rounded away, and a quantised weight stays as it is. Without a gate and with frozen experts
only, this is the frozen past of a chain of LoRAs (`past_updates`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

from ..base.errors import Problem, RunStateError
from .merge import factors, modules


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.base_model import BaseModel
    from ..contract.low_rank import LowRankUpdate


#: Names of the tensors on a layer: the frozen trunks and experts (buffers), the trained ones (parameters).
FROZEN_A, FROZEN_B, A, B = "cl_past_a", "cl_past_b", "cl_a", "cl_b"
#: Tokens of a row up to which rows of different experts are computed by the matrices of all experts.
SHORT = 4


@dataclass(frozen=True)
class Chosen:
    """A one-hot gate: each row of the batch is computed by one expert.

    Attributes:
        experts: (rows,), the expert of each row; int64. A negative number turns the experts off for a row.
    """

    experts: Tensor

    @cached_property
    def found(self) -> list[int]:
        """The experts that occur, sorted."""
        return sorted(set(self.experts.tolist()))


#: Weights of the experts: (rows, length, experts) by token, (rows, experts) by row, one expert per row, or None for all 1.
Weights: TypeAlias = "Tensor | Chosen | None"
#: Gets the layer's input, (rows, length, in).
Gate: TypeAlias = "Callable[[Tensor], Weights]"


@dataclass(frozen=True)
class Expert:
    """One expert of a layer.

    Attributes:
        b: (out, rank).
        trunk: Number of the trunk it reads.
        scaling: Factor on its term.
        trained: Whether ``b`` is a parameter; else it is frozen.
    """

    b: Tensor
    trunk: int
    scaling: float = 1.0
    trained: bool = False


@dataclass(frozen=True)
class Experts:
    """All experts of one layer.

    Attributes:
        trunks: For each trunk its A, (rank, in).
        trained_trunks: For each trunk whether it is a parameter.
        experts: The experts, in the order of the gate's weights.
        gate: The gate; None weights every expert with 1.
        dropout: Probability with which elements of the input are dropped in training; frozen trunks read the whole
            input.
        own_masks: Whether every trained trunk draws a separate dropout mask; else one mask serves them all. Without
            dropout this makes no difference, and all trunks are one product.
    """

    trunks: Sequence[Tensor]
    experts: Sequence[Expert]
    trained_trunks: Sequence[bool] = ()
    gate: Gate | None = None
    dropout: float = 0.0
    own_masks: bool = False


@dataclass
class _Layout:
    """Where ranks and experts are in the concatenated matrices; frozen ones come first."""

    gate: Gate | None
    dropout: float
    frozen: int
    """Number of experts that are frozen."""
    order: list[int]
    """For each expert in the concatenated order, its number in the gate's weights."""
    ranks: list[int]
    """Ranks of the experts in the concatenated order."""
    columns: list[int] | None
    """For each rank of the experts, the row of the trunks that it reads; None where that is its own place."""
    scales: list[float]
    """Scalings of the trained experts; those of the frozen ones are folded into B."""
    masks: list[int]
    """Numbers of consecutive rows of the trained trunks that share a dropout mask."""
    index: dict[Any, Tensor] = field(default_factory=dict)


def attach(base: BaseModel, layers: dict[str, Experts]) -> None:
    """Put experts on layers of the base; `BaseModel.reset` takes them off.

    Frozen tensors are buffers in fp32, which no optimizer sees; trained ones are fp32 parameters called ``cl_a`` and
    ``cl_b`` on their layer.

    Args:
        base: The base; an adapter may be put on it afterwards.
        layers: Name of a linear layer -> its experts.

    Raises:
        RunStateError: If a layer does not exist.
    """
    known = dict(base.model.named_modules())
    for name, experts in layers.items():
        if name not in known:
            what = f"names the module '{name}', which this base lacks."
            raise RunStateError(Problem("carry", what, "Use the base it was made with."))
        module: Any = known[name]
        base.hook(name, partial(_forward, _place(base, name, module, experts)))


def past_updates(updates: Sequence[LowRankUpdate]) -> dict[str, Experts]:
    """The sum of past updates as one frozen expert per layer, which has no gate.

    Args:
        updates: The updates in order.

    Returns:
        Layer -> one trunk of shape (R, in) and one expert of shape (out, R), R being the sum of the ranks.
    """
    found = {}
    for name in modules(updates):
        pair = factors(updates, name)
        if pair is not None:
            found[name] = Experts([pair[0]], [Expert(pair[1], 0)])
    return found


def _place(base: BaseModel, name: str, module: Any, experts: Experts) -> _Layout:
    """Register the tensors on the layer."""
    import torch

    device = next(module.parameters()).device
    trained_trunks = list(experts.trained_trunks) or [False] * len(experts.trunks)
    trunk_order = sorted(range(len(experts.trunks)), key=lambda t: (trained_trunks[t], t))
    order = sorted(range(len(experts.experts)), key=lambda e: (experts.experts[e].trained, e))
    starts, at = {}, 0
    for t in trunk_order:
        starts[t] = at
        at += len(experts.trunks[t])
    chosen = [experts.experts[e] for e in order]
    ranks = [int(expert.b.shape[1]) for expert in chosen]
    columns = [starts[x.trunk] + i for x, rank in zip(chosen, ranks, strict=True) for i in range(rank)]
    frozen = sum(not expert.trained for expert in chosen)
    widths = [len(experts.trunks[t]) for t in trunk_order if trained_trunks[t]]
    parts = {
        FROZEN_A: ([experts.trunks[t] for t in trunk_order if not trained_trunks[t]], 0, False),
        A: ([experts.trunks[t] for t in trunk_order if trained_trunks[t]], 0, True),
        FROZEN_B: ([x.b.float() * x.scaling for x in chosen[:frozen]], 1, False),
        B: ([x.b for x in chosen[frozen:]], 1, True),
    }
    for kind, (tensors, dim, trained) in parts.items():
        if tensors:
            value = torch.cat([t.detach().float() for t in tensors], dim=dim).to(device)
            base.register(f"{name}.{kind}", value, trained=trained)
    return _Layout(
        experts.gate,
        experts.dropout,
        frozen,
        order,
        ranks,
        None if columns == list(range(at)) else columns,
        [expert.scaling for expert in chosen[frozen:]],
        widths if experts.own_masks else [sum(widths)],
    )


def _forward(layout: _Layout, module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Forward hook: the layer's output plus its experts, in the precision in which PEFT computes a LoRA term."""
    weights = layout.gate(args[0]) if layout.gate is not None else None
    if isinstance(weights, Chosen):
        return _one_each(layout, module, args[0], output, weights)
    hidden = _read(layout, module, args[0])
    if weights is not None:
        hidden = hidden * _by_rank(layout, weights, hidden)
    return _plus(output, hidden, _factors_b(layout, module))


def _plus(output: Tensor, hidden: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """``output + scale B z``; without gradients in one pass over the output, which is the layer's own and new.

    Args:
        output: (..., out).
        hidden: (..., R), ``z``.
        b: (out, R).
        scale: Factor on the term.
    """
    import torch
    from torch.nn.functional import linear

    if _in_place(output, hidden, b):
        flat = output.view(-1, output.shape[-1])
        torch.addmm(flat, hidden.reshape(-1, hidden.shape[-1]), b.t(), alpha=scale, out=flat)
        return output
    term = linear(hidden, b)
    return (output + (term if scale == 1.0 else term * scale)).to(output.dtype)


def _in_place(output: Tensor, hidden: Tensor, b: Tensor) -> bool:
    """Whether a term can be added to the output where it lies: no gradient is wanted, and nothing has to be cast."""
    import torch

    return not torch.is_grad_enabled() and output.dtype == hidden.dtype == b.dtype and output.is_contiguous()


def _read(layout: _Layout, module: Any, inputs: Tensor) -> Tensor:
    """``A x`` of every trunk, a column for each rank of the experts: (..., R)."""
    import torch
    from torch.nn.functional import dropout, linear

    frozen, trained = getattr(module, FROZEN_A, None), getattr(module, A, None)
    parts = []
    if frozen is not None:
        parts.append(linear(inputs.to(frozen.dtype), frozen))
    if trained is not None:
        x = inputs.to(trained.dtype)
        if layout.dropout and module.training:
            parts += [linear(dropout(x, layout.dropout), a) for a in trained.split(layout.masks)]
        else:
            parts.append(linear(x, trained))
    hidden = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    if layout.columns is None:
        return hidden
    return hidden.index_select(-1, _index(layout, "columns", lambda: layout.columns, hidden.device))


def _factors_b(layout: _Layout, module: Any) -> Tensor:
    """All B next to each other with their scalings, (out, R)."""
    import torch

    frozen: Any = getattr(module, FROZEN_B, None)
    trained: Any = getattr(module, B, None)
    if trained is None:
        return frozen  # type: ignore[no-any-return]
    trained = _scaled(layout, trained)
    return trained if frozen is None else torch.cat([frozen, trained], dim=1)


def _factors_a(module: Any) -> Tensor:
    """All trunks below each other, (ranks, in)."""
    import torch

    found: list[Tensor] = [part for name in (FROZEN_A, A) if (part := getattr(module, name, None)) is not None]
    return found[0] if len(found) == 1 else torch.cat(found)


def _scaled(layout: _Layout, trained: Tensor) -> Tensor:
    scales = layout.scales
    if len(set(scales)) == 1:
        return trained if scales[0] == 1.0 else trained * scales[0]
    spread = [s for s, rank in zip(scales, layout.ranks[layout.frozen :], strict=True) for _ in range(rank)]
    return trained * trained.new_tensor(spread)


def _by_rank(layout: _Layout, weights: Tensor, hidden: Tensor) -> Tensor:
    """The gate's weights, one for each rank: (rows, length or 1, R)."""
    if weights.dim() == hidden.dim() - 1:
        weights = weights.unsqueeze(-2)
    index = _index(layout, "ranks", lambda: _by_column(layout), hidden.device)
    return weights.to(hidden.dtype).index_select(-1, index)


def _by_column(layout: _Layout) -> list[int]:
    """For each rank of the experts the number of its expert."""
    return [e for e, rank in zip(layout.order, layout.ranks, strict=True) for _ in range(rank)]


def _index(layout: _Layout, what: str, values: Callable[[], Any], device: Any) -> Tensor:
    """Index tensors, made once per device."""
    import torch

    if (what, device) not in layout.index:
        layout.index[what, device] = torch.tensor(values(), device=device)
    return layout.index[what, device]


def _one_each(layout: _Layout, module: Any, inputs: Tensor, output: Tensor, chosen: Chosen) -> Tensor:
    """Each row through its own expert.

    Rows that all have the same expert are two thin products of its rank. Whole prompts of different experts are two batched
    products with the matrices of each row. A single token per row is computed by all experts, and the others' ranks are
    set to 0: there, gathering matrices costs more than multiplying by all of them.
    """
    found = chosen.found
    if found == [-1]:
        return output
    if len(found) == 1:
        return _plus(output, *_single(layout, module, inputs, found[0]))
    if inputs.dim() != 3 or (layout.dropout and module.training):
        return _in_groups(layout, module, inputs, output, chosen)
    rows = chosen.experts.to(inputs.device)
    if inputs.shape[1] <= SHORT:
        return _by_all(layout, module, inputs, output, rows)
    return _by_matrices(layout, module, inputs, output, rows)


def _in_groups(layout: _Layout, module: Any, inputs: Tensor, output: Tensor, chosen: Chosen) -> Tensor:
    """The output plus each row's term; the rows of one expert are computed together."""
    from torch.nn.functional import linear

    total = output.clone()
    for number in chosen.found:
        if number < 0:
            continue
        rows = (chosen.experts == number).nonzero().reshape(-1).to(output.device)
        hidden, b, scale = _single(layout, module, inputs.index_select(0, rows), number)
        term = linear(hidden, b) * scale
        total = total.index_add(0, rows, term.to(total.dtype))
    return total


def _by_all(layout: _Layout, module: Any, inputs: Tensor, output: Tensor, rows: Tensor) -> Tensor:
    """The output plus each row's term, by the matrices of all experts."""

    def table() -> list[list[bool]]:
        return [[expert == number for expert in _by_column(layout)] for number in [*range(len(layout.order)), -1]]

    hidden = _read(layout, module, inputs)
    used = _index(layout, "used by all", table, rows.device)[rows]
    return _plus(output, hidden * used.unsqueeze(1).to(hidden.dtype), _factors_b(layout, module))


def _by_matrices(layout: _Layout, module: Any, inputs: Tensor, output: Tensor, rows: Tensor) -> Tensor:
    """The output plus each row's term, by the matrices of its expert; expert -1, the last one in the tables, uses no rank."""
    import torch

    most = max(layout.ranks)

    def ranks() -> list[list[int]]:
        owners = _by_column(layout)
        own = [[i for i, owner in enumerate(owners) if owner == number] for number in range(len(layout.order))]
        return [[*numbers, *[0] * (most - len(numbers))] for numbers in [*own, []]]

    def used() -> list[list[bool]]:
        counts = [layout.ranks[layout.order.index(number)] for number in range(len(layout.order))]
        return [[i < count for i in range(most)] for count in [*counts, 0]]

    picked = _index(layout, "ranks of each", ranks, rows.device)[rows].reshape(-1)
    read = picked
    if layout.columns is not None:
        read = _index(layout, "columns", lambda: layout.columns, rows.device)[picked]
    a = _factors_a(module).index_select(0, read).reshape(len(rows), most, -1)
    b = _factors_b(layout, module).index_select(1, picked).reshape(-1, len(rows), most)
    hidden = torch.bmm(inputs.to(a.dtype), a.transpose(1, 2))
    hidden = hidden * _index(layout, "used of each", used, rows.device)[rows].unsqueeze(1).to(hidden.dtype)
    b = b.permute(1, 2, 0)
    if _in_place(output, hidden, b):
        return torch.baddbmm(output, hidden, b, out=output)
    return (output + torch.bmm(hidden, b)).to(output.dtype)


def _single(layout: _Layout, module: Any, inputs: Tensor, number: int) -> tuple[Tensor, Tensor, float]:
    """``A x`` of one expert, its B and its scaling: two thin products of its own rank."""
    from torch.nn.functional import dropout, linear

    place = layout.order.index(number)
    start = sum(layout.ranks[:place])
    rank = layout.ranks[place]
    rows = list(range(start, start + rank)) if layout.columns is None else layout.columns[start : start + rank]
    frozen_a: Any = getattr(module, FROZEN_A, None)
    trained_a: Any = getattr(module, A, None)
    known = 0 if frozen_a is None else len(frozen_a)
    trained = rows[0] >= known
    a = trained_a[rows[0] - known : rows[0] - known + rank] if trained else frozen_a[rows[0] : rows[0] + rank]
    x = inputs.to(a.dtype)
    if trained and layout.dropout and module.training:
        x = dropout(x, layout.dropout)
    if place < layout.frozen:
        b, scale = getattr(module, FROZEN_B)[:, start : start + rank], 1.0
    else:
        before = sum(layout.ranks[layout.frozen : place])
        b, scale = getattr(module, B)[:, before : before + rank], layout.scales[place - layout.frozen]
    return linear(x, a), b, scale
