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
    """Add the arguments ``RUN``, ``--model`` and ``--trust-remote-code``."""
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the `output_dir` of a run")
    parser.add_argument(
        "--model", metavar="PATH", help="where the base is now, if it was moved (its hash is compared)"
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the code that comes with the base, if the model needs it; the value in the run's recipe is ignored",
    )


@contextmanager
def opened(
    root: Path,
    out: Path,
    *,
    model: str | None = None,
    task: str | None = None,
    prepare: Prepare | None = None,
    trust_remote_code: bool = False,
) -> Iterator[tuple[RunState, Carry]]:
    """A run opened for looking, with one of its carries.

    Args:
        root: The run's directory; nothing is written to it.
        out: Where results go.
        model: Another place of the base.
        task: The carry after this task; None for the latest.
        prepare: Changes keys and block before the run is put together.
        trust_remote_code: Whether the command allows code that comes with the base.

    Yields:
        State and carry, both verified against hashes and base.

    Raises:
        RunStateError: As `reopen`, and if the base cannot be loaded without its own code.
    """
    from ..base.errors import Problem, RunStateError
    from ..contract.host import has_encoders
    from ..evaluation.results import result_problems
    from ..run.reopen import carry_after, check_idle, read_recipe, reopen
    from .hosts import host

    host_keys, config = read_recipe(root)
    if found := result_problems(root):
        raise RunStateError(found)
    check_idle(root)
    if model is not None and has_encoders(host_keys):
        what = "names one base, and this run has encoders."
        raise RunStateError(Problem("--model", what, "Leave it out: `encoders` of the run says where they are."))
    if model is not None:
        host_keys["model_name_or_path"] = model
    if prepare is not None:
        config = prepare(host_keys, config)
    try:
        state = reopen(host(host_keys), root, out, host_keys, config, trust_remote_code=trust_remote_code)
        with TemporaryDirectory(prefix="cl-plugins-") as scratch:
            yield state, carry_after(state, root, task, Path(scratch))
    except (ValueError, OSError) as error:  # Transformers' word for a model whose classes come with it
        if trust_remote_code or "trust_remote_code" not in str(error):
            raise
        what = f"cannot be loaded without the code that comes with it ({' '.join(str(error).split())[:300]})."
        fix = "If you trust its source, add `--trust-remote-code`."
        raise RunStateError(Problem(f"base {host_keys.get('model_name_or_path')}", what, fix)) from error
