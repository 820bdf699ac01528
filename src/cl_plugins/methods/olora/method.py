"""O-LoRA: a fresh LoRA per task, penalised for overlapping with the row spaces of the past ones.

``L = CE + lambda_1 sum_modules sum |A_t A_past^T| + lambda_2 sum (|A_t|_F + |B_t|_F)`` with the past LoRAs in the
training forward, frozen and detached, as in the authors' code (Wang et al., Findings of EMNLP 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...base.errors import Problem, RunStateError
from ...base.schema import option
from ...contract.capabilities import Capabilities
from ...contract.task import TaskContext
from ..chain import ChainConfig, LoRAChain


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.carry import TaskUpdate
    from .penalty import PastRows


OFFICIAL, PORT = 0.5, 0.05  # lambda_1 of the authors' code and of the multimodal port (MCITlib)


@dataclass(frozen=True)
class OLoRAConfig(ChainConfig):
    """Options of `OLoRA`."""

    lambda_1: float | None = option(
        None, help="Weight of the orthogonality term; default: 0.5, or 0.05 with `faithful: port`.", minimum=0.0
    )
    lambda_2: float = option(
        0.0, help="Weight of the norms of the new LoRA, from the first task on; 0 leaves them out.", minimum=0.0
    )
    form: Literal["l1", "squared"] = option(
        "l1", help="Entries of A_new A_past^T by absolute value (the authors' code) or squared (their paper)."
    )
    faithful: Literal["port"] | None = option(
        None,
        help="`port` (or `peer`): as MCITlib's multimodal port, past LoRAs are absent while a task trains and summed at test.",
        aliases={"peer": "port"},
    )


class OLoRA(LoRAChain):
    """A LoRA per task in a separate subspace."""

    name = "olora"
    title = "O-LoRA"
    config_class = OLoRAConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        grows=True,
        carries="the LoRA of every past task and the latest projector",
        step_cost="as inclora, plus one product of the new A with all past A per module",
        memory="as inclora, plus the A of all past tasks next to the model",
    )

    def __init__(self, config: OLoRAConfig) -> None:
        super().__init__(config)
        default = PORT if config.faithful == "port" else OFFICIAL
        self._lambda_1 = default if config.lambda_1 is None else config.lambda_1
        self._rows: tuple[object, PastRows, list[str]] | None = None

    @property
    def penalised(self) -> bool:
        """Only with a weight that is not 0."""
        return bool(self._lambda_1 or self.config.lambda_2)

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """A fresh LoRA on base and past; with ``faithful: port`` on the base and the latest projector alone."""
        self._rows = None
        past = self._past(context)
        if self.config.faithful == "port" and past:
            from ...adapters.merge import replaced

            context.base.reset()
            for name, value in replaced([update.low_rank() for update in past]).items():
                context.base.replace(name, value)
        return super().begin_task(context, model)

    def penalties(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """The orthogonality term from the second task on, and the norms."""
        from ...adapters.update import trained_factors
        from .penalty import norms

        found: dict[str, Tensor] = {}
        past = self._past(context) if self._lambda_1 else []
        if not past and not self.config.lambda_2:
            return found
        pairs = trained_factors(model)
        if past:
            rows, names = self._read(context, pairs, past)
            overlap = rows.overlap([pairs[name][0] for name in names], self.config.form)
            found["orthogonality"] = self._lambda_1 * overlap
        if self.config.lambda_2:
            found["norms"] = self.config.lambda_2 * norms([tensor for pair in pairs.values() for tensor in pair])
        return found

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """None; the past rows are no longer needed."""
        self._rows = None
        return {}

    def _past(self, context: TaskContext) -> list[TaskUpdate]:
        return self.updates(context.carry) if context.carry is not None else []

    def _read(
        self, context: TaskContext, pairs: dict[str, tuple[Tensor, Tensor]], past: list[TaskUpdate]
    ) -> tuple[PastRows, list[str]]:
        """The past rows of the modules that the new LoRA has too; read once per task."""
        if self._rows is None or self._rows[0] is not context.carry:
            import torch

            from .penalty import PastRows

            earlier = [update.low_rank().a for update in past]
            names = [name for name in pairs if any(name in a for a in earlier)]
            stacked = [torch.cat([a[name] for a in earlier if name in a]) for name in names]
            try:
                rows = PastRows([pairs[name][0] for name in names], stacked)
            except ValueError as error:
                fix = "Use the base and the `lora_target` that the earlier tasks were trained with."
                raise RunStateError(Problem("carry", f"does not fit this task's LoRA: {error}.", fix)) from error
            self._rows = (context.carry, rows, names)
        return self._rows[1], self._rows[2]
