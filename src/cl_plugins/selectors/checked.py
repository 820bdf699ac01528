"""What a selector returns is checked: a choice from scores that are none would be followed in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem
from ..base.registry import OWN


if TYPE_CHECKING:
    from torch import Tensor

    from .selector import Selector


def checked_scores(selector: Selector, scores: Any, rows: int, tasks: int | None) -> Tensor:
    """Scores of rows, or their weights.

    Args:
        selector: What they come from.
        scores: What it returned.
        rows: Number of rows.
        tasks: Number of tasks; None where it is not known.

    Raises:
        CompatibilityError: If they have another shape, or the best score of a row is not finite.
    """
    import torch

    if not isinstance(scores, torch.Tensor):
        raise _error(selector, f"returned {type(scores).__name__}, not a tensor of scores.")
    if (
        scores.dim() != 2
        or len(scores) != rows
        or scores.shape[1] != (tasks or scores.shape[1])
        or not scores.shape[1]
    ):
        wanted = f"({rows}, {tasks or 'tasks'})"
        raise _error(selector, f"returned scores of shape {tuple(scores.shape)}; {wanted} was expected.")
    if not bool(torch.isfinite(scores.max(dim=1).values).all()):  # a maximum is not a number if a score is none
        raise _error(selector, "returned scores that are not finite.")
    return scores


def _error(selector: Selector, what: str) -> CompatibilityError:
    from .registry import SELECTORS

    distribution = SELECTORS.distribution(selector.kind)
    if distribution == OWN:
        return CompatibilityError(Problem(f"selector '{selector.kind}'", what, "Look at the data and at the base."))
    where = f"selector '{selector.kind}' of the package '{distribution}'"
    return CompatibilityError(Problem(where, what, "Report this to its authors."))
