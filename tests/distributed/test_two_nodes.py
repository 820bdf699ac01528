"""Two nodes, as `NNODES=2` starts them: the same weights as in one process, a stop of one node, a directory that is not shared."""

from __future__ import annotations

import signal
import time

import pytest
import tiny
from launch import command
from nodes import Nodes, two_nodes
from running import difference, go, journal, steps

from cl_plugins.base.errors import RunStateError
from cl_plugins.run import shared
from cl_plugins.run.interrupt import EXIT_RUN_AGAIN


TASKS = ("one", "two")
METHODS = {"inclora": {}, "seqfull": {"finetuning_type": "full"}}


@pytest.fixture
def nodes():
    with two_nodes() as names:
        yield names


def keys(model, data, out, method, **more):
    return tiny.recipe(model, data, out, method, TASKS, text_only=True, **{"max_steps": 4, **METHODS[method], **more})


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_nodes_learn_what_one_process_learns(nodes, llama, text_data, tmp_path, method):
    """Same global batch, answers of one token."""
    from safetensors.torch import load_file

    single, double = tmp_path / "single", tmp_path / "double"
    go(keys(llama, text_data, single, method, per_device_train_batch_size=8))
    launched = Nodes(
        nodes, command(keys(llama, text_data, double, method, per_device_train_batch_size=4), tmp_path), tmp_path
    )
    assert launched.wait() == [0, 0], launched.output
    assert steps(double) == steps(single)
    assert {entry["details"]["processes"] for entry in journal(double) if entry["step"].startswith("train")} == {2}
    for task in ("01_one", "02_two"):
        a, b = (load_file(out / "tasks" / task / "update.safetensors") for out in (single, double))
        assert difference(a, b) <= 1e-4
    assert not (double / shared.PROBE).exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_signal_for_one_node_stops_both_and_the_run_goes_on(nodes, llama, text_data, tmp_path, method):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    given = {"per_device_train_batch_size": 4, "save_steps": 1, "save_strategy": "steps"}
    launched = Nodes(nodes, command(keys(llama, text_data, whole, method, **given), tmp_path), tmp_path)
    assert launched.wait() == [0, 0], launched.output
    words = command(keys(llama, text_data, stopped, method, **given), tmp_path)
    launched = Nodes(nodes, words, tmp_path)
    while not list(stopped.glob("tasks/02_two/checkpoint-*")):
        assert all(process.poll() is None for process in launched.running), launched.output
        time.sleep(0.02)
    launched.running[1].send_signal(signal.SIGTERM)
    assert launched.wait() == [EXIT_RUN_AGAIN] * 2, launched.output
    assert "finish" not in steps(stopped)
    launched = Nodes(nodes, words, tmp_path)
    assert launched.wait() == [0, 0], launched.output
    for name in ("final/model.safetensors", "tasks/02_two/update.safetensors", "matrix.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
def test_a_directory_that_is_not_shared_is_an_error(nodes, llama, text_data, tmp_path):
    """The second node has a file system of its own where the first one writes."""
    out = tmp_path / "runs" / "out"
    out.mkdir(parents=True)
    before = ("", f"mount -t tmpfs none {out.parent} && ")
    launched = Nodes(nodes, command(keys(llama, text_data, out, "inclora"), tmp_path), tmp_path, before)
    codes = launched.wait()
    if "permission denied" in launched.output[1].lower() and "mount" in launched.output[1]:
        pytest.skip("no file system can be mounted here")
    assert all(codes), launched.output
    assert "is not shared: rank 1 on" in " ".join(launched.output[0].split())
    assert not (out / "tasks").exists()


def test_the_check_of_the_directory(tmp_path, monkeypatch):
    """Of one rank: what it writes it sees, and a file that never comes is given up on."""
    for local, world, several in (("1", "1", False), ("2", "2", False), ("1", "2", True), (None, "2", True)):
        monkeypatch.setenv("WORLD_SIZE", world)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        if local is not None:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        assert shared.several_machines() is several
    shared.check(tmp_path, patience=0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shared, "_write", lambda path: "another word")
    with pytest.raises(RunStateError, match=r"is not shared: rank 0 on .* Use a folder on a file system"):
        shared.check(tmp_path, patience=0)
