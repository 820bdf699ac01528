"""Which backend answers a step, and what speaks against it before anything loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base.errors import Problem
from ..config import CLConfig
from ..methods import Method
from .plan import ZERO_SHOT, Step
from .state import RunState


if TYPE_CHECKING:
    from ..contract.capabilities import RunFacts
    from ..generation.backend import Backend


def backend_for(state: RunState, step: Step) -> Backend:
    """The backend that answers a test set with the model of a row.

    Args:
        state: The run.
        step: A step ``evaluate``.
    """
    carry = None if step.row == ZERO_SHOT else state.carry
    if state.config.eval.backend == "vllm":
        from .vllm_backend import VllmBackend

        key = ("vllm", carry.tasks if carry is not None else None)
        return state.kept_backend(key, lambda: VllmBackend(state, carry))
    from ..generation.backend import HostBackend

    return HostBackend(state.answering(carry, str(step.task)), state.session)


def backend_problems(
    config: CLConfig, method: Method, facts: RunFacts, where: str = "cl.eval.backend"
) -> list[Problem]:
    """Why ``cl.eval.backend`` cannot be used in a run.

    Args:
        config: The ``cl:`` block.
        method: The method.
        facts: What is known about the base.
        where: Where the backend was chosen, for the messages.
    """
    settings = config.eval
    if settings.backend == "host":
        if settings.backend_options:
            what = f"is given, but nothing reads it with `backend: {settings.backend}`."
            return [Problem("cl.eval.backend_options", what, "Leave it out, or use `backend: vllm`.")]
        return []
    if settings.scope == "none":
        return []
    from importlib.util import find_spec

    from ..base import ranks

    found = []
    stay = "Use `backend: host`."
    if find_spec("vllm") is None:
        found.append(Problem(where, "vllm is not installed.", f"`pip install 'cl-plugins[vllm]'`. {stay}"))
    if facts.quantisation is not None:
        what = f"vLLM answers with a merged model, and nothing can be merged into a quantised base ({facts.quantisation})."
        found.append(Problem(where, what, stay))
    if facts.zero_stage == 3 or facts.fsdp:
        found.append(Problem(where, "vLLM needs a whole model, and this one is split over the ranks.", stay))
    if method.answers != "alike":
        what = f"'{config.method}' may answer every task with another model; vLLM is given one merged model."
        found.append(Problem(where, what, stay))
    if ranks.world_size() > 1:
        fix = "Start one process; vLLM spreads over devices itself (`backend_options: {tensor_parallel_size: N}`)."
        found.append(Problem(where, f"does not go with {ranks.world_size()} processes.", fix))
    return found
