"""Where a recipe with ``cl`` leaves the host's workflow: a wrapper around ``llamafactory.train.sft.run_sft``.

It is wrapped in the modules that export it and not only in ``tuner``: under torchrun, and with
``from llamafactory.train.tuner import run_exp``, ``tuner`` is already being executed when we are activated.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..base.errors import Problem, RecipeError
from .activation import rebind
from .names import HostName, incompatible


_NAME = "run_sft"
_EXPORTERS = ("llamafactory.train.sft.workflow", "llamafactory.train.sft", "llamafactory.train.tuner")


def install(module: ModuleType) -> None:
    """Wrap ``run_sft`` of a host module, and every reference to it that was taken earlier. Idempotent.

    Args:
        module: ``llamafactory.train.sft``, its ``workflow``, or ``llamafactory.train.tuner``. One that has no
        ``run_sft`` is left alone;
            :func:`ensure` reports it when ``cl`` is used.
    """
    original = getattr(module, _NAME, None)
    if not callable(original) or is_wrapped(original):
        return
    wrapper = _wrap(original)
    setattr(module, _NAME, wrapper)
    rebind(_NAME, original, wrapper)


def is_wrapped(function: object) -> bool:
    """Whether ``function`` is a wrapper of this package."""
    return bool(getattr(function, "__cl_plugins__", False))


def ensure() -> None:
    """Make sure that the training which follows the parsing of a recipe with ``cl`` reaches our runner.

    Raises:
        CompatibilityError: The host's training entry is imported and calls a workflow that is not known to us.
    """
    for name in _EXPORTERS:
        module = sys.modules.get(name)
        if module is not None:
            install(module)
    tuner = sys.modules.get("llamafactory.train.tuner")
    if tuner is not None and not is_wrapped(getattr(tuner, _NAME, None)):
        raise incompatible([HostName(tuner.__name__, _NAME, "is where a recipe with `cl` is taken over")])


def _wrap(original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def run_sft(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        data_args = given.get("data_args")
        if getattr(data_args, "cl", None) is None:
            return original(*args, **kwargs)
        recipe = getattr(data_args, "cl_recipe", None)
        if recipe is None:
            what = "these arguments do not come from LLaMA-Factory's get_train_args, so that the recipe is unknown."
            raise RecipeError(Problem("cl", what, "Call get_train_args(recipe) or run_exp(recipe)."))
        from ..run.entry import run_stream
        from .llama_factory import LlamaFactoryHost
        from .quiet import once

        # The callbacks of the host's launcher are rebuilt for every task.
        own = [c for c in given.get("callbacks") or [] if not type(c).__module__.startswith("llamafactory.")]
        with once(getattr(data_args, "cl_shown", None)):
            return run_stream(LlamaFactoryHost(), recipe, own)

    run_sft.__cl_plugins__ = True  # type: ignore[attr-defined]
    return run_sft
