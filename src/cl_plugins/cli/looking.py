"""What ``evaluate`` and ``export`` share: a run whose model is put together again."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..config import CLConfig
    from ..contract.carry import Carry
    from ..run.state import RunState

#: Changes host keys in place and gives the block to use.
Prepare = Callable[[dict[str, Any], "CLConfig"], "CLConfig"]


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments ``RUN`` and ``--model``."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the `output_dir` of a run")
    parser.add_argument(
        "--model", metavar="PATH", help="where the base is now, if it was moved (its hash is compared)"
    )


@contextmanager
def opened(
    root: Path, out: Path, *, model: str | None = None, task: str | None = None, prepare: Prepare | None = None
) -> Iterator[tuple[RunState, Carry]]:
    """A run opened for looking, with one of its carries.

    Args:
        root: The run's directory; nothing is written to it.
        out: Where results go.
        model: Another place of the base.
        task: The carry as it stood after this task; None for the latest.
        prepare: Changes keys and block before the run is put together.

    Yields:
        State and carry, both verified against hashes and base.
    """
    from ..base.errors import RunStateError
    from ..evaluation.results import result_problems
    from ..run.reopen import carry_after, check_idle, read_recipe, reopen
    from .hosts import host

    host_keys, config = read_recipe(root)
    if found := result_problems(root):
        raise RunStateError(found)
    check_idle(root)
    if model is not None:
        host_keys["model_name_or_path"] = model
    if prepare is not None:
        config = prepare(host_keys, config)
    state = reopen(host(), root, out, host_keys, config)
    with TemporaryDirectory(prefix="cl-plugins-") as scratch:
        yield state, carry_after(state, root, task, Path(scratch))
