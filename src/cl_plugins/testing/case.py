"""One method with options, as the shared tests take it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MethodCase:
    """One method with options, as written in a recipe.

    Attributes:
        id: Name of the case.
        method: The mapping under ``cl.method``.
        keys: Further LLaMA-Factory keys.
        block: Further keys of the ``cl:`` block.
        boundary: Allowed change of the logits at a boundary, relative to the largest logit.
        half: Whether the base is held in bf16, and trained with ``bf16: true``.
        apart: Whether a task is trained without the parts of earlier tasks, which take part in its answers, or is averaged with
            them: from task 2 on the model that answers is then not the one that was trained.
        continues: Whether a task starts from the model that answered before it. A method that gives each task a fresh
            router does not.
        unchosen: Endings of the names of trainable tensors that a task leaves as they are where it has not chosen them.
    """

    id: str
    method: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)
    block: dict[str, Any] = field(default_factory=dict)
    boundary: float = 1e-5
    half: bool = False
    apart: bool = False
    continues: bool = True
    unchosen: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the method."""
        return str(self.method["name"])
