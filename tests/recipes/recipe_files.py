"""The recipes of the repository, and what several tests do with them."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import yaml

from cl_plugins.base.errors import RecipeError
from cl_plugins.config import CLConfig
from cl_plugins.host.llama_factory import LlamaFactoryHost
from cl_plugins.recipe import parse_cl
from cl_plugins.run.check import check


ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("examples", "benchmarks")
PAPER = ("medical_cl", "mllm_cl", "mllm_cl_ability", "mslora_cr_8", "mslora_cr_6", "coin", "ucit")


@functools.cache
def _yaml_files() -> list[Path]:
    found = [p for folder in FOLDERS for suffix in ("yaml", "yml") for p in (ROOT / folder).rglob(f"*.{suffix}")]
    return sorted(p.relative_to(ROOT) for p in found)


def yaml_files() -> list[Path]:
    """Every YAML file under `FOLDERS`, relative to the root."""
    return list(_yaml_files())


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def read(path: Path) -> dict[str, Any]:
    """The YAML as LLaMA-Factory's own reader gives it, the caller's to change."""
    return copy.deepcopy(_read(path))


def recipes() -> list[Path]:
    """The YAML files that are recipes of a language model."""
    return [path for path in yaml_files() if "model_name_or_path" in _read(path)]


def encoder_recipes() -> list[Path]:
    """The YAML files that are recipes of a classifier on frozen encoders."""
    return [path for path in yaml_files() if "encoders" in _read(path)]


def paper_recipes() -> list[Path]:
    """The recipes for ``llava-1.5-7b``."""
    return [path for path in recipes() if path.parts[:2] == ("examples", "yaml") and path.parts[2] in PAPER]


def host_keys(path: Path) -> dict[str, Any]:
    """The recipe without its ``cl:`` block."""
    return {key: value for key, value in read(path).items() if key != "cl"}


@functools.cache
def continual(path: Path) -> CLConfig:
    """The recipe's checked ``cl:`` block, with what its stream adds for it."""
    return parse_cl(read(path)["cl"]).with_defaults(host_keys(path))


def first_alike(config: CLConfig, task: str) -> str:
    """The first task of the stream with the keys of this one: to the host, only their data differ."""
    own = config.overrides_for(task)
    return next(t.name for t in config.stream.tasks if t.train and config.overrides_for(t.name) == own)


def problems_of(recipe: dict[str, Any]) -> list[str]:
    """What is wrong with a recipe, its data files left out: those of the papers are not here."""
    try:
        check(LlamaFactoryHost(), recipe, data=False)
    except RecipeError as error:
        return str(error).splitlines()
    return []
