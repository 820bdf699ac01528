"""The one list of method cases. A new method gets a line here and is in every shared test."""

from __future__ import annotations

from dataclasses import replace

from cl_plugins.testing import MethodCase
from cl_plugins.testing.suite import STACKED


CASES = [
    MethodCase("seqlora", {"name": "seqlora"}, boundary=0.0),
    MethodCase("inclora-merge", {"name": "inclora", "consolidate": "merge"}),
    MethodCase("inclora-stack", {"name": "inclora", "consolidate": "stack"}),
    MethodCase("seqfull", {"name": "seqfull"}, boundary=0.0),
    MethodCase("single_task", {"name": "single_task"}, boundary=0.0),
    MethodCase("multitask", {"name": "multitask"}, boundary=0.0),
    MethodCase("mslora_cr-all", {"name": "mslora_cr", "inference": "all"}),
    MethodCase("mslora_cr-merge", {"name": "mslora_cr", "consolidate": "merge"}),
    MethodCase("mslora_cr-stack", {"name": "mslora_cr", "consolidate": "stack"}),
    MethodCase("mslora_cr-learnable", {"name": "mslora_cr", "learnable": True}),
    MethodCase("olora-merge", {"name": "olora", "consolidate": "merge"}),
    MethodCase("olora-stack", {"name": "olora", "consolidate": "stack"}),
    MethodCase("ewc", {"name": "ewc", "fisher_samples": 6}, boundary=0.0),
    MethodCase("lwf", {"name": "lwf"}, boundary=0.0),
    MethodCase("sefe-merge", {"name": "sefe", "consolidate": "merge"}),
    MethodCase("sefe-stack", {"name": "sefe", "consolidate": "stack"}),
    MethodCase("moelora", {"name": "moelora", "experts": 2}, boundary=0.0),
    MethodCase("moelora-peer", {"name": "moelora", "experts": 4, "faithful": "peer"}, boundary=0.0),
    MethodCase("seqlora-replay", {"name": "seqlora"}, block={"replay": {"capacity_per_task": 5}}, boundary=0.0),
    MethodCase("der", {"name": "der", "beta": 0.0}, block={"replay": {"capacity_per_task": 5}}, boundary=0.0),
    MethodCase("der++", {"name": "der"}, block={"replay": {"capacity_total": 8, "batch": 2}}, boundary=0.0),
]


def _half(case: str, boundary: float = 0.0) -> MethodCase:
    fp32 = next(c for c in CASES if c.id == case)
    return replace(fp32, id=f"{case}-bf16", keys={**fp32.keys, "bf16": True}, boundary=boundary, half=True)


HALF_CASES = [
    _half("seqlora"),
    _half("inclora-stack", STACKED),
    _half("seqfull"),
    _half("single_task"),
    _half("multitask"),
    _half("mslora_cr-stack", STACKED),
    _half("olora-stack", STACKED),
    _half("ewc"),
    _half("lwf"),
    _half("sefe-stack", STACKED),
    _half("moelora"),
    _half("der++"),
]
