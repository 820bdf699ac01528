"""DER and DER++: sequential LoRA that is held, on buffered samples, at the logits it gave when they were stored.

``L = CE + alpha D(z(x'), z') + beta CE(x'', y'')`` with two independent draws from the buffer (Buzzega et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...adapters.modes import looking
from ...base.errors import CompatibilityError, DataError, Problem, RecipeError
from ...base.schema import option
from ...contract.capabilities import Capabilities, RunFacts
from ...contract.task import Batch, Memory, TaskContext
from ...replay.memory import memory_loss
from ...replay.scoring import CHUNK, answer_logits
from ..seqlora import SeqLoRA
from .matching import ENTRIES, StoredLogits, logit_matching, pack, unpack


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


STATISTIC = "memory_logits"


@dataclass(frozen=True)
class DERConfig:
    """Options of DER and DER++."""

    alpha: float = option(0.3, minimum=0, help="Weight of the distance between logits and stored ones.")
    beta: float = option(
        0.5, minimum=0, help="Weight of the loss of a second, independent memory batch (DER++); 0 is DER."
    )
    store: Literal["topk", "full"] = option(
        "topk", help="Keep the 64 largest logits of every answer token and the logsumexp of all, or all of them."
    )
    faithful: Literal["peer"] | None = option(
        None, help="`peer`: the mean over the vocabulary, as mammoth has it; needs `store: full`."
    )


class DER(SeqLoRA):
    """One LoRA, with the logits of buffered samples held."""

    name = "der"
    title = "DER++"
    config_class = DERConfig
    capabilities = Capabilities(
        needs_replay=True,
        needs="a replay buffer (`cl.replay`)",
        quantised=("bnb",),
        encoders=True,
        zero_stages=(2,),
        carries="one LoRA and the projector, the replay buffer, and the logits of its answers",
        reveals="training samples: the replay buffer holds them, and logits reveal more about their answers than labels",
        step_cost="as plain LoRA plus a memory batch for each of the two terms",
        memory="as plain LoRA plus the buffer; 400 bytes on disk per buffered answer token",
    )
    starts_at_zero = True  # but for the rounding of what was stored

    def __init__(self, config: DERConfig) -> None:
        super().__init__(config)
        self._cached: tuple[TaskContext, list[dict[str, Tensor]]] | None = None

    def problems(self, facts: RunFacts) -> list[Problem]:
        """The mean over the vocabulary needs the whole vocabulary."""
        return [*super().problems(facts), *self._contradictions()]

    def _contradictions(self) -> list[Problem]:
        if self.config.faithful != "peer" or self.config.store == "full":
            return []
        what = "is 'peer', a mean over the whole vocabulary, which `store: topk` does not keep."
        return [Problem("cl.method.faithful", what, "Set `store: full`.")]

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """As sequential LoRA.

        Raises:
            CompatibilityError: If there is no buffer to draw from.
            RecipeError: If options contradict each other.
        """
        if problems := self._contradictions():
            raise RecipeError(problems)
        if context.memory is None:
            fix = "Give one: `cl.replay.capacity_per_task` in a recipe, `replay={'capacity_per_task': 20}` in Python."
            raise CompatibilityError(Problem("cl.method.name", "'der' needs a replay buffer, and there is none.", fix))
        return super().begin_task(context, model)

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """The distance to the stored logits and the loss of a second memory batch, from the second task on."""
        memory, terms = context.memory, {}
        if memory is None or not len(memory):
            return {}
        if self.config.alpha:
            indices = memory.draw(context, batch, "logits")
            logits, _, counts = answer_logits(model, memory.batch(indices))
            stored = self._stored(context, memory, indices, counts)
            terms["der"] = self.config.alpha * self._distance(logits, stored)
        if self.config.beta:
            terms["replay"] = self.config.beta * memory_loss(
                model, memory.batch(memory.draw(context, batch, "answers"))
            )
        return terms

    def _distance(self, logits: Tensor, stored: StoredLogits) -> Tensor:
        if self.config.store == "topk":
            return logit_matching(logits, stored.values, indices=stored.indices, logsumexp=stored.logsumexp)
        divisor = logits.shape[-1] if self.config.faithful == "peer" else min(ENTRIES, logits.shape[-1])
        return logit_matching(logits, stored.values, divisor=divisor)

    def _stored(self, context: TaskContext, memory: Memory, indices: list[int], counts: list[int]) -> StoredLogits:
        """What was stored for some memory samples.

        Raises:
            DataError: If a sample has no logits, or another number of answer tokens than when they were stored.
        """
        if self._cached is None or self._cached[0] is not context:
            found: dict[str, dict[str, Tensor]] = {}
            for key, value in memory.tensors(STATISTIC).items():
                uid, _, what = key.rpartition("/")
                found.setdefault(uid, {})[what] = value
            self._cached = (context, [found.get(sample.uid, {}) for sample in memory.samples])
        entries = [self._cached[1][i] for i in indices]
        for i, entry, count in zip(indices, entries, counts, strict=True):
            if len(entry.get("logsumexp", ())) != count:
                where = f"replay buffer, sample {memory.samples[i].id!r}"
                what = f"has {count} answer tokens and stored logits for {len(entry.get('logsumexp', ()))}."
                fix = "Tokenise all tasks in the same way (`cutoff_len`, template), and start from a carry that 'der' made."
                raise DataError(Problem(where, what, fix))
        return unpack(entries)

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """The logits of this task's samples that go into the buffer, as the trained model gives them."""
        found = super().statistics(context, model)
        memory, data = context.memory, context.data
        if memory is None or data is None or not memory.chosen:
            return found
        packed: dict[str, Tensor] = {}
        entries = ENTRIES if self.config.store == "topk" else None
        with looking(model):
            for start in range(0, len(memory.chosen), CHUNK):
                chosen = memory.chosen[start : start + CHUNK]
                batch = next(iter(data.batches([c.index for c in chosen], len(chosen))))
                logits, _, counts = answer_logits(model, batch)
                for sample, rows in zip(chosen, logits.split(counts), strict=True):
                    packed |= {f"{sample.uid}/{what}": value for what, value in pack(rows, entries).items()}
        return {**found, STATISTIC: packed}
