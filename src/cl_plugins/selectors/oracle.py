"""Oracle: the task is given at test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem
from .selector import Selector


if TYPE_CHECKING:
    from torch import Tensor


class Oracle(Selector):
    """Measures nothing; the run says which task a question belongs to."""

    kind = "oracle"
    told = True
    reveals = "nothing"

    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def merge(self, carried: dict[str, Tensor] | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Any:
        """Never asked.

        Raises:
            CompatibilityError: Always.
        """
        raise CompatibilityError(
            Problem("selector 'oracle'", "scores no rows.", "Give the task, or use another kind.")
        )
