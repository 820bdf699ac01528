"""Starting processes as a user does: the command line, alone or under torchrun.

A busy machine is not a failure: a start whose processes did not find each other is repeated, and time limits are there
only so that a process that hangs for good does not stay.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


PATIENCE = 1800.0  # seconds; nothing here takes more than a minute on an idle machine
TRIES = 4
_UNWANTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# What Gloo and torchrun say when ranks did not meet. A rank that fails later says other things ("closed by peer").
_UNREACHED = re.compile(
    r"connectFullMesh failed|RendezvousConnectionError|RendezvousTimeoutError|EADDRINUSE|[Aa]ddress already in use"
    r"|client socket has (timed out|failed)|DistNetworkError|DistStoreError: Timed out|Timed out waiting for clients"
)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unreached(output: str) -> bool:
    """Whether the processes of a launch failed to find each other: another port was quicker, or the machine too slow."""
    return _UNREACHED.search(output) is not None


def environment(processes: int = 1, **more: str) -> dict[str, str]:
    """This process's variables, the tools of this environment first in PATH, and one thread for each process."""
    env = {k: v for k, v in os.environ.items() if k not in _UNWANTED}
    env.update(
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}",
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
        HF_HUB_OFFLINE="1",
    )
    if processes > 1:
        env.update(FORCE_TORCHRUN="1", NPROC_PER_NODE=str(processes), MASTER_PORT=str(free_port()))
    return env | more


def command(keys: dict[str, Any], folder: Path) -> list[str]:
    """Write the recipe into ``folder`` and say how to start it."""
    recipe = folder / "recipe.yaml"  # JSON is YAML; a name ending in .json fails in the host (0.9.5)
    recipe.write_text(json.dumps(keys))
    return ["llamafactory-cli", "train", str(recipe)]


def execute(
    words: Callable[[], list[str]] | list[str],
    env: Callable[[], dict[str, str]] = environment,
    cwd: Path | None = None,
    check: bool = True,
    tries: int = TRIES,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a session of its own, again if its processes did not find each other; nothing survives it.

    Args:
        words: The command, or what makes it: a new port for every try.
        env: Makes the variables of a try.
        cwd: The folder it runs in.
        check: Whether another exit code than 0 fails the test.
        tries: How often it is started at most.

    Returns:
        Exit code and output, with standard error among standard output.
    """
    made = words() if callable(words) else words
    running = subprocess.Popen(
        made, env=env(), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = running.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        output, _ = running.communicate()
        raise AssertionError(f"still running after {PATIENCE} s:\n{output[-6000:]}") from None
    if running.returncode and unreached(output) and tries > 1:
        return execute(words, env, cwd, check, tries - 1)
    if check and running.returncode:
        raise AssertionError(f"exit code {running.returncode}:\n{output[-8000:]}")
    return subprocess.CompletedProcess(made, running.returncode, output, "")


def launch(
    keys: dict[str, Any], folder: Path, processes: int = 2, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Carry out a recipe in fresh processes and wait for them.

    Args:
        keys: The recipe.
        folder: Where the recipe file goes.
        processes: Number of ranks.
        check: Whether another exit code than 0 fails the test.
        **env: Further environment variables.
    """
    return execute(command(keys, folder), lambda: environment(processes, **env), check=check)
