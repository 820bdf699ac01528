from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import killed_runs
import pytest


@pytest.fixture(scope="session")
def kill_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(scope="session")
def material(kill_dir):
    """Model and data of the runs that are killed."""
    return killed_runs.build(kill_dir)


@pytest.fixture(scope="session")
def uninterrupted(kill_dir, material, server):
    """By method: directory and course of a run that nobody disturbs; each is made once."""
    made = {}

    def get(method: str) -> SimpleNamespace:
        if method not in made:
            out = kill_dir / f"reference_{method}"
            ended = server.run(killed_runs.recipe(*material, out, method))
            assert ended.code == 0, ended.output[-4000:]
            assert [step for task, step in ended.optimizer if task == "two"] == list(
                range(1, killed_runs.MAX_STEPS + 1)
            )
            made[method] = SimpleNamespace(out=out, ended=ended)
        return made[method]

    return get
