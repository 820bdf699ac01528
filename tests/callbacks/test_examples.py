"""The scripts in ``examples/python`` run as they stand."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file

from cl_plugins.contract.carry import Carry
from cl_plugins.evaluation.results import read_results
from cl_plugins.replay.store import Buffer
from cl_plugins.run.status import collect


EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize(
    ("script", "base", "method", "replay"),
    [
        ("transformers_trainer.py", "llama", "inclora", 0),
        pytest.param("transformers_trainer.py", "llama", "seqlora", 2, marks=pytest.mark.slow),
        ("trl_sft.py", "llama", "inclora", 0),
        pytest.param("vision_trainer.py", "llava", "inclora", 0, marks=pytest.mark.slow),
        ("vision_trainer.py", "llava", "inclora", 2),
        pytest.param("trl_vision.py", "llava", "inclora", 0, marks=pytest.mark.slow),
        pytest.param("trl_vision.py", "llava", "lwf", 2, marks=pytest.mark.slow),
        ("trl_vision.py", "llava", "der", 2),
    ],
)
def test_an_example_learns_all_its_tasks(script, base, method, replay, request, tmp_path, monkeypatch, capsys):
    model = request.getfixturevalue(base)
    arguments = ["--model", model, "--method", method, "--out", tmp_path / "out", "--steps", 2]
    arguments += ["--replay", replay] if replay else []
    run(monkeypatch, script, *arguments)
    first = capsys.readouterr().out
    assert "learned: " in first
    carry = (tmp_path / "out" / "carry" / "carry.json").read_bytes()
    run(monkeypatch, script, *arguments)  # nothing is learned twice
    assert (tmp_path / "out" / "carry" / "carry.json").read_bytes() == carry
    if script != "vision_trainer.py":
        check_that_it_is_a_run(tmp_path / "out")
    if base == "llava":
        check_that_pictures_arrived(model, tmp_path / "out" / "tasks")
    buffer = Buffer.open(Carry.open(tmp_path / "out" / "carry"))
    kept = [sample.task for sample in buffer.samples] if buffer is not None else []
    assert all(kept.count(name) == replay for name in Carry.open(tmp_path / "out" / "carry").tasks)


def check_that_it_is_a_run(out):
    state = collect(out, verify=True)
    assert state["finished"]
    assert state["damaged"] == []
    matrix = read_results(out).matrix
    assert all(matrix.get(f"after_{matrix.tasks[-1]}", task) is not None for task in matrix.tasks)
    assert (out / "report.html").is_file()


def check_that_pictures_arrived(model, tasks):
    """Only pictures give the projector a gradient."""
    base = {n: t for n, t in load_file(Path(model) / "model.safetensors").items() if "projector" in n}
    for folder in tasks.iterdir():
        learned = load_file(folder / "update.safetensors")
        for name, before in base.items():
            after = learned[
                next(n for n in learned if name.partition("multi_modal_projector")[2] in n and "projector" in n)
            ]
            assert not torch.equal(before, after), (folder.name, name)


def test_every_script_has_a_test():
    tested = {*(f"{name}.py" for name in ("transformers_trainer", "trl_sft", "trl_vision", "vision_trainer"))}
    tested.add("llamafactory_callback.py")
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_the_llamafactory_callback(llama, tmp_path, monkeypatch):
    """What its first lines promise: EWC by default, and a task 2 that goes on from the adapter of task 1."""
    data = tiny.build_data(tmp_path / "data", ("one", "two"), train=4, test=1, text_only=True)
    for name in ("one", "two"):
        keys = tiny.recipe(llama, data, tmp_path / "unused", "seqlora", (name,), text_only=True)
        keys.pop("cl")
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(keys | {"dataset": f"{name}_train", "max_steps": 3}))

    def learn(name, method, *more):
        state, saved = tmp_path / method, tmp_path / "saves" / method / name
        options = ["--task", name, "--out", state, *([] if method == "ewc" else ["--method", method])]
        run(
            monkeypatch,
            "llamafactory_callback.py",
            tmp_path / f"{name}.yaml",
            *options,
            f"output_dir={saved}",
            *more,
        )
        return saved

    learned = {}
    for method in ("ewc", "seqlora"):
        first = learn("one", method)
        second = learn("two", method, f"adapter_name_or_path={first}")
        assert json.loads((tmp_path / method / "carry" / "carry.json").read_text())["tasks"] == ["one", "two"]
        learned[method] = load_file(second / "adapter_model.safetensors")
        history = json.loads((second / "trainer_state.json").read_text())["log_history"]
        assert (max(entry.get("penalty/ewc", 0.0) for entry in history) > 0) == (method == "ewc")
    assert any(not torch.equal(learned["ewc"][name], value) for name, value in learned["seqlora"].items())
