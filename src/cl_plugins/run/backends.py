"""Which backend answers a step, and what speaks against it before anything loads."""

from __future__ import annotations

from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import Problem
from ..base.logs import logger
from ..config import CLConfig
from ..generation.vllm import VllmBackend, sampling_rules
from ..methods import Method
from . import parts
from .export import DTYPES, export_merged
from .plan import ZERO_SHOT, Step
from .state import RunState


if TYPE_CHECKING:
    from ..contract.backend import Backend
    from ..contract.capabilities import RunFacts
    from ..contract.carry import Carry
    from ..contract.host import Host


def backend_for(state: RunState, step: Step) -> Backend:
    """The backend that answers a test set with the model of a row.

    Args:
        state: The run.
        step: A step ``evaluate``.
    """
    carry = None if step.row == ZERO_SHOT else state.carry
    if state.config.eval.backend == "vllm":
        key = ("vllm", carry.tasks if carry is not None else None)
        return state.kept_backend(key, lambda: _vllm(state, carry))
    return state.session.backend(state.answering(carry, str(step.task)))


def _vllm(state: RunState, carry: Carry | None) -> VllmBackend:
    """An engine for one model of a run; its base must be one that can be merged into, see `backend_problems`."""
    scratch = state.root / "merged_for_vllm"

    def arguments() -> dict[str, Any]:
        most = state.most_pictures()
        return {
            "dtype": _dtype(state),  # vLLM's own choice for an fp32 model is fp16
            "trust_remote_code": bool(state.run_args.trust_remote_code),
            "seed": int(state.host_keys.get("seed", 42)),
            **({"limit_mm_per_prompt": {"image": most}} if most else {}),
        }

    return VllmBackend(
        state.session,
        lambda: _written(state, carry, scratch),
        arguments,
        state.config.eval.backend_options,
        engine_rules(state),
        scratch,
    )


def engine_rules(state: RunState) -> dict[str, Any]:
    """What an engine must be told of the base's own rules of generation; empty where the model in memory answers.

    Args:
        state: A run whose base is known (`RunState.base_fingerprint`).

    Raises:
        CompatibilityError: If the engine has not all of the rules.
    """
    settings = state.config.eval
    if settings.backend == "host" or settings.scope == "none":
        return {}
    return sampling_rules((state.base_fingerprint.get("settings") or {}).get("generation") or {})


def _written(state: RunState, carry: Carry | None, scratch: Path) -> Path | str:
    """The folder of the merged model; the base itself before the first task."""
    if carry is None:
        return state.run_args.base_name
    identity = dumps([state.base_fingerprint.get("sha256"), parts.identity_of(carry)], sort_keys=True)
    folder = scratch / sha256(identity.encode()).hexdigest()[:16]
    if not folder.is_dir():  # written as a whole, so it is complete if it is there
        name = next(short for short, long in DTYPES.items() if long == _dtype(state))
        error = export_merged(state, carry, folder, name)
        logger.info("merged model for vLLM: %s", error)
    return folder


def _dtype(state: RunState) -> str:
    """The dtype in which the base is held, by PyTorch's name."""
    model: Any = state.session.base.model
    return str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")


def backend_problems(
    host: Host, config: CLConfig, method: Method, facts: RunFacts, where: str = "cl.eval.backend"
) -> list[Problem]:
    """Why ``cl.eval.backend`` cannot be used in a run.

    Args:
        host: The host.
        config: The ``cl:`` block.
        method: The method.
        facts: What is known about the base.
        where: Where the backend was chosen, for the messages.
    """
    settings = config.eval
    if settings.backend == "host":
        if settings.backend_options:
            what = f"is not used with `backend: {settings.backend}`."
            return [Problem("cl.eval.backend_options", what, "Leave it out, or use `backend: vllm`.")]
        return []
    if settings.scope == "none":
        return []
    from importlib.util import find_spec

    found = []
    stay = "Use `backend: host`."
    if settings.backend not in host.engines:
        what = (
            f"{host.name} does not prepare prompts for {settings.backend}."
            if host.generates
            else f"{settings.backend} generates text, and the answers of this recipe are classes."
        )
        found.append(Problem(where, what, stay))
    if find_spec("vllm") is None:
        found.append(Problem(where, "vllm is not installed.", f"`pip install 'cl-plugins[vllm]'`. {stay}"))
    if facts.quantisation is not None:
        what = f"vLLM answers with a merged model, and nothing can be merged into a quantised base ({facts.quantisation})."
        found.append(Problem(where, what, stay))
    if facts.zero_stage == 3 or facts.fsdp:
        found.append(Problem(where, "vLLM needs a whole model, and this one is split over the ranks.", stay))
    if method.answers != "alike":
        chooses = (
            "chooses its parts for every sample"
            if method.answers == "by_sample"
            else "may answer every task with another model"
        )
        what = f"'{config.method}' {chooses}; vLLM is given one merged model."
        found.append(Problem(where, what, stay))
    if ranks.world_size() > 1:
        fix = "Start one process; vLLM spreads over devices itself (`backend_options: {tensor_parallel_size: N}`)."
        found.append(Problem(where, f"does not go with {ranks.world_size()} processes.", fix))
    return found
