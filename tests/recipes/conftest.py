from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from recipe_files import ROOT, continual, first_alike, host_keys


@pytest.fixture(scope="session")
def root_with_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the repository as it is after ``make demo``: with the demo's data, which a clean clone lacks."""
    from cl_plugins.data.demo.stream import build

    folder = tmp_path_factory.mktemp("root")
    for entry in ROOT.iterdir():
        if entry.name != "demo_data":
            (folder / entry.name).symlink_to(entry)
    build(folder / "demo_data")
    return folder


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch, root_with_demo: Path) -> None:
    monkeypatch.chdir(root_with_demo)  # paths in recipes are relative to it


@pytest.fixture(scope="session")
def parsed() -> dict[tuple[Path, str], Any]:
    """What the host has made of a recipe with the keys of a task; no test changes it."""
    return {}


@pytest.fixture
def parse_task(tmp_path: Path, parsed: dict[tuple[Path, str], Any]) -> Iterator[Callable[..., Any]]:
    """``parse_task(recipe, task, more keys) -> HostArgs``: one task through the host's own `get_train_args`, on the CPU.

    Without more keys, tasks of a recipe that have the same keys of their own share one result, with the data of the first of them.
    DeepSpeed is left out here, because the host wants it under torchrun only; `test_deepspeed_recipes` puts it back.
    """
    from cl_plugins.host.task_args import parse, task_keys

    before = dict(os.environ)

    def parse_one(path: Path, task: str, more: Mapping[str, Any] | None = None) -> Any:
        config = continual(path)
        if more is None:
            key = path, first_alike(config, task)
            if key not in parsed:
                parsed[key] = parse_one(*key, {})
            return parsed[key]
        keys = {**host_keys(path), "use_cpu": True, **more}
        keys.pop("deepspeed", None)
        overrides = config.overrides_for(task)
        return parse(
            task_keys(keys, datasets=config.stream.task(task).train, output_dir=tmp_path, seed=1, overrides=overrides)
        )

    yield parse_one
    os.environ.clear()  # the host and Accelerate keep the precision in the environment
    os.environ.update(before)
