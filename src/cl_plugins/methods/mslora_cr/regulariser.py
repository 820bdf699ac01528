"""The regulariser of MSLoRA-CR as an object that any chain of LoRAs can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...base.errors import CompatibilityError, Problem, RecipeError, RunStateError
from ...contract.capabilities import RunFacts
from ...contract.task import TaskContext


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.carry import TaskUpdate
    from .penalty import PastTensors


LOG_START = -4.6  # learnable coefficients start at exp(-4.6), about 0.01 (the authors' code)
LOGS = ("cl_log_alpha", "cl_log_beta")


class Regulariser:
    """``alpha R_c + beta R_o`` from the second task on; the first one trains with the plain loss.

    Args:
        alpha: Weight of `contrastive_regularization`; 0 leaves it out.
        beta: Weight of `orthonormality`; 0 leaves it out.
        learnable: Weights that are not 0 are ``exp(parameter)``, trained with the rest, for any value.
        peer: `orthonormality` over the LoRAs of all tasks, the frozen ones included, as the authors' code has it.
    """

    def __init__(self, alpha: float, beta: float, *, learnable: bool = False, peer: bool = False) -> None:
        self._weights = dict(zip(LOGS, (alpha, beta), strict=True))
        self._learnable, self._peer = learnable, peer
        self.forget()

    @property
    def active(self) -> bool:
        """Whether there is any term."""
        return any(self._weights.values())

    @property
    def contrasts(self) -> bool:
        """Whether modality labels are needed."""
        return self._weights["cl_log_alpha"] != 0

    def problems(self, facts: RunFacts, name: str) -> list[Problem]:
        """Tasks without a modality label.

        Args:
            facts: The run.
            name: Name of the method.
        """
        fix = "Give every task a modality label, or set `cl.method.alpha: 0`."
        what = f"is missing, and '{name}' compares modalities (alpha is not 0)."
        missing = [i for i, task in enumerate(facts.stream.tasks) if not task.modality] if self.contrasts else []
        return [Problem(f"cl.stream.tasks[{i}].modality", what, fix) for i in missing]

    def prepare(self, context: TaskContext, model: Module, past: Sequence[TaskUpdate]) -> None:
        """Before training: check the labels of the past and put learnable weights on the model.

        The weights are in no forward, and every process computes their gradient from the same tensors, so DDP must
        leave them alone.

        Args:
            context: The task.
            model: What will be trained.
            past: The updates of the past tasks.

        Raises:
            RecipeError: If the task has no modality label but needs one.
            RunStateError: If a past task has left none.
        """
        self.forget()
        self._check_label(context)
        if not past or not self.active:
            return
        self._same_modality(context, past)
        if not self._learnable:
            return
        import torch
        from torch.nn.parallel import DistributedDataParallel

        device = next(p for p in model.parameters() if p.requires_grad).device
        names = [name for name, weight in self._weights.items() if weight]
        for name in names:
            value = torch.full((1,), LOG_START, dtype=torch.float32, device=device)
            model.register_parameter(name, torch.nn.Parameter(value))
        # a parameter of the outermost module is looked up both with a dot in front and without
        ignored = [*names, *(f".{name}" for name in names)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)

    def terms(self, context: TaskContext, model: Module, past: Sequence[TaskUpdate]) -> dict[str, Tensor]:
        """The weighted terms of a step, by name.

        Args:
            context: The task.
            model: What is trained.
            past: The updates of the past tasks.
        """
        self._check_label(context)
        if not past or not self.active:
            return {}
        from ...adapters.update import trained_factors
        from .penalty import orthonormality

        pairs = trained_factors(model)
        found = {}
        if self._weights["cl_log_alpha"]:
            current = {f"{name}.{part}": t for name, pair in pairs.items() for part, t in zip("AB", pair, strict=True)}
            contrast = self._read(context, current, past).contrast(current, self._same_modality(context, past))
            found["contrast"] = self._weight("cl_log_alpha", model) * contrast
        if self._weights["cl_log_beta"]:
            value = orthonormality([a for a, _ in pairs.values()], [b for _, b in pairs.values()])
            if self._peer:
                value = (value + self._frozen_part(context, value, past)) / (len(past) + 1)
            found["orthonormality"] = self._weight("cl_log_beta", model) * value
        return found

    def learned(self, model: Module) -> dict[str, float]:
        """The learnable weights as they are now: name (without ``cl_``) -> logarithm."""
        found = {name: getattr(model, name, None) for name in LOGS}
        return {name.removeprefix("cl_"): float(p.detach()) for name, p in found.items() if p is not None}

    def forget(self) -> None:
        """Release the past tensors."""
        self._task: TaskContext | None = None
        self._past: PastTensors | None = None
        self._frozen: Tensor | None = None

    def _weight(self, name: str, model: Module) -> Any:
        if not self._learnable:
            return self._weights[name]
        parameter = getattr(model, name, None)
        if parameter is None:
            what = f"needs the trainable parameter '{name}', which this model lacks."
            fix = "Let the method build the model (`begin_task`, or `ContinualLearner`), or use fixed coefficients."
            raise CompatibilityError(Problem("learnable", what, fix))
        return parameter.exp().squeeze()

    def _check_label(self, context: TaskContext) -> None:
        if self.contrasts and not context.task.modality:
            fix = "Give it one, or set alpha to 0."
            raise RecipeError(Problem(f"task '{context.task.name}'", "has no modality label, which alpha needs.", fix))

    def _same_modality(self, context: TaskContext, past: Sequence[TaskUpdate]) -> list[bool]:
        if not self.contrasts:
            return []
        missing = [update.task for update in past if not update.meta.get("modality")]
        if missing:
            what = f"holds no modality label of the task {', '.join(missing)}, which `alpha` needs."
            fix = "Train the earlier tasks from a stream with modality labels, or set `cl.method.alpha: 0`."
            raise RunStateError(Problem("carry", what, fix))
        return [update.meta["modality"] == context.task.modality for update in past]

    def _renew(self, context: TaskContext) -> None:
        """What was read belongs to one task; a task is known by its carry, since contexts may be replaced."""
        if self._task is None or self._task.carry is not context.carry:
            self.forget()
            self._task = context

    def _read(self, context: TaskContext, current: dict[str, Tensor], past: Sequence[TaskUpdate]) -> PastTensors:
        from .penalty import PastTensors

        self._renew(context)
        if self._past is None:
            previous = []
            for update in past:
                low_rank = update.low_rank()
                previous.append(
                    {f"{m}.{p}": t for p, d in zip("AB", (low_rank.a, low_rank.b), strict=True) for m, t in d.items()}
                )
            try:
                self._past = PastTensors(current, previous)
            except ValueError as error:
                fix = "Use the `lora_target` and `lora_rank` that the earlier tasks were trained with."
                raise RunStateError(
                    Problem("carry", f"cannot be compared with this task's LoRA: {error}.", fix)
                ) from error
        return self._past

    def _frozen_part(self, context: TaskContext, like: Tensor, past: Sequence[TaskUpdate]) -> Tensor:
        """Sum over the past tasks of `orthonormality`: a constant that only dilutes the gradient."""
        import torch

        from .penalty import orthonormality

        self._renew(context)
        if self._frozen is None:
            updates = [update.low_rank() for update in past]
            values = [orthonormality(list(u.a.values()), [u.b[name] for name in u.a]) for u in updates]
            self._frozen = torch.stack(values).sum().to(like)
        return self._frozen
