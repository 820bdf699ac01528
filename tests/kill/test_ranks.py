"""Two processes under torchrun: kills of everything, of one rank, and of the launcher alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import killed_runs as runs
import pytest
from launch import PATIENCE, TRIES, command, environment, unreached

from cl_plugins.run.interrupt import EXIT_RUN_AGAIN


pytestmark = pytest.mark.kill


class Launched:
    """One ``llamafactory-cli train`` with two processes."""

    def __init__(self, keys: dict, folder: Path) -> None:
        self.out = Path(keys["output_dir"])
        self._words, self._log = command(keys, folder), folder / f"{self.out.name}.{time.monotonic_ns()}.log"
        self._tries = 0
        self._start()

    def _start(self) -> None:
        self._tries += 1
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                self._words, stdout=log, stderr=subprocess.STDOUT, env=environment(2), start_new_session=True
            )

    def _ended(self) -> int | None:
        """The exit code; None while it runs. A launch whose ranks did not find each other is begun again."""
        code = self.process.poll()
        if code and unreached(self.output) and self._tries < TRIES:
            self._start()
            return None
        return code

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + PATIENCE
        while (code := self._ended()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return code

    def until(self, name: str) -> None:
        """Wait for a file of the run."""
        deadline = time.monotonic() + PATIENCE
        while not (self.out / name).exists():
            assert self._ended() is None, self.output[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def family(self) -> dict[str, int]:
        """Process ids by part: cli, torchrun, rank0, rank1."""
        found = {"cli": self.process.pid}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == found["cli"]:
                    found["torchrun"] = int(path.name)
            except OSError:
                continue
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == found.get("torchrun"):
                    variables = dict(v.split("=", 1) for v in (path / "environ").read_text().split("\0") if "=" in v)
                    found[f"rank{variables['RANK']}"] = int(path.name)
            except OSError:
                continue
        assert found.keys() == {"cli", "torchrun", "rank0", "rank1"}, found
        return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def until_gone(pids) -> None:
    deadline = time.monotonic() + PATIENCE
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def recipe(material, out: Path, method: str) -> dict:
    """Long enough to be hit in the middle; two samples for each rank make a step."""
    more = {"max_steps": 24, "save_steps": 5, "per_device_train_batch_size": 2}
    return runs.recipe(*material, out, method, cl={"task_overrides": {}}, **more)


@pytest.fixture(scope="module")
def two_ranks(kill_dir, material):
    """By method: a run of two processes that nobody disturbs."""
    made = {}

    def get(method):
        if method not in made:
            launched = Launched(recipe(material, kill_dir / f"ranks_{method}", method), kill_dir)
            assert launched.wait() == 0, launched.output[-4000:]
            made[method] = launched.out
        return made[method]

    return get


@pytest.mark.parametrize(("method", "victims"), [
    ("inclora", ("cli", "torchrun", "rank0", "rank1")),
    ("seqfull", ("cli", "torchrun", "rank0", "rank1")),
    ("inclora", ("rank0",)),
    ("inclora", ("rank1",)),
    ("seqfull", ("rank1",)),
])  # fmt: skip
def test_killed_ranks(method, victims, material, two_ranks, tmp_path):
    keys = recipe(material, tmp_path / "out", method)
    launched = Launched(keys, tmp_path)
    launched.until("tasks/02_two/checkpoint-5/cl_complete.json")
    family = launched.family()
    for victim in victims:
        os.kill(family[victim], signal.SIGKILL)
    assert launched.wait() != 0
    until_gone(family.values())
    before = runs.journal(launched.out)
    assert "train:two" not in before
    resumed = Launched(keys, tmp_path)
    assert resumed.wait() == 0, resumed.output[-4000:]
    assert "resuming from" in resumed.output
    after = runs.journal(launched.out)
    assert all(after[key] == entry for key, entry in before.items())
    assert "\n".join(runs.differences(launched.out, two_ranks(method))) == ""


@pytest.mark.parametrize(
    ("method", "victims"), [("inclora", ("cli",)), ("inclora", ("cli", "torchrun")), ("seqfull", ("cli",))]
)
def test_ranks_that_outlive_their_launcher_finish(method, victims, material, two_ranks, tmp_path):
    keys = recipe(material, tmp_path / "out", method)
    launched = Launched(keys, tmp_path)
    launched.until("tasks/01_one/checkpoint-5/cl_complete.json")
    family = launched.family()
    for victim in victims:
        os.kill(family[victim], signal.SIGKILL)
    launched.wait()
    ranks = [family["rank0"], family["rank1"]]
    assert not any(gone(pid) for pid in ranks)
    for pid in ranks:  # a second command needs seconds to start; they must still be at it
        os.kill(pid, signal.SIGSTOP)
    try:
        second = Launched(keys, tmp_path)
        assert second.wait() != 0
    finally:
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)
    assert f"is in use by process {family['rank0']} on" in second.output
    until_gone(ranks)
    assert "\n".join(runs.differences(launched.out, two_ranks(method))) == ""
    before = runs.tree(launched.out / "final")
    third = Launched(keys, tmp_path)
    assert third.wait() == 0, third.output[-4000:]
    assert "this run is finished" in third.output
    assert runs.tree(launched.out / "final") == before


@pytest.mark.parametrize(
    ("victims", "number"),
    [
        (("rank1",), signal.SIGTERM),
        (("rank0",), signal.SIGINT),
        (("torchrun",), signal.SIGTERM),
        (("cli",), signal.SIGTERM),
        (("cli", "torchrun", "rank0", "rank1"), signal.SIGINT),  # Ctrl-C in a terminal
        (("cli", "torchrun", "rank0", "rank1"), signal.SIGTERM),  # a cluster that ends every process of a job
    ],
)
def test_a_signal_stops_all_ranks_cleanly(victims, number, material, two_ranks, tmp_path):
    keys = recipe(material, tmp_path / "out", "inclora")
    launched = Launched(keys, tmp_path)
    launched.until("tasks/01_one/checkpoint-5/cl_complete.json")
    family = launched.family()
    for victim in victims:
        os.kill(family[victim], number)
    assert launched.wait() == EXIT_RUN_AGAIN == 75, launched.output[-4000:]
    assert all(gone(pid) for pid in family.values())
    assert "train:one" not in runs.journal(launched.out)
    assert max(runs.whole_checkpoints(launched.out, "one")) > 5
    if len(victims) > 1:
        return
    resumed = Launched(keys, tmp_path)
    assert resumed.wait() == 0, resumed.output[-4000:]
    assert "\n".join(runs.differences(launched.out, two_ranks("inclora"))) == ""
