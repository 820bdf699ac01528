"""What the answers to a test set depend on, as one hash: answers of an unfinished step are used again only if it is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import parts
from .plan import ZERO_SHOT, Step
from .record import FREE, PATHS, versions
from .state import RunState


if TYPE_CHECKING:
    from ..contract.backend import Backend
    from ..contract.test_item import TestItem


#: Keys that say where and how things are kept, or how fast; anything else may change an answer.
_WITHOUT_EFFECT = {*FREE, *PATHS}


def answers_key(state: RunState, step: Step, tests: Sequence[TestItem], backend: Backend) -> str:
    """A hash over base, carry, method, items and settings of generation. The number of ranks is not part of it.

    Args:
        state: The run.
        step: A step ``evaluate``.
        tests: The test set.
        backend: What generates.

    Returns:
        SHA-256, in hex.
    """
    config = state.config
    task = config.tested(str(step.task))
    carry = None if step.row == ZERO_SHOT else state.carry
    about = {
        "step": step.key,
        "base": state.base_fingerprint.get("sha256"),
        "carry": parts.identity_of(carry),
        "method": [config.method, config.method_options, str(state.route(carry, task.name))],
        "keys": {k: v for k, v in state.host_keys.items() if k not in _WITHOUT_EFFECT | state.host.engine_keys},
        "max_new_tokens": config.max_new_tokens(task.name),
        "backend": [backend.name, backend.batch_size, backend.settings()],
        "versions": {
            k: v for k, v in versions().items() if k in ("torch", "transformers", "llamafactory", "cl-plugins")
        },
    }
    return parts.fingerprint(about, tests, _data_files(state, task.name))


def _data_files(state: RunState, task: str) -> list[Path]:
    keys = state.keys_of(task)
    names = state.config.tested(task).test
    return [path for name in names for path in state.host.data_set(name, keys).files()]
