"""A pool of prompts and their keys on a base.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...adapters.prompts import put_in
from ...adapters.queries import Queries
from ...base import ranks
from .selection import pull, select


if TYPE_CHECKING:
    from ...adapters.row_features import Rows
    from ...contract.base_model import BaseModel
    from ...contract.task import TaskData
    from .method import L2PConfig


#: Names of the tensors on the base: (prompts, length, hidden) and (prompts, width of the query).
PROMPTS, KEYS = "cl_prompts", "cl_keys"
_BATCH = 8


class Pool:
    """Puts prompts and keys on a base and chooses among them per row.

    Args:
        base: The base, without adapters.
        config: The options.
        seed: Seed of the initial values; None where they are about to be overwritten.

    Attributes:
        model: The base with the pool.
        own: Prompts that the task in training may use; None for all.
        known: Prompts that answer; None for all. The task's own are among them as soon as they have been trained.
        frequency: (prompts,), shares of earlier choices; None if they do not count.
    """

    def __init__(self, base: BaseModel, config: L2PConfig, seed: int | None) -> None:
        self.model: Any = base.prepare_frozen()
        self.own: range | None = None
        self.known: range | None = None
        self.frequency: Tensor | None = None
        self._config = config
        self._queries = Queries(base, config.query)
        model: Any = self.model
        words: Tensor = model.get_input_embeddings().weight
        size, length = config.pool_size, config.prompt_length
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        keys = _uniform((size, self._queries.width), generator)
        if config.uniform:
            prompts = _uniform((size, length, words.shape[1]), generator).to(words.device)
        else:
            drawn = torch.randint(words.shape[0], (size, length), generator=generator)
            prompts = words.detach()[drawn.to(words.device)].float()
        base.register(PROMPTS, prompts, trained=True)
        base.register(KEYS, keys.to(words.device), trained=True)
        self._state = base.rows(self._begin)
        put_in(base, self._state, self._vectors)

    @property
    def _keys(self) -> Tensor:
        keys: Tensor = getattr(self.model, KEYS)
        return keys

    def _begin(self, rows: Rows) -> None:
        """Choose; in training keep the query for `term`."""
        training = self.model.training and torch.is_grad_enabled()
        with torch.no_grad():
            query = torch.cat(list(self._queries.of_rows(self._state, rows).values()), dim=1)
            chosen = self._select(query.to(self._keys.device), training)
        rows.kept.update(prompts=chosen)
        if training:
            rows.kept.update(query=query.to(self._keys.device))
            self.known = None if self.own is None else range(self.own.stop)

    def _select(self, query: Tensor, training: bool) -> Tensor:
        return select(
            query,
            self._keys.detach(),
            self._config.top_k,
            allowed=self.own if training else self.known,
            frequency=self.frequency if training else None,
            batchwise=self._config.batchwise,
        )

    def _vectors(self, rows: Rows) -> Tensor:
        """(rows, top_k * length, hidden)."""
        chosen: Tensor = rows.kept["prompts"]
        prompts: Tensor = getattr(self.model, PROMPTS)
        return prompts[chosen.to(prompts.device)].flatten(1, 2)

    def term(self) -> Tensor:
        """`selection.pull` of the forward in training that has just been made."""
        kept = self._state.current.kept
        return pull(kept["query"], self._keys, kept["prompts"])

    def counts(self, data: TaskData | None, rank: int, world_size: int) -> Tensor:
        """How often each prompt is chosen for a task's samples, every sample once; all processes get the same.

        Args:
            data: The samples; None counts nothing.
            rank: Number of this process.
            world_size: Number of processes.

        Returns:
            (prompts,), int64 on the CPU.
        """
        own = torch.zeros(self._config.pool_size, dtype=torch.int64)
        numbers = list(range(rank, len(data) if data is not None else 0, world_size))
        for inputs in data.batches(numbers, _BATCH) if data is not None else ():
            own += torch.bincount(self._choices(inputs).flatten().cpu(), minlength=len(own))
        return torch.stack(ranks.gather(own)).sum(0)

    def _choices(self, inputs: Mapping[str, Any]) -> Tensor:
        query = torch.cat(list(self._queries.of_batch(inputs).values()), dim=1)
        with torch.no_grad():
            return self._select(query.to(self._keys.device), training=True)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """U(-1, 1), as l2p-pytorch."""
    return torch.rand(shape, generator=generator) * 2 - 1
