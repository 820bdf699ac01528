"""The one list of method cases. A new method gets a line here and is in every shared test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MethodCase:
    """One method with options, as it stands in a recipe.

    Attributes:
        id: Name of the case.
        method: The mapping under ``cl.method``.
        keys: Further LLaMA-Factory keys.
        boundary: Allowed |logit change| at a boundary, relative to the largest logit.
    """

    id: str
    method: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)
    boundary: float = 1e-5


CASES = [
    MethodCase("seqlora", {"name": "seqlora"}, boundary=0.0),
    MethodCase("inclora-merge", {"name": "inclora", "consolidate": "merge"}),
    MethodCase("inclora-stack", {"name": "inclora", "consolidate": "stack"}),
    MethodCase("seqfull", {"name": "seqfull"}, boundary=0.0),
    MethodCase("single_task", {"name": "single_task"}, boundary=0.0),
    MethodCase("multitask", {"name": "multitask"}, boundary=0.0),
]
