"""The one list of method cases. A new method gets a line here and is in every suite that its flags name."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from cl_plugins.testing import case as shared
from cl_plugins.testing.suite import STACKED


@dataclass(frozen=True)
class Kill:
    """A run that is killed where the method's files are written and read.

    Attributes:
        file: What the method writes after a task, below the task's folder.
        options: Options of the method beside those of the case.
        always: Whether `make test` does it as well, and not only `make test-kill`.
    """

    file: str = "update.safetensors"
    options: dict[str, Any] = field(default_factory=dict)
    always: bool = False


@dataclass(frozen=True)
class MethodCase(shared.MethodCase):
    """A method with options, and which suites it is in beside the shared tests.

    Attributes:
        term: Whether something joins the loss from the second task on, and is logged.
        kill: The kill suite; None leaves it out.
        kill_everywhere: Killed at every point of a run, also under DeepSpeed.
        ranks: Two processes against one: options with which a term is felt in few steps; None leaves it out.
        learner: A learner in a custom trainer against a recipe: options as in ``ranks``.
        run_exp: Whether a callback under LLaMA-Factory's own `run_exp` is enough, without a loss of its own.
        without: The case that is left of this one without its term.
        goes_on: Whether task 2 goes on training the LoRA of task 1.
        stages: ZeRO stages that it is tested with.
        nf4: With a 4-bit base: the rank of ``final/`` after two tasks of rank 4; 0 leaves it out.
        nf4_routed: With a 4-bit base, where ``final/`` is a model that chooses.
    """

    term: bool = False
    kill: Kill | None = None
    kill_everywhere: bool = False
    ranks: dict[str, Any] | None = None
    learner: dict[str, Any] | None = None
    run_exp: bool = True
    without: str | None = None
    goes_on: bool = False
    stages: tuple[int, ...] = ()
    nf4: int = 0
    nf4_routed: bool = False

    def given(self, options: dict[str, Any] | None) -> dict[str, Any]:
        """``cl.method`` with further options."""
        return {**self.method, **(options or {})}


#: Methods that train no language model: a classifier on encoders, whose runs are tested in tests/crossmodal.
WITHOUT_LANGUAGE_MODEL = ("crossmodal",)

REPLAY = {"replay": {"capacity_per_task": 5}}
_STACK = {"consolidate": "stack"}

CASES = [
    MethodCase("seqlora", {"name": "seqlora"}, boundary=0.0, learner={}, goes_on=True, stages=(2,), nf4=4),
    MethodCase("inclora-merge", {"name": "inclora", "consolidate": "merge"}, learner={}, kill_everywhere=True, ranks={}),
    MethodCase("inclora-stack", {"name": "inclora", **_STACK}, stages=(2, 3), nf4=8),
    MethodCase("seqfull", {"name": "seqfull"}, boundary=0.0, kill_everywhere=True, ranks={}, stages=(2, 3)),
    MethodCase("single_task", {"name": "single_task"}, boundary=0.0, stages=(2,), nf4=4),
    MethodCase("multitask", {"name": "multitask"}, boundary=0.0, stages=(2,), nf4=4),
    MethodCase("mslora_cr-all", {"name": "mslora_cr", "inference": "all"}, term=True),
    MethodCase(
        "mslora_cr-merge", {"name": "mslora_cr", "consolidate": "merge"}, term=True, ranks={}, without="inclora-merge",
        learner={"alpha": 1.0, "beta": 1.0},
    ),
    MethodCase("mslora_cr-stack", {"name": "mslora_cr", **_STACK}, term=True, kill=Kill(), nf4=8),
    MethodCase(
        "mslora_cr-learnable", {"name": "mslora_cr", "learnable": True}, term=True, kill=Kill("update.json"), ranks={}
    ),
    MethodCase(
        "olora-merge", {"name": "olora", "consolidate": "merge"}, term=True, kill=Kill(options={"lambda_2": 0.01}),
        ranks={}, learner={}, without="inclora-merge",
    ),
    MethodCase("olora-stack", {"name": "olora", **_STACK}, term=True, nf4=8),
    MethodCase(
        "ewc", {"name": "ewc", "fisher_samples": 6}, boundary=0.0, term=True, without="seqlora", goes_on=True, nf4=4,
        kill=Kill("fisher.safetensors", {"weight": 1e3}, always=True), learner={"weight": 1e6},
    ),
    MethodCase(
        "lwf", {"name": "lwf"}, boundary=0.0, term=True, without="seqlora", run_exp=False, stages=(2,), nf4=4,
        kill=Kill(options={"alpha": 5.0}), ranks={"alpha": 5.0}, learner={"alpha": 5.0},
    ),
    MethodCase(
        "sefe-merge", {"name": "sefe", "consolidate": "merge"}, term=True, without="inclora-merge",
        kill=Kill("positions.safetensors", {"weight": 20.0}), ranks={"weight": 20.0}, learner={"weight": 1e4},
    ),
    MethodCase("sefe-stack", {"name": "sefe", **_STACK}, term=True, nf4=8),
    MethodCase(
        "moelora", {"name": "moelora", "experts": 2}, boundary=0.0, ranks={}, learner={}, run_exp=False, kill=Kill(),
        nf4_routed=True,
    ),
    MethodCase("moelora-peer", {"name": "moelora", "experts": 4, "faithful": "peer"}, boundary=0.0),
    MethodCase(
        "hide", {"name": "hide"}, apart=True, kill=Kill("selector.safetensors"), ranks={}, learner={}, run_exp=False,
        nf4_routed=True,
    ),
    MethodCase("hide-peer", {"name": "hide", "faithful": "peer"}, apart=True),
    MethodCase(
        "disco", {"name": "disco"}, apart=True, kill=Kill("selector.safetensors"), ranks={}, learner={}, run_exp=False,
        nf4_routed=True,
    ),
    MethodCase(
        "branchlora", {"name": "branchlora", "branches": 4, "selector": {"kind": "oracle"}}, continues=False,
        unchosen=("cl_b", "cl_router"), kill=Kill("usage.safetensors", {"selector": {"kind": "keys"}}, always=True), run_exp=False,
        learner={"gate_input": "token", "selector": {"kind": "keys"}}, ranks={"gate_input": "token"},
        nf4_routed=True,
    ),
    MethodCase(
        "branchlora-shared", {"name": "branchlora", "branches": 4, "routers": "shared", "freeze": 0, "gate_input": "token"},
        keys={"lora_dropout": 0.1},
    ),
    MethodCase(
        "clmoe", {"name": "clmoe", "usage_samples": 6}, boundary=0.0, apart=True, learner={}, ranks={}, run_exp=False,
        kill=Kill("usage.safetensors"), nf4_routed=True,
    ),
    MethodCase(
        "smolora", {"name": "smolora", "experts": 4}, boundary=0.0, learner={}, ranks={}, run_exp=False, kill=Kill(),
        nf4_routed=True,
    ),
    MethodCase(
        "smolora-peer", {"name": "smolora", "experts": 2, "faithful": "peer"}, boundary=0.0,
        unchosen=("cl_visual_router", "cl_instruction_router"),
    ),
    MethodCase(
        "l2p", {"name": "l2p", "pool_size": 4, "prompt_length": 2, "top_k": 2}, boundary=0.0, term=True, ranks={},
        learner={}, run_exp=False, kill=Kill(), nf4_routed=True,
    ),
    MethodCase(
        "l2p-tasks", {"name": "l2p", "pool_size": 6, "prompt_length": 2, "top_k": 2, "task_prompts": True, "pull": 1.0},
        boundary=0.0, term=True,
    ),
    MethodCase(
        "l2p-diversify", {"name": "l2p", "prompt_length": 2, "top_k": 3, "diversify": True, "key_rate": 5.0},
        boundary=0.0, term=True, kill=Kill("frequency.safetensors"),
    ),
    MethodCase(
        "mr_lora", {"name": "mr_lora", "selector": {"kind": "mllm", "steps": 4, "learning_rate": 1e-2}}, block=REPLAY,
        apart=True, kill=Kill(), ranks={}, learner={}, run_exp=False, nf4_routed=True,
    ),
    MethodCase("mr_lora-ridge", {"name": "mr_lora", "selector": {"kind": "ridge"}}, apart=True),
    MethodCase(
        "modalprompt", {"name": "modalprompt", "prompt_length": 2, "prompts": 2}, boundary=0.0, term=True, ranks={},
        learner={}, run_exp=False, kill=Kill("prototype.safetensors"), nf4_routed=True,
    ),
    MethodCase(
        "modalprompt-peer",
        {"name": "modalprompt", "prompt_length": 2, "prompts": 1, "faithful": "peer", "num_tasks": 3},
        boundary=0.0, term=True,
    ),
    MethodCase("gem", {"name": "gem", "samples": 4}, block=REPLAY, boundary=0.0, kill=Kill("replay.json")),
    MethodCase("agem", {"name": "gem", "variant": "agem", "samples": 4}, block=REPLAY, boundary=0.0),
    MethodCase(
        "ilora", {"name": "ilora", "decay": 0.5}, block=REPLAY, boundary=0.0, term=True,
        kill=Kill(options={"decay": 0.9}),
    ),
    MethodCase("ilora-peer", {"name": "ilora", "faithful": "peer"}, block=REPLAY, boundary=0.0, term=True),
    MethodCase(
        "osf", {"name": "osf", "growth": 0.1}, learner={}, run_exp=False, kill=Kill("weights.safetensors")
    ),
    MethodCase("osf-peer", {"name": "osf", "preserve": 0.8, "faithful": "peer"}),
    MethodCase("seqlora-replay", {"name": "seqlora"}, block=REPLAY, boundary=0.0),
    MethodCase("inclora-replay", {"name": "inclora"}, block=REPLAY, kill=Kill("replay.json")),
    MethodCase("der", {"name": "der", "beta": 0.0}, block=REPLAY, boundary=0.0, term=True),
    MethodCase(
        "der++", {"name": "der"}, block={"replay": {"capacity_total": 8, "batch": 2}}, boundary=0.0, term=True,
        kill=Kill("memory_logits.safetensors"), stages=(2,), nf4=4,
    ),
]  # fmt: skip


def case_of(name: str) -> MethodCase:
    """The case with this id."""
    return next(case for case in CASES if case.id == name)


#: Cases of a method that another case stands for in `make test`; their shared tests are in `make test-slow`.
VARIANTS = (
    "mslora_cr-all", "mslora_cr-merge", "olora-merge", "sefe-merge", "moelora-peer", "hide-peer", "branchlora-shared",
    "smolora-peer", "l2p-tasks", "l2p-diversify", "mr_lora-ridge", "modalprompt-peer", "agem", "ilora-peer", "osf-peer",
    "seqlora-replay", "der",
)  # fmt: skip

#: A method of each kind, for long tests over many methods in `make test`; the other methods are in `make test-slow`.
OF_EACH_KIND = ("seqlora", "seqfull", "ewc", "lwf", "moelora", "hide", "l2p", "der")


def slow_unless(names: Iterable[str], fast: Collection[str]) -> list[Any]:
    """Names as parameters of a test, of which some are part of `make test`."""
    return [pytest.param(name, id=name, marks=() if name in fast else (pytest.mark.slow,)) for name in names]


#: Cases whose two processes are part of `make test`; the others are in `make test-slow`.
TWO_PROCESSES = ("inclora-merge", "moelora", "lwf")


def in_two_processes(*, term: bool) -> list[Any]:
    """The cases with ``ranks``, with or without a term, as parameters of a test."""
    chosen = [case for case in CASES if case.ranks is not None and case.term == term]
    marks = {case.id: () if case.id in TWO_PROCESSES else (pytest.mark.slow,) for case in chosen}
    return [pytest.param(case, id=case.id, marks=marks[case.id]) for case in chosen]


def mapping_of(name: str) -> dict[str, Any]:
    """``cl.method`` of the first case of this method: the options without which tiny models refuse it."""
    return next(case.method for case in CASES if case.method["name"] == name)


@dataclass(frozen=True)
class ReplayCase:
    """A way of replaying, under a method, and which suites it is in.

    Attributes:
        id: Name of the case.
        method: The mapping under ``cl.method``.
        replay: The mapping under ``cl.replay``.
        learner: A learner in a custom trainer against a recipe.
        resume: Killed and started again.
        ranks: Two processes against one.
    """

    id: str
    method: dict[str, Any]
    replay: dict[str, Any]
    learner: bool = False
    resume: bool = False
    ranks: bool = False


def _replay(name: str, method: str | dict[str, Any], suites: str, **replay: Any) -> ReplayCase:
    spec = {"name": method} if isinstance(method, str) else method
    return ReplayCase(name, spec, replay, **dict.fromkeys(suites.split(), True))


REPLAY_CASES = [
    _replay("concatenate", "seqlora", "learner resume", capacity_per_task=3),
    _replay("ratio", "inclora", "learner", capacity_per_task=3, mixing="ratio", ratio=0.4),
    _replay("separate", "olora", "learner", capacity_per_task=3, mixing="separate", batch=2),
    _replay("separate_loss", "inclora", "resume", capacity_total=5, mixing="separate", selection="highest_loss"),
    _replay("separate_herding", "seqlora", "ranks", capacity_total=7, mixing="separate", selection="herding"),
    _replay(
        "class_balanced", {"name": "ewc", "weight": 10.0}, "learner", capacity_total=4, selection="class_balanced"
    ),
    _replay("highest_loss", "lwf", "learner", capacity_per_task=3, selection="highest_loss"),
    _replay("herding", "mslora_cr", "learner", capacity_per_task=3, selection="herding", candidates=None),
    _replay("reservoir", "sefe", "learner", capacity_total=5, policy="reservoir"),
    _replay("full", "seqfull", "resume", capacity_total=6, policy="reservoir"),
    _replay("der", "der", "learner resume", capacity_per_task=3, batch=2),
    _replay("der_five", "der", "ranks", capacity_per_task=5),
    _replay("gem", {"name": "gem", "samples": 4}, "learner resume ranks", capacity_per_task=5),
    _replay("agem", {"name": "gem", "variant": "agem", "samples": 5}, "learner", capacity_per_task=4),
    _replay("ilora", {"name": "ilora", "decay": 0.9}, "learner resume ranks", capacity_per_task=5),
    _replay("der_full", {"name": "der", "store": "full"}, "learner", capacity_per_task=3),
]


def _half(case: str, boundary: float = 0.0) -> MethodCase:
    fp32 = case_of(case)
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
    _half("hide", STACKED),
    _half("branchlora", STACKED),
    _half("clmoe"),
    _half("smolora"),
    _half("l2p"),
    _half("der++"),
]
