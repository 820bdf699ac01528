"""torchrun and LLaMA-Factory's launcher give the exit code and the signals of a run on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import launch
import pytest

from cl_plugins.host import launching


WORKER = """
import os, signal, sys, time

signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[2])))
open(f"{sys.argv[1]}/ready{os.environ['RANK']}", "w").close()
if sys.argv[3] == "leave" and os.environ["RANK"] == "0":
    sys.exit(int(sys.argv[2]))
while True:  # one long sleep would miss a signal that comes just before it
    time.sleep(0.05)
"""


def torchrun(folder, code, then):
    script = folder / "worker.py"
    script.write_text(WORKER)
    port = ["--master_port", str(launch.free_port())]
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *port]
    return subprocess.Popen([*words, str(script), str(folder), str(code), then], env=launch.environment())


@pytest.mark.parametrize(("code", "seen"), [(75, 75), (3, 1)])
def test_torchrun_exits_as_its_first_process_did(code, seen, tmp_path):
    assert torchrun(tmp_path, code, "leave").wait(timeout=300) == seen


@pytest.mark.parametrize(("code", "clean"), [(75, True), (3, False)])
def test_torchrun_that_is_stopped_exits_as_its_processes_did(code, clean, tmp_path):
    agent = torchrun(tmp_path, code, "wait")
    while len(list(tmp_path.glob("ready*"))) < 2:
        assert agent.poll() is None
        time.sleep(0.05)
    agent.send_signal(signal.SIGTERM)
    assert (agent.wait(timeout=300) == 75) is clean


@pytest.fixture
def launcher(monkeypatch, tmp_path):
    """The launcher's `subprocess`, and a recipe with or without ``cl`` on the command line."""

    def make(**keys):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(json.dumps({"stage": "sft", **keys}))
        monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(recipe)])
        return launching._Subprocess()

    return make


def leave(code):
    return [sys.executable, "-c", f"raise SystemExit({code})"]


def test_the_launcher_hands_75_back(launcher):
    proxy = launcher(cl={"stream": "x"})
    with pytest.raises(SystemExit) as left:
        proxy.run(leave(75), check=True)
    assert left.value.code == 75
    with pytest.raises(subprocess.CalledProcessError) as failed:
        proxy.run(leave(3), check=True)
    assert failed.value.returncode == 3
    assert proxy.run(leave(0), check=True).returncode == 0
    assert proxy.run(leave(3)).returncode == 3
    assert proxy.PIPE is subprocess.PIPE


def test_without_cl_the_launcher_is_as_it_was(launcher):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        launcher().run(leave(75), check=True)
    assert failed.value.returncode == 75


def test_a_signal_for_the_launcher_reaches_the_process(tmp_path):
    """SIGTERM at once, SIGINT only when it comes again: a terminal sends it to both."""
    child = """
import signal, sys, time
signal.signal(signal.{0}, lambda *_: sys.exit(75))
print("on", flush=True)
while True:
    time.sleep(0.05)
"""
    parent = """
import subprocess, sys
from cl_plugins.host.launching import run_with_signals
print("code", run_with_signals(lambda: subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)))
"""
    for name, count in (("SIGTERM", 1), ("SIGINT", 2)):
        words = [sys.executable, "-u", "-c", parent, child.format(name)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout.readline() == "on\n"
            for _ in range(count - 1):
                running.send_signal(getattr(signal, name))
                with pytest.raises(subprocess.TimeoutExpired):
                    running.wait(timeout=1)
            running.send_signal(getattr(signal, name))
            assert running.stdout.readline() == "code 75\n"


def test_both_places_are_patched():
    code = """
import torch, llamafactory.launcher, torch.distributed.launcher.api as api
print(type(llamafactory.launcher.subprocess).__name__, api.launch_agent.cl_plugins)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=launch.environment())
    assert out.stdout.split() == ["_Subprocess", "True"], out.stderr
