"""Where a host passes control to a run."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.errors import Problem, RunStateError
from ..base.files import is_disk_full, is_read_only
from ..base.lock import RunLock
from ..base.logs import set_up
from ..base.words import speaking, words
from . import prepare, shared
from .interrupt import StopRequest


if TYPE_CHECKING:
    from ..config import Recipe
    from ..contract.host import Host


def run_stream(host: Host, recipe: Recipe, callbacks: Sequence[Any] = ()) -> None:
    """Carry out a recipe: every task of its stream, evaluated and reported.

    Args:
        host: The host that the recipe is written for.
        recipe: The checked recipe.
        callbacks: The user's trainer callbacks.

    Raises:
        RunStateError: If the output directory is in use or belongs to another recipe.
        Interrupted: After SIGTERM; the process exits with code 75 and the same command resumes the run.
    """
    from .runner import Runner

    set_up()
    host.require()
    config = recipe.config
    root = Path(str(recipe.host_keys["output_dir"]))
    lock = RunLock(root) if ranks.is_main() else nullcontext()
    with StopRequest() as stop, speaking(host.words):
        ranks.on_main(lambda: prepare.check_room(root))
        ranks.on_main(lambda: lock.__enter__() and None)
        try:
            if config.block.restart:
                ranks.on_main(lambda: prepare.move_aside(root))
            shared.check(root)
            gc.freeze()  # the imported libraries hold 600,000 objects; walking them took a second at every task boundary
            Runner(host, recipe, list(callbacks), stop).run()
        except Exception as error:
            if is_read_only(error):
                fix = "Make it writable and run the same command again; finished steps are kept."
                what = f"is on a file system that can only be read ({error})."
                raise RunStateError(Problem(f"{words().directory}: {root}", what, fix)) from error
            if not is_disk_full(error):
                raise
            fix = "Free some space and run the same command again; finished steps are kept."
            raise RunStateError(
                Problem(f"{words().directory}: {root}", f"the disk is full ({error}).", fix)
            ) from error
        finally:
            gc.unfreeze()
            lock.__exit__(None, None, None)
