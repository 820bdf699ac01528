"""The scripts in ``examples/python`` run as they stand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import tiny
import yaml


EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize(
    ("script", "base", "method"),
    [
        ("transformers_trainer.py", "llama", "inclora"),
        ("transformers_trainer.py", "llama", "seqlora"),
        ("trl_sft.py", "llama", "inclora"),
        ("vision_trainer.py", "llava", "inclora"),
    ],
)
def test_an_example_learns_all_its_tasks(script, base, method, request, tmp_path, monkeypatch, capsys):
    model = request.getfixturevalue(base)
    arguments = ["--model", model, "--method", method, "--out", tmp_path / "out", "--steps", 2]
    run(monkeypatch, script, *arguments)
    first = capsys.readouterr().out
    assert "learned: " in first
    carry = (tmp_path / "out" / "carry" / "carry.json").read_bytes()
    run(monkeypatch, script, *arguments)  # nothing is learned twice
    assert (tmp_path / "out" / "carry" / "carry.json").read_bytes() == carry


def test_every_script_has_a_test():
    tested = {"transformers_trainer.py", "trl_sft.py", "vision_trainer.py", "llamafactory_callback.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


def test_the_llamafactory_callback(llama, tmp_path, monkeypatch):
    data = tiny.build_data(tmp_path / "data", ("one",), train=4, test=1, text_only=True)
    keys = tiny.recipe(llama, data, tmp_path / "plain", "seqlora", ("one",), text_only=True)
    keys.pop("cl")
    keys |= {"dataset": "one_train", "max_steps": 2}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(keys))
    run(
        monkeypatch,
        "llamafactory_callback.py",
        tmp_path / "one.yaml",
        "--task",
        "one",
        "--method",
        "seqlora",
        "--out",
        tmp_path / "state",
    )
    assert (tmp_path / "state" / "carry" / "adapter.safetensors").is_file()
