"""The command line ``cl-plugins``: one module per command, imported when the command is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence


#: Command -> (module, one line of help). Modules are imported only when their command is asked for.
COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("plan", "what a recipe will do, and the disk it needs; trains nothing"),
    "validate": ("validate", "check recipes as a run would, without loading a model"),
    "run": ("run", "carry out a recipe; --isolate runs every step in a new process"),
    "sweep": ("sweep", "many runs: every method, seed and task order, with a ledger"),
    "status": ("status", "finished steps of a run, and the process at work"),
    "report": ("report", "write a run's report again, or score its predictions with another scorer"),
    "compare": ("compare", "several runs in one table and picture"),
    "board": ("board", "the runs below a folder in the browser, with start and stop"),
    "evaluate": ("evaluate", "evaluate a run's model again, also on a new test set"),
    "score": ("score", "score one file of predictions"),
    "export": ("export", "a run's model as merged weights or as one PEFT adapter"),
    "push": ("push", "upload a finished model to the Hugging Face hub; shows what and asks first"),
    "carry": ("carry", "what the next site needs of a run as one file: pack, inspect, verify, unpack"),
    "import": ("importing", "bases and weights that others have published, as bases and runs"),
    "matrix": ("matrix", "rows of several sites as one matrix; a matrix of another program as a run"),
    "replay": ("replay", "list the training samples in a run's buffer; delete them by id or age"),
    "data": ("data", "convert raw data sets to LLaMA-Factory data sets"),
    "list": ("listing", "methods, streams, scorers and published results"),
    "docs": ("docs", "the generated reference of the `cl:` keys"),
}

EXIT_PROBLEM = 2  # the recipe or the data are at fault
EXIT_FAILURE = 1  # anything else
_INTERRUPTED = 130  # as a shell reports Ctrl-C

_EPILOG = """\
A stream is trained with the ordinary command of LLaMA-Factory:
  llamafactory-cli train recipe.yaml
Before it:  cl-plugins plan recipe.yaml
After it:   cl-plugins status RUN,  cl-plugins report RUN
RUN is the `output_dir` of the recipe. Exit codes: 0 done, 2 a problem of the
recipe, the data or the command line, 1 any other failure, 75 run it again.
"""


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser with all commands; only the chosen one has its own options.

    Args:
        chosen: The command that will be used; its module is imported.
    """
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="cl-plugins",
        description="Continual learning for LLaMA-Factory: recipes and their runs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cl-plugins {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == chosen:
            importlib.import_module(f".{module}", __name__).configure(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line.

    ``key=value`` words may be anywhere after the recipe, also after options.

    Args:
        argv: The words behind ``cl-plugins``.
    """
    chosen = next((word for word in argv if word in COMMANDS), None)
    parser = build_parser(chosen)
    args, rest = parser.parse_known_args(list(argv))
    if args.command is None and not rest:
        parser.print_help()
        raise SystemExit(EXIT_PROBLEM)
    if rest:
        takes_overrides = hasattr(args, "overrides")
        wrong = [word for word in rest if not takes_overrides or word.startswith("-") or "=" not in word]
        if wrong:
            from ..base.secrets import redact

            message = f"unknown: {' '.join(wrong)} (see `cl-plugins {args.command or ''} --help`)".replace("  ", " ")
            parser.error(redact(message))
        args.overrides = [*args.overrides, *rest]
    return args


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words behind ``cl-plugins``; those of the process by default.

    Returns:
        The exit code: 0, 2 for problems of recipe, data or command line, 1 for other failures.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parse(words)
        name = COMMANDS[args.command][0]
        return int(_guarded(args, name))
    except SystemExit as leave:  # argparse's, and a run that asks to be run again
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or 0
        from ..base.printable import printable

        print(printable(str(leave.code)), file=sys.stderr)
        return EXIT_FAILURE


def _guarded(args: argparse.Namespace, module: str) -> int:
    """Run a command; errors that are meant for people become messages."""
    from ..base.errors import ClPluginsError, DataError, RecipeError

    try:
        code: int = importlib.import_module(f".{module}", __name__).run(args)
        sys.stdout.flush()
        return code
    except (ClPluginsError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # `cl-plugins list | head`
            _close_stdout()
            return 0
        if args.debug:
            raise
        from .output import show_error

        show_error(args.command, error)
        return EXIT_PROBLEM if isinstance(error, (RecipeError, DataError)) else EXIT_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


def _close_stdout() -> None:
    """Nobody reads any more; keep the interpreter from complaining about it at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
