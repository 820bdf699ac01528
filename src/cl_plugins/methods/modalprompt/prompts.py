"""The prompts of all tasks on a base, chosen per row.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...adapters.prompts import put_in
from ...adapters.queries import Queries
from .guide import Head, choose, closeness, guidance, prototype


if TYPE_CHECKING:
    from ...adapters.row_features import Rows
    from ...contract.base_model import BaseModel
    from .method import ModalPromptConfig


#: Tensors of the task in training, on the base: (length, hidden), and the two layers of its head.
PROMPTS = "cl_prompts"
HEAD = ("cl_head_in", "cl_head_in_bias", "cl_head_out", "cl_head_out_bias")
_PAST, _PROTOTYPES = "cl_past_prompts", "cl_prototypes"


@dataclass(frozen=True)
class Learned:
    """What earlier tasks have left.

    Attributes:
        tasks: Their names.
        prompts: (tasks, length, hidden), fp32.
        prototypes: (tasks, width), fp32.
    """

    tasks: tuple[str, ...]
    prompts: Tensor
    prototypes: Tensor


class TaskPrompts:
    """Puts the prompts of all tasks on a base.

    Args:
        base: The base, without adapters.
        config: The options.
        past: What earlier tasks have left; None before the first.
        task: Name of the task in training; None for a model that answers.
        seed: Seed of its initial values.
        frozen: Whether its prompts stay as they begin.

    Attributes:
        model: The base with the prompts.
        answers: Whether the prompts of the task in training answer; they do as soon as they have been trained.
    """

    def __init__(
        self,
        base: BaseModel,
        config: ModalPromptConfig,
        past: Learned | None,
        task: str | None,
        seed: int = 0,
        *,
        frozen: bool = False,
    ) -> None:
        self.model: Any = base.prepare_frozen()
        self.answers = past is None
        self._config = config
        self._names: Sequence[str] = (*(past.tasks if past is not None else ()), *([task] if task else []))
        self._trains = task is not None
        self._past = past is not None
        self.queries = Queries(base, config.query)
        model: Any = self.model
        words: Tensor = model.get_input_embeddings().weight
        if past is not None:
            base.register(_PAST, past.prompts.to(words.device), trained=False)
            base.register(_PROTOTYPES, past.prototypes.to(words.device), trained=False)
        if task is not None:
            self._new(base, words, seed, frozen)
        self._state = base.rows(self._begin)
        put_in(base, self._state, self._vectors)

    def _new(self, base: BaseModel, words: Tensor, seed: int, frozen: bool) -> None:
        """Prompts that begin as embeddings of random tokens, and a head that begins as `torch.nn.Linear` does."""
        hidden, width = words.shape[1], self.queries.width
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(words.shape[0], (self._config.prompt_length,), generator=generator)
        base.register(PROMPTS, words.detach()[drawn.to(words.device)].float(), trained=not frozen)
        bound = 1 / math.sqrt(hidden)
        for name, shape in zip(HEAD, ((hidden, hidden), (hidden,), (width, hidden), (width,)), strict=True):
            value = (torch.rand(shape, generator=generator) * 2 - 1) * bound
            base.register(name, value.to(words.device), trained=True)

    def own_prototype(self) -> Tensor:
        """Prototype of the task in training, with gradient."""
        return prototype(getattr(self.model, PROMPTS), Head(*(getattr(self.model, name) for name in HEAD)))

    def _begin(self, rows: Rows) -> None:
        """Choose; in training keep the features for `terms`."""
        training = self._trains and self.model.training and torch.is_grad_enabled()
        with torch.no_grad():
            parts = self.queries.of_rows(self._state, rows)
            chosen = self._choose(parts, training)
            if rows.told in self._names and not training:
                chosen = torch.full_like(chosen[:, :1], self._names.index(rows.told))
        rows.kept.update(prompts=chosen)
        if training:
            self.answers = True
            rows.kept.update(parts)
        else:
            rows.kept.update(route=[self._names[i] for i in chosen[:, -1].tolist()])

    def _choose(self, parts: dict[str, Tensor], training: bool) -> Tensor:
        """(rows, prompts), int64: the closest last; in training the task's own is last, whatever it is like."""
        count, own = self._config.prompts, len(self._names) - 1
        candidates = [getattr(self.model, _PROTOTYPES)] if self._past else []
        if not training and self._trains and self.answers:
            candidates.append(self.own_prototype()[None])
        features = next(iter(parts.values()))
        mine = torch.full((len(features), 1), own, dtype=torch.int64, device=features.device)
        if training and (count == 1 or not candidates):
            return mine
        close = closeness(parts, torch.cat(candidates))
        return torch.cat([choose(close, count - 1), mine], dim=1) if training else choose(close, count)

    def _vectors(self, rows: Rows) -> Tensor:
        """(rows, prompts * length, hidden)."""
        all_prompts = [getattr(self.model, _PAST)] if self._past else []
        if self._trains:
            all_prompts.append(getattr(self.model, PROMPTS)[None])
        chosen: Tensor = rows.kept["prompts"]
        return torch.cat(all_prompts)[chosen].flatten(1, 2)

    def terms(self) -> dict[str, Tensor]:
        """`guide.guidance` of the forward in training that has just been made."""
        kept = self._state.current.kept
        return guidance({kind: kept[kind] for kind in self.queries.widths}, self.own_prototype())
