"""What does not fit on the disk is refused before it is computed, and goes on once there is space."""

from __future__ import annotations

import shutil
from collections import namedtuple

import pytest
from running import NO_TESTS, go, recipe, steps, weights

from cl_plugins.base.errors import RunStateError
from cl_plugins.run.prepare import check_room


MIB = 1024**2
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def free(monkeypatch):
    """Say how much space is free; None for the truth."""
    truth, said = shutil.disk_usage, []

    def disk_usage(path):
        return Usage(10**12, 0, said[-1]) if said and said[-1] is not None else truth(path)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    return said.append


def test_a_directory_needs_64_mib(free, tmp_path):
    free(64 * MIB)
    check_room(tmp_path / "run")
    free(64 * MIB - 1)
    with pytest.raises(RunStateError, match="less than 64 MB are free"):
        check_room(tmp_path / "run")


def test_a_full_disk_is_found_before_anything_is_written(free, llama, text_data, tmp_path):
    free(10 * MIB)
    with pytest.raises(RunStateError, match=r"output_dir.*less than 64 MB are free"):
        go(recipe(llama, text_data, tmp_path / "run", "seqlora", cl=NO_TESTS))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_task_that_does_not_fit_is_refused_before_it_trains(free, llama, text_data, tmp_path):
    """The update, the carry with it, and a checkpoint with two moments of the optimizer."""
    keys = recipe(llama, text_data, tmp_path / "run", "seqlora", cl=NO_TESTS)
    free(64 * MIB)
    with pytest.raises(RunStateError, match=r"has 0\.1 GB free; this task needs about 0\.1 GB") as caught:
        go(keys)
    assert "choose another `output_dir`" in str(caught.value)
    assert not (tmp_path / "run" / "journal.jsonl").exists() or steps(tmp_path / "run") == []
    free(None)
    go(keys)
    go(recipe(llama, text_data, tmp_path / "other", "seqlora", cl=NO_TESTS))
    assert weights(tmp_path / "run") == weights(tmp_path / "other")
