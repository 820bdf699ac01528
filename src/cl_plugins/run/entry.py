"""Where LLaMA-Factory's dispatch hands over."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..base import ranks
from ..base.errors import Problem, RunStateError
from ..base.files import is_disk_full
from ..base.lock import RunLock
from ..base.logs import set_up
from . import prepare
from .interrupt import StopRequest


def run_stream(raw_args: Mapping[str, Any], callbacks: list[Any] | None = None) -> None:
    """Carry out a recipe: every task of its stream, evaluated and reported.

    Args:
        raw_args: The recipe as LLaMA-Factory read it, with ``cl``.
        callbacks: Trainer callbacks; those that LLaMA-Factory's launcher made are replaced by new ones for every task.

    Raises:
        RecipeError: If the recipe cannot be carried out; with all problems.
        RunStateError: If the output directory is in use or belongs to another recipe.
        Interrupted: After SIGTERM; the process exits with code 75 and the same command goes on.
    """
    from ..host.names import require
    from .runner import Runner

    set_up()
    require(load=True)
    host_keys, config = prepare.split(raw_args)
    own = [c for c in callbacks or [] if not type(c).__module__.startswith("llamafactory.")]
    root = Path(str(host_keys["output_dir"]))
    ranks.on_main(lambda: prepare.check_room(root))
    lock = RunLock(root) if ranks.is_main() else nullcontext()
    with StopRequest() as stop:
        ranks.on_main(lambda: lock.__enter__() and None)
        try:
            if config.block.restart:
                ranks.on_main(lambda: prepare.move_aside(root))
            gc.freeze()  # the imported libraries hold 600,000 objects; walking them took a second at every task boundary
            Runner(host_keys, config, own, stop).run()
        except Exception as error:
            if not is_disk_full(error):
                raise
            fix = "Free some space and run the same command again; finished steps are kept."
            raise RunStateError(Problem(f"output_dir: {root}", f"the disk is full ({error}).", fix)) from error
        finally:
            gc.unfreeze()
            lock.__exit__(None, None, None)
