"""``cl-plugins board``: the runs below a folder in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.errors import Problem, RecipeError


_EPILOG = """\
Shows the runs below FOLDER: state, progress, report and output; compares them;
and starts recipes below the folder of `--recipes` whose `output_dir` is below
FOLDER. Needs gradio.

  cl-plugins board saves --recipes recipes

It listens on this machine only. With `--host` or `--share` it asks for a
password: that of CL_PLUGINS_BOARD_PASSWORD, or one that it prints. A run that
was started here goes on when the board ends.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=Path("saves"), help="default: saves")
    parser.add_argument("--recipes", metavar="DIR", type=Path, help="recipes that can be started; none by default")
    parser.add_argument(
        "--host", metavar="HOST", default="127.0.0.1", help="address to listen at (default: %(default)s)"
    )
    parser.add_argument("--port", metavar="N", type=int, help="port (default: a free one from 7860 on)")
    parser.add_argument("--share", action="store_true", help="make it public by gradio's tunnel (never by default)")


def run(args: argparse.Namespace) -> int:
    """Serve the board."""
    from ..board.app import import_gradio, serve
    from ..board.board import Board
    from ..board.processes import Processes
    from ..run.isolate import launch_command
    from . import output

    problems = [
        Problem(str(path), "is not a folder.", "Name a folder that exists.")
        for path in (args.folder, args.recipes)
        if path is not None and not path.is_dir()
    ]
    if args.port is not None and not 0 < args.port < 65536:
        problems.append(Problem("--port", f"is {args.port}.", "Give a number from 1 to 65535."))
    if problems:
        raise RecipeError(problems)
    import_gradio()
    board = Board(args.folder, args.recipes, output_dir, Processes(launch_command("cl-plugins run")))
    try:
        serve(board, host=args.host, port=args.port, share=args.share, tell=output.emit)
    except KeyboardInterrupt:
        output.emit()
    return 0


def output_dir(recipe: Path) -> Path:
    """The directory of a recipe's run.

    Args:
        recipe: The file.

    Raises:
        RecipeError: If the file cannot be read, or is no recipe of a stream.
    """
    from ..recipe import expanded
    from .hosts import host
    from .recipes import read_stream_recipe

    return Path(expanded(read_stream_recipe(recipe), host().path_keys)["output_dir"])
