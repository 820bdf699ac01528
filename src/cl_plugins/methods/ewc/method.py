"""EWC: one LoRA with a quadratic penalty, weighted by Fisher information.

``L = CE + weight/2 * sum_j F_j (theta_j - theta*_j)^2`` (Kirkpatrick et al. 2017), online: one F and one theta* for
all past tasks, ``F <- gamma F + F_new`` (Schwarz et al. 2018, Progress & Compress).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ...base.errors import CompatibilityError, Problem, RunStateError
from ...base.schema import option
from ...contract.capabilities import Capabilities
from ...contract.names import trainable
from ...contract.task import TaskContext, certain
from ..one_lora import ADAPTER
from ..samples import chosen_samples
from ..seqlora import SeqLoRA
from .fisher import fisher_diagonal
from .penalty import quadratic_penalty


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module, Parameter

    from ...contract.carry import Carry, CarryWriter, TaskUpdate


CERTAIN = "certain"  # in meta: when these values were measured there was one answer, and nothing to protect
FISHER = "fisher.safetensors"
ANCHORS = "anchors.safetensors"


@dataclass(frozen=True)
class EWCConfig:
    """Options of EWC."""

    weight: float = option(
        1e4,
        minimum=0,
        help="Weight of the penalty; 0 gives sequential LoRA. Usual: 1e3 to 1e6; the card explains how to choose it.",
    )
    gamma: float = option(1.0, minimum=0, help="Factor for the earlier tasks' Fisher values when a task is added.")
    fisher_samples: int = option(
        128, minimum=1, help="Training samples of a finished task from which its Fisher values are computed."
    )
    faithful: Literal["prism", "mammoth", "easycl"] | None = option(
        None, help="Follow one of these code bases, including its errors; see the card."
    )


@dataclass(frozen=True)
class _Past:
    """What the penalty of one task needs, in the same order."""

    context: TaskContext
    parameters: list[Parameter]
    anchors: list[Tensor]
    fisher: list[Tensor]


class EWC(SeqLoRA):
    """One LoRA with the quadratic penalty."""

    name = "ewc"
    title = "EWC (online)"
    config_class = EWCConfig
    capabilities = Capabilities(
        quantised=("bnb",),
        encoders=True,
        per_sample=True,
        carries="one LoRA and the projector, and the Fisher value of each of their elements",
        reveals="weights, and the sensitivity of the past answers' loss to each of them; no samples",
        step_cost="as plain LoRA plus one pass over the trained tensors; at the end of a task one backward per Fisher sample",
        memory="plus two more copies of the trained tensors, independent of the length of the stream",
    )
    starts_at_zero = True

    def __init__(self, config: EWCConfig) -> None:
        super().__init__(config)
        self._cached: _Past | None = None
        self._norm: float | None = None

    def penalties(self, context: TaskContext, model: Module) -> dict[str, Tensor]:
        """The quadratic penalty, from the second task on."""
        if self.config.weight == 0:
            return {}
        if context.data is None:  # an error now, and not after hours of training
            what = "needs the training samples one by one for its Fisher values, which streamed data cannot give."
            raise CompatibilityError(Problem("method 'ewc'", what, "Give a data set with a length."))
        if context.carry is None:
            return {}
        past = self._past(context, context.carry, model)
        if past is None:
            return {}
        value = self.config.weight * quadratic_penalty(past.parameters, past.anchors, past.fisher)
        if self.config.faithful == "mammoth":
            value = 2.0 * value  # without the half
        elif self.config.faithful == "easycl":
            value = value.detach()  # from `param.data`: a logged number that nothing is learned from
        return {"ewc": value}

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """The Fisher values of this task alone."""
        self._cached = None
        if self.config.weight == 0 or context.data is None:
            return {}
        trained = trainable(model)
        chosen = chosen_samples(len(context.data), self.config.fisher_samples, context.seed)
        samples = context.data.batches(chosen[context.rank :: context.world_size], 1)
        by_likelihood = self.config.faithful == "mammoth"
        values = fisher_diagonal(model, list(trained.values()), samples, by_likelihood=by_likelihood)
        self._norm = float(sum(value.double().sum() for value in values))
        return {"fisher": {name: value.cpu() for name, value in zip(trained, values, strict=True)}}

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """As sequential LoRA, and whether the model can give one answer only."""
        found = super().describe(context, model)
        return {**found, CERTAIN: True} if certain(model) else found

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """The sum of the task's Fisher values: next to 0, nothing is protected."""
        return {} if self._norm is None else {"fisher_sum": self._norm}

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """The adapter, which is theta* as well, and the Fisher values of all tasks so far."""
        from ...contract.carry import read_tensors

        super().consolidate(previous, update, writer)
        if update.meta.get(CERTAIN):
            writer.meta[CERTAIN] = True
        if self.config.weight == 0:
            return
        new = read_tensors(update.statistic("fisher"))
        kept = _fisher(previous) if previous is not None else {}
        old = {name: self.config.gamma * kept[name] for name in new if name in kept}
        writer.write(FISHER, {name: old[name] + value if name in old else value for name, value in new.items()})
        if self.config.faithful == "prism":
            earlier = previous.load(ANCHORS) if previous is not None else {}
            writer.write(ANCHORS, _joint_anchors(update.load(), new, earlier, old))

    def _past(self, context: TaskContext, carry: Carry, model: Module) -> _Past | None:
        """Read once per task, on the device of the model; None if the past could give one answer only."""
        if carry.meta.get(CERTAIN):
            return None
        if self._cached is None or self._cached.context is not context:
            fisher = _fisher(carry)
            anchors = carry.load(ANCHORS if self.config.faithful == "prism" else ADAPTER)
            live = trainable(model)
            missing = sorted(set(live) - set(fisher))
            if missing:
                what = f"contains no Fisher values of {len(missing)} trained tensors (e.g. {missing[0]})."
                raise RunStateError(Problem(str(carry.path / FISHER), what, "Train the same tensors in every task."))
            if not any(bool(value.any()) for value in fisher.values()):
                what = "contains zeros only, so that nothing would be protected."
                raise RunStateError(Problem(str(carry.path / FISHER), what, "Check the data of the earlier task."))
            self._cached = _Past(
                context,
                list(live.values()),
                [anchors[name].to(p.device) for name, p in live.items()],
                [fisher[name].to(p.device) for name, p in live.items()],
            )
        return self._cached


def _fisher(carry: Carry) -> dict[str, Tensor]:
    """The carried Fisher values.

    Raises:
        RunStateError: If the carry has none.
    """
    if FISHER not in carry.files:
        what = "contains no Fisher values: it was made with `weight: 0`."
        raise RunStateError(Problem(str(carry.path), what, "Train the earlier tasks with the same weight."))
    return carry.load(FISHER)


def _joint_anchors(
    theta: dict[str, Tensor], new: dict[str, Any], anchors: dict[str, Tensor], old: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Anchors of one quadratic that has the gradient of one quadratic per task: the mean of the thetas, weighted by F.

    ``sum_k F_k (theta - theta_k)^2 = F (theta - m)^2 + constant`` with ``F = sum_k F_k``, ``m = sum_k F_k theta_k / F``.
    """
    import torch

    joint = {}
    for name, weight in new.items():
        value = theta[name].to(weight.dtype)
        if name in old:
            total = weight.double() + old[name].double()
            mean = (weight.double() * value.double() + old[name].double() * anchors[name].double()) / total
            value = torch.where(total > 0, mean.to(weight.dtype), value)
        joint[name] = value.contiguous()
    return joint
