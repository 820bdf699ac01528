"""Two nodes on one machine: two network namespaces with a cable between them, and torchrun in each.

Needs the rights of root and `ip`; where they are missing, the tests are skipped and say so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from launch import PATIENCE, TRIES, environment, free_port, unreached


ADDRESSES = ("10.213.7.1", "10.213.7.2")
CABLE = "node0"  # the same name in both, so that both get the same GLOO_SOCKET_IFNAME


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@contextmanager
def two_nodes() -> Iterator[tuple[str, str]]:
    """Two namespaces that reach each other and nothing else.

    Yields:
        Their names.
    """
    if shutil.which("ip") is None:
        pytest.skip("no `ip` here (iproute2): two network namespaces cannot be made")
    mark = uuid.uuid4().hex[:6]
    names = (f"cl-{mark}-0", f"cl-{mark}-1")
    ends = (f"cl{mark}a", f"cl{mark}b")
    steps: list[list[str]] = [["netns", "add", names[0]], ["netns", "add", names[1]]]
    steps += [["link", "add", ends[0], "type", "veth", "peer", "name", ends[1]]]
    for name, end, address in zip(names, ends, ADDRESSES, strict=True):
        steps += [
            ["link", "set", end, "netns", name],
            ["-n", name, "link", "set", end, "name", CABLE],
            ["-n", name, "addr", "add", f"{address}/24", "dev", CABLE],
            ["-n", name, "link", "set", CABLE, "up"],
            ["-n", name, "link", "set", "lo", "up"],
        ]
    try:
        for step in steps:
            done = _ip(*step)
            if done.returncode:
                pytest.skip(
                    f"two network namespaces cannot be made here: `ip {' '.join(step)}`: {done.stderr.strip()}"
                )
        yield names
    finally:
        for name in names:
            _ip("netns", "del", name)  # takes its end of the cable with it
        _ip("link", "del", ends[0])


class Nodes:
    """One launch on both nodes.

    Args:
        names: The namespaces.
        words: The command, the same on both.
        folder: Where the output of each goes.
        before: Shell commands that each node runs first.
    """

    def __init__(
        self, names: Sequence[str], words: Sequence[str], folder: Path, before: Sequence[str] = ("", "")
    ) -> None:
        self._names, self._words, self._folder, self._before = names, list(words), folder, before
        self._tries = 0
        self._start()

    def _start(self) -> None:
        self._tries += 1
        port = str(free_port())
        self.running: list[subprocess.Popen[bytes]] = []
        for rank, name in enumerate(self._names):
            more: dict[str, Any] = {
                "NNODES": "2",
                "NODE_RANK": str(rank),
                "NPROC_PER_NODE": "1",
                "FORCE_TORCHRUN": "1",
            }
            more |= {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": CABLE}
            line = f'{self._before[rank]}exec "$@"'
            command = ["ip", "netns", "exec", name, "sh", "-c", line, "sh", *self._words]
            with self.log(rank).open("w") as log:
                self.running.append(
                    subprocess.Popen(
                        command,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment(1, **more),
                        start_new_session=True,
                    )
                )

    def log(self, rank: int) -> Path:
        """What a node prints."""
        return self._folder / f"node{rank}.log"

    @property
    def output(self) -> list[str]:
        """What both have printed."""
        return [self.log(rank).read_text(errors="replace") for rank in (0, 1)]

    def wait(self) -> list[int]:
        """The exit codes; begun again if the nodes did not find each other."""
        try:
            codes = [process.wait(timeout=PATIENCE) for process in self.running]
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {PATIENCE} s:\n{self.output[0][-4000:]}") from None
        if any(codes) and any(map(unreached, self.output)) and self._tries < TRIES:
            self._start()
            return self.wait()
        return codes

    def kill(self) -> None:
        """Nothing survives."""
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
