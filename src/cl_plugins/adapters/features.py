"""Features of a batch outside of an answer: the same code that a row state runs inside a forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias

from ..base.errors import CompatibilityError, Problem
from .modes import looking
from .row_features import Rows
from .rows import RowState, state_of


if TYPE_CHECKING:
    from torch import Tensor


KINDS = ("vision", "text", "hidden")
#: One of `KINDS`, or a function that gets the rows of a prompt and returns what `of_rows` returns.
Kind: TypeAlias = "str | Callable[[Rows], tuple[Tensor, Tensor]]"


class _Enough(Exception):
    """The features are known; the rest of the forward is not needed."""


def features(base: Any, inputs: Mapping[str, Any], kind: Kind) -> tuple[Tensor, Tensor]:
    """Vectors of rows from frozen parts of a base, see `BaseModel.features`.

    Adapters of PEFT are off meanwhile, and so are the experts of a row state. For ``vision`` and ``text`` the language model
    does not compute.

    Args:
        base: The base.
        inputs: A collated batch.
        kind: One of `KINDS`, or a function of the rows.
    """
    model = base.model
    found: list[tuple[Tensor, Tensor]] = []

    def look(rows: Rows) -> None:
        found.append(of_rows(state, rows, kind))
        raise _Enough

    present = state_of(model)
    state = RowState(model, look)
    adapted = base.adapted
    off = adapted.disable_adapter() if adapted is not None else nullcontext()
    with looking(model), off, present.base_alone() if present is not None else nullcontext():
        state.install()
        try:
            model(**inputs, use_cache=False)
        except _Enough:
            pass
        finally:
            state.remove()
    return found[0]


def of_rows(state: RowState, rows: Rows, kind: Kind) -> tuple[Tensor, Tensor]:
    """Vectors of the rows of a prompt whose choice is being taken.

    Args:
        state: The row state, for a second pass of the language model.
        rows: The rows.
        kind: One of `KINDS`, or a function of the rows.

    Returns:
        (rows, width) in fp32, and which rows have one, (rows,) bool.
    """
    import torch

    if callable(kind):
        return kind(rows)
    if kind == "vision":
        return rows.vision
    if kind not in KINDS:
        raise CompatibilityError(Problem("features", f"there are none called {kind!r}.", f"Use one of {KINDS}."))
    values = rows.text if kind == "text" else state.hidden(rows)
    return values, torch.ones(len(values), dtype=torch.bool, device=values.device)
