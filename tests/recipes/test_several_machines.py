"""Several nodes with the variables that `examples/yaml/README.md` shows, as LLaMA-Factory takes them; Ray is refused."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from recipe_files import ROOT, problems_of, read


README = (ROOT / "examples" / "yaml" / "README.md").read_text(encoding="utf-8")


def command(section: str) -> tuple[dict[str, str], str, list[str], dict[str, Any]]:
    """The command in a section of the README: environment, LLaMA-Factory's command, its words, the overrides."""
    block = re.search(rf"^## {section}\n.*?```bash\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    assert block
    lines = block.group(1).replace("\\\n", " ").splitlines()
    words = shlex.split(next(line for line in lines if "llamafactory-cli" in line))
    start = words.index("llamafactory-cli")
    given = words[start + 2 :]
    overrides = {key: yaml.safe_load(value) for key, value in (word.split("=") for word in given[1:])}
    return dict(word.split("=") for word in words[:start]), words[start + 1], given, overrides


def test_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, as the README says; the keys alone change nothing."""
    path = ROOT / "examples" / "yaml" / "medical_cl" / "inclora.yaml"
    keys = {
        "ray_num_workers": 4,
        "ray_init_kwargs": {"num_cpus": 8},
        "master_addr": "10.0.0.1",
        "master_port": "29500",
    }
    assert problems_of(read(path) | keys) == []
    monkeypatch.setenv("USE_RAY", "1")
    (problem,) = problems_of(read(path) | keys)
    assert problem.startswith("USE_RAY: ")
    assert "cl-plugins sweep" in problem
    assert "`USE_RAY`" in README.partition("## Ray")[2]


def test_several_nodes(parse_task: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-Factory's launcher makes torchrun's command of the variables; nothing is started."""
    from llamafactory import launcher

    environment, what, words, keys = command("Several nodes")
    assert problems_of(read(Path(words[0])) | keys) == []
    assert parse_task(Path(words[0]), "path", keys).training.gradient_accumulation_steps == 1
    started: list[list[str]] = []

    def remember(command: list[str], **_: Any) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace(returncode=0, wait=lambda timeout: 0)

    monkeypatch.setattr(subprocess, "run", remember)
    monkeypatch.setattr(subprocess, "Popen", remember)  # by which a recipe with `cl` is started, see `host.launching`
    monkeypatch.setattr(os, "environ", {**os.environ, **environment, "NODE_RANK": "1"})
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", what, *words])
    with pytest.raises(SystemExit):
        launcher.launch()
    (line,) = started
    asked = dict(zip(line[1:11:2], line[2:11:2], strict=True))
    assert asked == {
        "--nnodes": "2",
        "--node_rank": "1",
        "--nproc_per_node": "8",
        "--master_addr": "10.0.0.1",
        "--master_port": "29500",
    }
    assert line[-len(words) :] == words
