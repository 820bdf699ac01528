"""One finished run of three tasks with IncLoRA and one with sequential LoRA, shared by all tests of the command line."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
import yaml

from cl_plugins.cli import main


@dataclass(frozen=True)
class Made:
    """A finished run and the recipe it was made with."""

    root: Path
    recipe: Path
    keys: dict


def _make(folder: Path, llava: Path, data: Path, method: str) -> Made:
    from llamafactory.train.tuner import run_exp

    keys = tiny.recipe(llava, data, folder / method, method)
    run_exp(dict(keys))
    return Made(folder / method, write_recipe(folder / f"{method}.yaml", keys), keys)


def write_recipe(path: Path, keys: dict) -> Path:
    path.write_text(yaml.safe_dump(keys, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def inclora(runs, llava, data):
    return _make(runs, llava, data, "inclora")


@pytest.fixture(scope="session")
def seqlora(runs, llava, data):
    return _make(runs, llava, data, "seqlora")


@pytest.fixture
def copied(inclora, tmp_path):
    """A copy of the IncLoRA run that a test may damage."""
    return Path(shutil.copytree(inclora.root, tmp_path / "copied"))


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command in this process: ``(exit code, standard output, standard error)``."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def go(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return go


@pytest.fixture
def fresh(inclora, tmp_path):
    """A recipe whose output directory does not exist; keyword arguments change keys, ``cl`` changes the block."""

    def make(name="fresh", **changes):
        keys = {**inclora.keys, "output_dir": str(tmp_path / "out")}
        keys["cl"] = {**keys["cl"], **changes.pop("cl", {})}
        return write_recipe(tmp_path / f"{name}.yaml", {**keys, **changes})

    return make
