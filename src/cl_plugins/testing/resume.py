"""Runs that are stopped in the middle, or continue at another site: they must end like an uninterrupted one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from .case import MethodCase
from .suite import TASKS, Observed, expect, recipe


class _Stopped(KeyboardInterrupt):
    """Stands for a kill."""


def results(out: Path) -> dict[str, bytes]:
    """Everything that a run computes: updates and predictions, byte for byte.

    Args:
        out: Its directory.
    """
    found = [
        *out.glob("tasks/*/*.safetensors"),
        *out.glob("predictions/*/*.jsonl"),
        *out.glob("carry/**/*.safetensors"),
    ]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(found)}


def stopped_and_resumed(case: MethodCase, model: Path, data: Path, out: Path) -> None:
    """A run that is stopped inside its second task, between two checkpoints, ends like one that was not.

    Args:
        case: The method.
        model: Folder of the base.
        data: Folder of the data.
        out: A new directory.
    """
    from llamafactory.train.tuner import run_exp
    from transformers import TrainerCallback

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            last = "02_two" in args.output_dir or "joint" in args.output_dir
            if last and state.global_step == 3:
                raise _Stopped

    more = {"save_strategy": "steps", "save_steps": 2}
    with mock.patch("cl_plugins.report.write_report"):
        run_exp(recipe(case, model, data, out / "whole", **more))
        try:
            run_exp(recipe(case, model, data, out / "stopped", **more), callbacks=[Stop()])
        except _Stopped:
            pass
        else:
            raise AssertionError("the run was not stopped")
        run_exp(recipe(case, model, data, out / "stopped", **more))
    _same(results(out / "whole"), results(out / "stopped"), "a resumed run")


def handed_over(observed: Observed, out: Path) -> None:
    """The third task, trained at another site from what two tasks left, ends like the third task of the run.

    Args:
        observed: The run of all three tasks.
        out: A new directory.
    """
    from llamafactory.train.tuner import run_exp

    case = observed.case
    with mock.patch("cl_plugins.report.write_report"):
        for number, name in enumerate(TASKS):
            keys = recipe(case, observed.model, observed.data, out / name)
            block = {**keys["cl"], "only": name}
            if number:
                block["carry_from"] = str(out / TASKS[number - 1])
            run_exp({**keys, "cl": block})
    whole, there = (results(folder) for folder in (observed.out, out / "three"))
    own = {name: value for name, value in whole.items() if name.startswith("tasks/03_three")}
    _same(own, {name: there.get(name, b"") for name in own}, "a task at another site")


def _same(expected: dict[str, bytes], found: dict[str, bytes], what: str) -> None:
    different = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
    expect(expected and not different, f"{what} has other results: {different[:5]}")
