"""Carrying out a recipe with ``encoders:`` in this process, or in those that torchrun has started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base import ranks
from ..base.logs import set_up
from ..run.check import check
from ..run.entry import run_stream
from .host import EncoderHost
from .keys import parse


def run_recipe(raw: Mapping[str, Any], callbacks: Sequence[Any] = ()) -> None:
    """Check a recipe and carry it out.

    Args:
        raw: The recipe: host keys and ``cl``.
        callbacks: Trainer callbacks for every task.

    Raises:
        RecipeError: With everything that is wrong with the recipe.
        RunStateError: If the output directory is in use or belongs to another recipe.
        Interrupted: After SIGTERM; the same command resumes the run.
    """
    set_up()
    host = EncoderHost()
    recipe = check(host, raw, data=ranks.is_main())
    if ranks.launched():  # the processes must know each other before one of them decides something for all
        folder = Path(str(recipe.host_keys["output_dir"]))
        parse({**recipe.host_keys, "output_dir": str(folder / "tasks")}).training.device  # noqa: B018
    run_stream(host, recipe, callbacks)
