"""Probes that are tasks of an evaluation harness: lm-evaluation-harness and lmms-eval, run on the model in memory.

The harness decides prompts, items and metric; the run gives it the model, and keeps its answers as those of other probes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
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
    try:
        with calm():
            _loaded(probe)
    except Exception as error:  # of the harness, its tasks and the libraries of their data
        fix = "Check the name of the task (`include_path` for one of your own), and its data."
        return [Problem(f"probe '{probe.name}'", f"{probe.harness} cannot be loaded ({reason(error)}).", fix)]
    return []


def reason(error: Exception) -> str:
    """The first line of what an error of another library says."""
    text = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return shown(f"{type(error).__name__}: {text}" if text else type(error).__name__, 300)


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
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])


def manager(probe: Probe) -> Any:
    """The harness's index of tasks, with those of the user."""
    return _index((probe.harness_task or ("", ""))[0], probe.include_path)


@lru_cache
def _index(name: str, include_path: str | None) -> Any:
    """Making it reads thousands of files, which takes half a minute."""
    more = {"model_name": "cl_plugins"} if name == "lmms_eval" else {}
    return import_module(f"{name}.tasks").TaskManager(include_path=include_path, **more)


def _loaded(probe: Probe) -> None:
    """Load the task and its data."""
    name, task = probe.harness_task or ("", "")
    index = manager(probe)
    if name == "lm_eval" and hasattr(index, "load"):
        index.load([task])
    elif name == "lm_eval":  # before version 0.4.10
        import_module("lm_eval.tasks").get_task_dict([task], index)
    else:
        import_module("lmms_eval.tasks").get_task_dict([task], index, "simple")
