"""Imports LLaMA-Factory once and forks a process for every run, so that a run that is killed costs no six seconds of imports.

A server process of its own (``python fork_server.py``) speaks JSON lines; `ForkServer` is the side of the tests. It also
starts the processes of a run on two ranks, which find in their environment what torchrun writes there.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from drawing import stand_in
from launch import PATIENCE, TRIES, environment, free_port, unreached


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        code: Exit code; minus the signal's number if one ended it.
        output: What it printed.
        points: The labels of the points that it passed, in order.
        optimizer: ``(task, global step)`` of every training step.
        steps: Keys of the steps it began.
    """

    code: int
    output: str
    points: list[str]
    optimizer: list[tuple[str, int]]
    steps: list[str]


class ForkServer:
    """Starts runs in processes of their own.

    Args:
        folder: For logs and caches.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        path = os.pathsep.join(sys.path)  # the server finds the modules of the tests
        env = environment(HF_DATASETS_CACHE=str(folder / "datasets"), PYTHONPATH=path)
        self._errors = (folder / "server.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=env,
        )
        if self._answer() != "ready":
            raise RuntimeError((folder / "server.log").read_text())

    def _answer(self):
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def _ask(self, **request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(self, keys: dict, at: int | str = 0, action: str = "kill", seen: Path | None = None) -> tuple[int, Path]:
        """Begin a run; its process id, and its log of points."""
        self._count += 1
        log = self._folder / f"{self._count:04d}.points"
        log.touch()
        output = str(log.with_suffix(".out"))
        pid = self._ask(do="start", keys=keys, at=at, action=action, seen=str(seen or ""), log=str(log), output=output)
        return pid, log

    def wait(self, started: tuple[int, Path]) -> Ended:
        """Wait for the end of a run."""
        pid, log = started
        code = self._ask(do="wait", pid=pid)
        ended = Ended(code, log.with_suffix(".out").read_text(errors="replace"), [], [], [])
        for line in log.read_text().splitlines():
            kind, *rest = line.split()
            if kind == "point":
                ended.points.append(" ".join(rest[1:]))
            elif kind == "optimizer":
                ended.optimizer.append((rest[0], int(rest[1])))
            else:
                ended.steps.append(rest[0])
        return ended

    def until(self, started: tuple[int, Path], lines: int) -> None:
        """Wait until a run has logged so many lines, or has ended."""
        pid, log = started
        while log.read_bytes().count(b"\n") < lines and not _zombie(pid):
            time.sleep(0.001)

    def run(self, keys: dict, at: int | str = 0, action: str = "kill", seen: Path | None = None) -> Ended:
        """A run, until it ends or is ended."""
        return self.wait(self.start(keys, at, action, seen))

    def run_in(self, processes: int, keys: dict, tries: int = TRIES) -> str:
        """A run on this many ranks of one machine, as under torchrun, until it ends well.

        Args:
            processes: Number of ranks.
            keys: The recipe.
            tries: How often it is started at most; ranks that did not find each other are started again.

        Returns:
            What the ranks printed.

        Raises:
            AssertionError: A rank ended with another exit code than 0.
        """
        port, size = str(free_port()), str(processes)
        world = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started = []
        for rank in range(processes):
            self._count += 1
            output = self._folder / f"{self._count:04d}.out"
            env = {**world, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            started.append((self._ask(do="start", keys=keys, env=env, output=str(output)), output))
        codes = [self._ask(do="wait", pid=pid) for pid, _ in started]
        printed = "\n".join(output.read_text(errors="replace") for _, output in started)
        if any(codes) and unreached(printed) and tries > 1:
            return self.run_in(processes, keys, tries - 1)
        assert not any(codes), f"exit codes {codes}:\n{printed[-8000:]}"
        return printed

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a run; nothing happens if it has ended (it stays a zombie until `wait`)."""
        os.kill(pid, number)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)
        self._errors.close()


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _sabotage(request: dict) -> None:
    """End or starve this process at the point that the request names, and note the points that it passes."""
    from sabotage import Saboteur, install

    from cl_plugins.replay import store

    root, log, seen = (Path(name) for name in (request["keys"]["output_dir"], request["log"], request["seen"]))
    install(Saboteur(root, log, request["at"], request["action"], seen))
    store.now = lambda: "2030-01-01T00:00:00+00:00"  # times in the buffer's manifest are the one thing that differs


def _child(request: dict) -> None:
    """The forked process: run the recipe, end with the exit code that a fresh interpreter would have."""
    import traceback

    handle = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.setsid()
    os.environ.update(request.get("env", {}))
    code = 0
    try:
        if "at" in request:
            _sabotage(request)
        from llamafactory.train.tuner import run_exp

        from cl_plugins.encoders.launch import run_recipe

        (run_recipe if "encoders" in request["keys"] else run_exp)(request["keys"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int, seconds: float = PATIENCE) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1000


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    import transformers.models.clip.modeling_clip
    import transformers.models.llama.modeling_llama
    import transformers.models.llava.modeling_llava  # noqa: F401
    from llamafactory.train.callbacks import LogCallback  # noqa: F401

    import cl_plugins.encoders.launch
    import cl_plugins.encoders.trainer
    import cl_plugins.host.trainer
    import cl_plugins.run.entry
    import cl_plugins.run.runner  # noqa: F401
    from cl_plugins.report import style

    style.render = stand_in
    gc.freeze()

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    answer("ready")
    alive = set()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            pid = os.fork()
            if pid == 0:
                _child(request)
            alive.add(pid)
            answer(pid)
        else:
            answer(_wait(request["pid"]))
            alive.discard(request["pid"])
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
