"""The training of a classifier on frozen encoders, step by step, in the spirit of arXiv 2511.06723.

``L = L_cls + w_d L_distil + w_a L_align + sqrt(t - 1) L_preserve``; after a step, experts that are used often are frozen.
The architecture belongs to the base (`cl_plugins.crossmodal`), so that other methods can train the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...adapters.modes import looking
from ...base.errors import CompatibilityError, Problem
from ...contract.capabilities import Capabilities, RunFacts
from ...contract.export import Export, Weights
from ...contract.host import has_encoders
from ...contract.method import Method, Route
from ...contract.names import trainable
from ...contract.task import Batch, TaskContext
from ...crossmodal import losses, usage
from .config import CrossModalOptions


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ...contract.base_model import BaseModel
    from ...contract.carry import Carry, CarryWriter, TaskUpdate


TENSORS = "classifier.safetensors"
STATISTIC = "usage"
_ROWS = 32  # samples per forward when experts are counted


class CrossModal(Method):
    """Cross-modality adapters with representation alignment."""

    name = "crossmodal"
    title = "Cross-modality adapters (in the spirit of)"
    config_class = CrossModalOptions
    capabilities = Capabilities(
        finetuning_types=("full",),
        low_rank=False,
        needs_replay=True,
        encoders=True,
        needs="a classifier on frozen encoders (`encoders:`) and a replay buffer (`cl.replay`)",
        carries="adapters, projections, fusion and head, which experts are frozen, and the replay buffer",
        reveals="training samples: the replay buffer holds them",
        step_cost="as the classifier plus a memory batch through the model and through its earlier state",
        memory="as the classifier plus one more copy of its trained parts",
    )
    starts_at_zero = True

    def __init__(self, config: CrossModalOptions) -> None:
        super().__init__(config)
        self._old: dict[str, Tensor] = {}

    def problems(self, facts: RunFacts) -> list[Problem]:
        """A language model has none of the parts that are trained."""
        if has_encoders(facts.keys):
            return []
        what = "trains a classifier on frozen encoders, and this recipe has a language model."
        return [Problem("cl.method.name", f"'crossmodal' {what}", "Give `encoders:`, or choose another method.")]

    def begin_task(self, context: TaskContext, model: Module) -> Module:
        """The classifier as the earlier steps left it, frozen experts frozen; its state before the step is kept.

        Raises:
            CompatibilityError: If the model is no classifier on frozen encoders, or there is no buffer.
        """
        if not hasattr(model, "adapters"):
            what = "needs a `CrossModalClassifier`."
            raise CompatibilityError(Problem("method 'crossmodal'", what, "Give a recipe with `encoders:`."))
        if context.memory is None:
            fix = "Give one: `cl.replay: {capacity_total: 200, selection: class_balanced}`."
            raise CompatibilityError(Problem("method 'crossmodal'", "needs a replay buffer.", fix))
        if context.carry is None:
            model = context.base.prepare_full()
        self._old = {name: p.detach().clone() for name, p in _parts(model).items()} if context.carry else {}
        usage.freeze(model.adapters, _frozen(context.carry, len(model.adapters)))  # type: ignore[arg-type]
        return model

    def batch_terms(self, context: TaskContext, model: Module, batch: Batch) -> dict[str, Tensor]:
        """Alignment over all rows; from the second step on the memory's cross-entropy, distillation and preservation."""
        import torch

        config, found = self.config, batch.outputs
        representations = [(found.parts, found.joint, found.present)]
        terms: dict[str, Tensor] = {}
        memory = context.memory
        if memory is not None and len(memory):
            drawn = memory.draw(context, batch, "crossmodal", at_least=config.memory_rows)
            inputs = dict(memory.batch(drawn))
            labels = inputs.pop("labels")
            own = model(**inputs)
            with looking(model):
                old = torch.func.functional_call(model, self._old, (), inputs)
            new_rows, targets = batch.logits[:, 0], batch.labels[:, 1]  # (rows, classes), (rows,)
            every = losses.joint_cross_entropy(new_rows, targets, own.logits[:, 0], labels[:, 1])
            # the trainer's loss is that of the new rows; with this term it is the mean over both half-batches
            terms["memory"] = every - torch.nn.functional.cross_entropy(new_rows.float(), targets)
            if config.distil and old.logits.shape[-1] > 1:  # of one class the probability is 1 under every model
                distil = losses.distillation(own.logits[:, 0], old.logits[:, 0], config.temperature)
                terms["distil"] = config.distil * distil
            weight = config.preserve * losses.preservation_weight(context.index)
            if weight:
                terms["preserve"] = weight * losses.preservation(own.joint, old.joint, config.preserve_temperature)
            representations.append((own.parts, own.joint, own.present))
        if config.align != "none" and config.align_weight:
            parts, joint, present = (torch.cat(values) for values in zip(*representations, strict=True))
            terms["align"] = config.align_weight * self._align(parts, joint, present)
        return terms

    def _align(self, parts: Tensor, joint: Tensor, present: Tensor) -> Tensor:
        kind, temperature = self.config.align, self.config.align_temperature
        if kind == "contrastive":
            return losses.contrastive(parts, present, temperature=temperature)
        return losses.alignment(parts, joint, present, kind=kind, temperature=temperature)

    def describe(self, context: TaskContext, model: Module) -> dict[str, Any]:
        """Shape of the adapters."""
        config: Any = model.config
        return {"experts": config.experts, "top": config.top, "adapters": len(model.adapters)}  # type: ignore[arg-type]

    def statistics(self, context: TaskContext, model: Module) -> dict[str, dict[str, Tensor]]:
        """Assignments of every expert over the task's training set, in evaluation mode."""
        import torch

        adapters: Any = model.adapters
        self._old = {}
        if not len(adapters) or context.data is None:
            return {}
        total = torch.zeros(len(adapters), len(adapters[0].experts), dtype=torch.int64)
        mine = list(range(len(context.data)))[context.rank :: context.world_size]
        with looking(model):
            for inputs in context.data.batches(mine, _ROWS):
                chosen = model(**{k: v for k, v in inputs.items() if k != "labels"}).chosen
                total += usage.counts(chosen, total.shape[1]).cpu()
        if torch.distributed.is_available() and torch.distributed.is_initialized() and context.world_size > 1:
            device = next(model.parameters()).device
            summed = total.to(device)
            torch.distributed.all_reduce(summed)
            total = summed.cpu()
        self._counts = total
        return {STATISTIC: {"assignments": total}}

    def numbers(self, context: TaskContext, model: Module) -> dict[str, float]:
        """Experts that are frozen once the step ends, of all adapters together, and the largest frequency."""
        adapters: Any = model.adapters
        if not len(adapters) or context.data is None:
            return {}
        values = usage.frequencies(self._counts, model.config.top)  # type: ignore[union-attr, arg-type]
        frozen = self._next_frozen(_frozen(context.carry, len(adapters)), self._counts, model.config.top)  # type: ignore[union-attr, arg-type]
        return {
            "frozen_experts": float(sum(map(len, frozen))),
            "experts": float(self._counts.numel()),
            "largest_share": float(values.max()),
        }

    def _next_frozen(self, before: list[list[int]], count: Tensor, top: int) -> list[list[int]]:
        if self.config.freeze == "none":
            return before
        values = usage.frequencies(count, top, by=self.config.freeze)
        new = usage.above(values, self.config.threshold)
        return [sorted({*old, *more}) for old, more in zip(before, new, strict=True)]

    def consolidate(self, previous: Carry | None, update: TaskUpdate, writer: CarryWriter) -> None:
        """All trained parts, those of frozen experts from the earlier carry, and which experts are frozen now."""
        from ...contract.carry import read_tensors

        earlier = previous.load(TENSORS) if previous is not None else {}
        writer.write(TENSORS, {**earlier, **update.load()})
        adapters = int(update.meta["adapters"])
        frozen = _frozen(previous, adapters)
        if adapters:
            count = read_tensors(update.statistic(STATISTIC))["assignments"]
            frozen = self._next_frozen(frozen, count, int(update.meta["top"]))
        writer.meta["frozen"] = frozen

    def restore(self, base: BaseModel, carry: Carry | None, route: Route = None) -> Module:
        """The base with its trained parts replaced."""
        base.reset()
        model = base.prepare_full()
        if carry is not None:
            for name, value in carry.load(TENSORS).items():
                base.replace(name, value)
        return model

    def export(self, carry: Carry) -> Export:
        """The classifier itself."""
        return Weights()


def _frozen(carry: Carry | None, adapters: int) -> list[list[int]]:
    """Numbers of the frozen experts of every adapter."""
    if carry is None:
        return [[] for _ in range(adapters)]
    return [[int(number) for number in numbers] for numbers in carry.meta["frozen"]]


def _parts(model: Module) -> dict[str, Any]:
    """The parameters that steps change: all that trains when nothing is frozen."""
    names: Any = getattr(model, "trained_names", None)
    wanted = set(names()) if names is not None else set(trainable(model))
    return {name: p for name, p in model.named_parameters() if name in wanted}
