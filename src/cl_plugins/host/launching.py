"""Passes the exit code 75 and the signals of a run through torchrun and LLaMA-Factory's launcher.

torchrun reports every failed process with exit code 1, and `llamafactory-cli` runs torchrun without handing a signal
on. For runs with ``cl:``, 75 ("run the same command again") reaches the caller of either, and a SIGTERM for the
launcher reaches the processes that can act on it. Nothing is imported here that imports more than the standard library.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cl_plugins.base.waiting import waited


RUN_AGAIN = 75


def install(module: ModuleType) -> None:
    """Patch the module that starts processes: torchrun's agent, or the launcher of LLaMA-Factory."""
    if module.__name__ == "torch.distributed.launcher.api":
        _patch_agent(module)
    elif not isinstance(getattr(module, "subprocess", None), _Subprocess):
        module.subprocess = _Subprocess()  # type: ignore[attr-defined]


def _patch_agent(module: Any) -> None:
    """Let torchrun exit with 75 if that is what its processes did."""
    launch_agent = module.launch_agent
    if getattr(launch_agent, "cl_plugins", False):
        return

    @functools.wraps(launch_agent)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        codes: list[int | None] = []
        with _recorded(module, codes):
            try:
                return launch_agent(*args, **kwargs)
            except module.ChildFailedError as error:
                if _to_go_on([failure.exitcode for failure in error.failures.values()]):
                    raise SystemExit(RUN_AGAIN) from None
                raise
            except module.SignalException:
                if _to_go_on(codes):
                    raise SystemExit(RUN_AGAIN) from None
                raise

    wrapped.cl_plugins = True  # type: ignore[attr-defined]
    module.launch_agent = wrapped


def _to_go_on(codes: list[int | None]) -> bool:
    """Whether processes ended with 75; torchrun ends the others by a signal as soon as one is gone."""
    return RUN_AGAIN in codes and all(code in (RUN_AGAIN, -signal.SIGTERM, -signal.SIGINT) for code in codes)


@contextlib.contextmanager
def _recorded(module: Any, codes: list[int | None]) -> Iterator[None]:
    """Inside, note the exit codes of the processes of an agent that was told to stop."""
    agent = module.LocalElasticAgent

    class Recording(agent):  # type: ignore[misc, valid-type]
        def _shutdown(self, *args: Any, **kwargs: Any) -> None:
            super()._shutdown(*args, **kwargs)
            handlers = getattr(getattr(self, "_pcontext", None), "subprocess_handlers", None) or {}
            codes[:] = [handler.proc.returncode for handler in handlers.values()]

    module.LocalElasticAgent = Recording
    try:
        yield
    finally:
        module.LocalElasticAgent = agent


class _Subprocess:
    """Stands for the module `subprocess` in the launcher's namespace."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def run(self, command: Any, *args: Any, **kwargs: Any) -> Any:
        """`subprocess.run`; a recipe with ``cl`` gets signals forwarded and its exit code 75 returned."""
        if not _has_cl(sys.argv):
            return subprocess.run(command, *args, **kwargs)
        check = kwargs.pop("check", False)
        code = run_with_signals(lambda: subprocess.Popen(command, *args, **kwargs))
        if code == RUN_AGAIN:
            raise SystemExit(RUN_AGAIN)
        if check and code:
            raise subprocess.CalledProcessError(code, command)
        return subprocess.CompletedProcess(command, code)


def run_with_signals(start: Callable[[], subprocess.Popen[bytes]]) -> int:
    """Wait for a process and forward signals to it.

    SIGTERM is forwarded. The first SIGINT is not: a terminal sends Ctrl-C to both processes.

    Args:
        start: Starts the process.

    Returns:
        Its exit code.
    """
    process: subprocess.Popen[bytes] | None = None
    seen: list[int] = []

    def handle(number: int, frame: Any) -> None:
        seen.append(number)
        if process is not None and (number != signal.SIGINT or seen.count(number) > 1):
            process.send_signal(number)

    previous = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not the main thread
            previous[number] = signal.signal(number, handle)
    try:
        process = start()
        if signal.SIGTERM in seen:  # it came before there was a process
            process.send_signal(signal.SIGTERM)
        return waited(process)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _has_cl(words: list[str]) -> bool:
    """Whether the recipe of a command line has a ``cl`` block; False where it cannot be told."""
    if any(word.startswith("cl.") for word in words[1:]):
        return True
    for word in words[1:]:
        if word.endswith((".yaml", ".yml", ".json")):
            try:
                text = Path(word).read_text(encoding="utf-8")
            except (OSError, ValueError):
                return False
            return any(line.startswith(("cl:", '"cl":')) or '"cl":' in line for line in text.splitlines())
    return False
