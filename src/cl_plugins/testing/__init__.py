"""Tests for methods of other packages: the ones that every method here has to pass.

::

    from cl_plugins.testing import MethodCase, check_method


    def test_my_method(tmp_path):
        check_method(MethodCase("mine", {"name": "my_method"}), tmp_path)

Needs no GPU, no network and no model: a LLaVA-shaped model of 100,000 parameters and three tasks about colours are made on
the spot. A check takes about a minute on two cores.
"""

from __future__ import annotations

from pathlib import Path

from .case import MethodCase


__all__ = ["MethodCase", "check_method"]


def check_method(case: MethodCase, folder: str | Path) -> None:
    """Run the shared tests on a method.

    The method is found by its entry point, as a recipe finds it. Checked are, on three tasks: the boundaries, frozen and
    trained tensors, ``final/``, what a run leaves behind and what its carry holds, a stop and resume inside a task, and a
    task trained at another site.

    Args:
        case: The method.
        folder: An empty folder for models, data and runs.

    Raises:
        AssertionError: If something does not hold, with a sentence on what.
        ClPluginsError: If the method is refused, as a user would see it.
    """
    from . import suite, tiny
    from .resume import handed_over, stopped_and_resumed

    folder = Path(folder)
    model = tiny.build_llava(folder / "model", dtype="bfloat16" if case.half else "float32")
    data = tiny.build_data(folder / "data")
    observed = suite.observe(case, model, data, folder / "run")
    for check in suite.CHECKS:
        check(observed)
    stopped_and_resumed(case, model, data, folder / "resume")
    if suite.schedule(case) == "sequential" and not case.half:
        handed_over(observed, folder / "sites")
