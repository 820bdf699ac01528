"""``cl-plugins run``: the ordinary launch command, once, or again and again with a fresh process for every step."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


_EPILOG = """\
Without `--isolate` this is `llamafactory-cli train RECIPE ...`, nothing else;
a recipe with `encoders:` is carried out by this command itself.
With it, that command is started with `cl.stop_after=1` until the run is
finished: every step has a separate process, for memory that fragments and
engines that cannot be set up twice. A start that ends with exit code 75 is
repeated; any other failure ends it, and the same command resumes it later.
Variables such as FORCE_TORCHRUN, NNODES and NODE_RANK work as usual; launchers
are not nested.

  cl-plugins run recipe.yaml --isolate
  cl-plugins run recipe.yaml --isolate --steps 4 max_steps=100
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from .hosts import host
    from .recipes import add_recipe

    add_recipe(parser)
    parser.epilog = _EPILOG
    parser.add_argument("--isolate", action="store_true", help="a fresh process for every step")
    parser.add_argument("--steps", type=_positive, metavar="N", default=1, help="steps per process (default: 1)")
    parser.add_argument("--launcher", metavar="CMD", help=f"the launch command (default: {host().command})")


def run(args: argparse.Namespace) -> int:
    """Carry out a recipe."""
    from ..contract.host import has_encoders
    from ..recipe import expanded
    from ..run.isolate import launch_command, run_isolated
    from .hosts import host, run_here
    from .recipes import read_stream_recipe

    recipe = read_stream_recipe(args.recipe, args.overrides)
    the_host = host(recipe)
    launcher = the_host.command if args.launcher is None else args.launcher
    if has_encoders(recipe) and not args.isolate and args.launcher is None:
        run_here(recipe)
        return 0
    command = [*launch_command(launcher), args.recipe, *args.overrides]
    if not args.isolate:
        sys.stdout.flush()
        os.execv(command[0], command)
    block = recipe["cl"] if isinstance(recipe["cl"], dict) else {}
    return run_isolated(
        command,
        Path(expanded(recipe, the_host.path_keys)["output_dir"]),
        steps=args.steps,
        restart=bool(block.get("restart")),
        tell=lambda message: print(f"[cl-plugins] {message}", file=sys.stderr, flush=True),
    )


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
