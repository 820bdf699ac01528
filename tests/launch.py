"""Starting a recipe as a user does, in fresh processes: the command line, alone or under torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(processes: int = 1, **more: str) -> dict[str, str]:
    """This process's variables, the tools of this environment first in PATH, and one thread for each process."""
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    }
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


def launch(
    keys: dict[str, Any], folder: Path, processes: int = 2, timeout: float = 900, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Carry out a recipe in fresh processes and wait for them; nothing survives the time limit.

    Args:
        keys: The recipe.
        folder: Where the recipe file goes.
        processes: Number of ranks.
        timeout: Seconds until everything is killed and the test fails.
        check: Whether another exit code than 0 fails the test.
        **env: Further environment variables.
    """
    import signal

    running = subprocess.Popen(
        command(keys, folder),
        env=environment(processes, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = running.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        output, _ = running.communicate()
        raise AssertionError(f"still running after {timeout} s:\n{output[-6000:]}") from None
    result = subprocess.CompletedProcess(running.args, running.returncode, output, "")
    if check and result.returncode != 0:
        raise AssertionError(f"exit code {result.returncode}:\n{output[-8000:]}")
    return result
