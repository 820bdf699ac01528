"""Probes that are tasks of an evaluation harness: lm-evaluation-harness and lmms-eval, run on the model in memory.

The harness decides prompts, items and metric; the run gives it the model, and keeps its answers as those of other probes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import Problem
from ..config import CLConfig
from ..records.record import shown
from ..streams import Probe
from ..streams.probes import HARNESSES


if TYPE_CHECKING:
    from ..contract.capabilities import RunFacts
    from ..contract.host import Host


#: Kinds of requests of lmms-eval that `run.lmms_model` answers, and what the others ask for.
_GENERATED = {"generate_until"}
_KINDS = {
    "loglikelihood": "log-likelihoods",
    "multiple_choice": "log-likelihoods",
    "generate_until_multi_round": "several rounds",
    "generate_until_agentic": "several rounds",
    "generate_visual_cot": "pictures",
}


def harness_problems(host: Host, config: CLConfig, facts: RunFacts) -> list[Problem]:
    """Why the harness of a probe cannot be used in a run.

    Args:
        host: The host.
        config: The ``cl:`` block.
        facts: What is known about the base.
    """
    found = []
    for number, probe in enumerate(config.eval.probes):
        named = probe.harness_task
        if named is None:
            continue
        where = f"cl.eval.probes[{number}].harness"
        if find_spec(named[0]) is None:
            fix = f"`pip install 'cl-plugins[{HARNESSES[named[0]]}]'`, or leave the probe out."
            found.append(Problem(where, f"{named[0]} is not installed.", fix))
        if not host.engines:
            what = f"{host.name} trains no language model, and a harness asks one."
            found.append(Problem(where, what, "Give a `test` set instead."))
        if config.eval.backend != "host":
            what = f"runs on the model in memory, and `backend: {config.eval.backend}` answers with another program."
            found.append(Problem(where, what, "Use `backend: host`."))
        if facts.zero_stage == 3:
            what = "needs a whole model, and this one is split over the ranks."
            found.append(Problem(where, what, "Use ZeRO-2 or no DeepSpeed, or give a `test` set instead."))
        if ranks.world_size() > 1:
            what = f"does not go with {ranks.world_size()} processes."
            found.append(Problem(where, what, "Start one process, or give a `test` set instead."))
    return found


def task_problems(probe: Probe) -> list[Problem]:
    """What the harness says to the name of its task and to the task's data, before any training.

    Args:
        probe: A probe with a harness.
    """
    where = f"probe '{probe.name}'"
    try:
        with calm():
            asked = _loaded(probe)
    except Exception as error:  # of the harness, its tasks and the libraries of their data
        fix = "Check the name of the task (`include_path` for one of your own), and its data."
        if isinstance(error, ImportError):
            extra = HARNESSES[(probe.harness_task or ("lm_eval", ""))[0]]
            fix = f"Install versions that belong together: `pip install 'cl-plugins[{extra}]'`."
        return [Problem(where, f"{probe.harness} cannot be loaded ({reason(error)}).", fix)]
    unknown = sorted(asked - _GENERATED)
    if unknown:
        kinds = ", ".join(_KINDS.get(kind, f"`{kind}`") for kind in unknown)
        fix = "With lmms_eval only tasks with generated answers work: choose another task."
        return [Problem(where, f"{probe.harness} asks for {kinds}.", fix)]
    return []


def reason(error: BaseException) -> str:
    """The first line of what an error of another library says.

    lmms-eval tries several times to load data and to score an answer, with tenacity, whose own error tells nothing.
    """
    if type(error).__name__ == "RetryError" and error.__cause__ is not None:
        return reason(error.__cause__)
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return shown(f"{type(error).__name__}: {text}" if text else type(error).__name__, 300)


def version_of(name: str) -> str | None:
    """The installed version of a harness; lmms_eval has no ``__version__``."""
    try:
        return version(name)
    except PackageNotFoundError:
        return getattr(import_module(name), "__version__", None)


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Harnesses log every setting and seed all generators: only errors are shown, and the generators are put back."""
    import random

    import numpy as np
    import torch

    loggers = [logging.getLogger(name) for name in ("lm_eval", "lmms-eval", "lmms_eval")]
    levels = [each.level for each in loggers]
    states = random.getstate(), np.random.get_state()
    for each in loggers:
        each.setLevel(logging.ERROR)
    _loguru(False)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        _loguru(True)
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])


def _loguru(shown: bool) -> None:
    """lmms-eval logs with loguru, to stdout."""
    if find_spec("loguru") is None:
        return
    logger = import_module("loguru").logger
    (logger.enable if shown else logger.disable)("lmms_eval")


def manager(probe: Probe) -> Any:
    """The harness's index of tasks, with those of the user."""
    return _index((probe.harness_task or ("", ""))[0], probe.include_path)


@lru_cache
def _index(name: str, include_path: str | None) -> Any:
    """Making it reads thousands of files, which takes half a minute."""
    more = {"model_name": "cl_plugins"} if name == "lmms_eval" else {}
    return import_module(f"{name}.tasks").TaskManager(include_path=include_path, **more)


def _loaded(probe: Probe) -> set[str]:
    """Load the task and its data; gives the kinds of requests of lmms-eval's tasks."""
    name, task = probe.harness_task or ("", "")
    index = manager(probe)
    if name == "lm_eval" and hasattr(index, "load"):
        index.load([task])
    elif name == "lm_eval":  # before version 0.4.10
        import_module("lm_eval.tasks").get_task_dict([task], index)
    else:
        # Its evaluation begins with this, and 0.7.3 needs filelock before version 4 for it.
        getattr(import_module("lmms_eval.evaluator"), "_enable_reentrant_filelocks", lambda: None)()
        return _kinds(import_module("lmms_eval.tasks").get_task_dict([task], index, "simple"))
    return set()


def _kinds(found: Any) -> set[str]:
    """Kinds of requests of tasks, which groups hold in mappings."""
    if isinstance(found, Mapping):
        return set().union(*(_kinds(each) for each in found.values()))
    kind = getattr(found, "OUTPUT_TYPE", None)
    return {kind} if isinstance(kind, str) else set()
