"""Errors that are meant for people end a command of the host without a traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

from .errors import ClPluginsError


#: Set to anything but 0 to see where in the code an error was raised.
VARIABLE = "CL_PLUGINS_TRACEBACK"
#: The programs in whose processes nothing but a recipe runs; a script of the user keeps its tracebacks.
_PROGRAMS = frozenset({"llamafactory-cli", "lmf", "launcher.py"})


def brief_errors() -> None:
    """Print a `ClPluginsError` that ends this process as its message alone; every other exception as before.

    Applies to the commands of LLaMA-Factory, and not where `VARIABLE` is set. Safe to call again.
    """
    if Path(sys.argv[0]).name not in _PROGRAMS or os.environ.get(VARIABLE, "0") != "0":
        return
    if getattr(sys.excepthook, "cl_plugins", False):
        return
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if not isinstance(error, ClPluginsError):
            previous(kind, error, traceback)
            return
        sys.stdout.flush()
        sys.stderr.write(f"\ncl_plugins: {error}\n({VARIABLE}=1 shows the traceback.)\n")

    hook.cl_plugins = True  # type: ignore[attr-defined]
    sys.excepthook = hook
