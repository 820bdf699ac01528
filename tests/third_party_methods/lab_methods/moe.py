"""A mixture of low-rank experts whose router weighs them for every token."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cl_plugins.adapters.bank import Expert, Experts, attach
from cl_plugins.adapters.update import fill
from cl_plugins.base.schema import option
from cl_plugins.contract.export import Routed
from cl_plugins.methods import Capabilities, OneLoRA
from cl_plugins.methods.one_lora import ADAPTER


@dataclass(frozen=True)
class LabMoEConfig:
    """Options of LabMoE."""

    experts: int = option(2, minimum=1, help="Experts of each linear layer.")
    rank: int = option(2, minimum=1, help="Rank of an expert.")


class LabMoE(OneLoRA):
    """One bank of experts for the whole stream."""

    name = "lab_moe"
    title = "Mixture of a laboratory"
    config_class = LabMoEConfig
    capabilities = Capabilities(answers="by_sample", carries="the experts and their router")

    def begin_task(self, context, model):
        """The carried experts continue to train; the first task starts fresh ones."""
        return self._with_experts(context.base, context.seed) if context.carry is None else model

    def restore(self, base, carry, route=None):
        """The base with the carried experts."""
        base.reset()
        if carry is None:
            return base.model
        model = self._with_experts(base, 0)
        fill(model, carry.load(ADAPTER))
        return model

    def describe(self, context, model):
        """Nothing is needed in addition to the tensors."""
        return {}

    def numbers(self, context, model):
        """How far the routers have moved from treating all experts alike."""
        routers = [p for n, p in model.named_parameters() if n.endswith(".cl_router")]
        return {"router_norm": float(sum(p.detach().norm() for p in routers))}

    def learning_rates(self, context, model):
        """Routers learn faster than experts."""
        return {".cl_router": 2.0}

    def export(self, carry):
        """The model chooses for every token."""
        return Routed()

    def _with_experts(self, base, seed):
        model = base.prepare_frozen()
        generator = torch.Generator().manual_seed(seed)
        count, rank = self.config.experts, self.config.rank
        for name in base.targets():
            layer = base.model.get_submodule(name)
            trunks = [torch.randn(rank, layer.in_features, generator=generator) * 0.1 for _ in range(count)]
            experts = [Expert(torch.zeros(layer.out_features, rank), i, trained=True) for i in range(count)]
            router = torch.randn(count, layer.in_features, generator=generator) * 0.01
            base.register(f"{name}.cl_router", router, trained=True)
            gate = Softmax(layer)
            attach(base, {name: Experts(trunks, experts, [True] * count, gate)})
        return model


class Softmax:
    """Weights of the experts of a layer, for every token."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        """(rows, length, in) -> (rows, length, experts)."""
        return torch.softmax(x.float() @ self.layer.cl_router.T, dim=-1)
