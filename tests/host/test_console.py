"""What a user sees of a run of `llamafactory-cli train`: each thing once."""

from __future__ import annotations

from launch import launch
from running import NO_TESTS, recipe


def test_nothing_is_said_twice_and_nothing_is_wrong(llama, text_data, tmp_path, monkeypatch):
    monkeypatch.delenv("LLAMAFACTORY_VERBOSITY", raising=False)
    keys = recipe(llama, text_data, tmp_path / "run", cl=NO_TESTS)
    lines = launch(keys, tmp_path, processes=1).stdout.splitlines()
    for once in ("We recommend enable mixed precision", "Process rank: 0", "train:one: 2 optimizer steps"):
        assert sum(once in line for line in lines) == 1, once
    for never in ("train metrics", "total_flos", "`torch_dtype`", "setting up devices", "trainable params:"):
        assert not [line for line in lines if never in line], never
