"""Reading a recipe as LLaMA-Factory does: a YAML or JSON file, and ``key=value`` words behind it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RecipeError


SUFFIXES = (".yaml", ".yml", ".json")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments ``RECIPE [key=value ...]``."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe: YAML or JSON, with a `cl:` block")
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        default=[],
        help="replaces a key of the recipe, as in `max_steps=10 cl.method.name=seqlora`",
    )


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe with the host's conventions.

    Args:
        path: A YAML or JSON file.
        overrides: Words ``key=value``; dots lead into mappings, values are YAML.

    Returns:
        Plain dicts and lists.

    Raises:
        RecipeError: If the file or an override cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from ..base.outside import YAML_LIMIT, OutsideError, parse_json, parse_yaml, read_text

    path = Path(path)
    problems = [
        Problem(word, "is not of the form key=value.", "Write for example `max_steps=10`.")
        for word in overrides
        if "=" not in word or word.startswith(("=", "-"))
    ]
    if path.suffix not in SUFFIXES:
        fix = "LLaMA-Factory reads recipes whose names end in .yaml, .yml or .json."
        problems.insert(0, Problem(str(path), "is not a recipe by its name.", fix))
    if problems:
        raise RecipeError(problems)
    try:
        content = read_text(path, YAML_LIMIT)
        if path.suffix != ".json":
            parse_yaml(content)  # OmegaConf writes aliases out, however much they stand for
        recipe = OmegaConf.create(parse_json(content) if path.suffix == ".json" else content)
        merged: Any = None
        if OmegaConf.is_dict(recipe):
            merged = OmegaConf.to_container(OmegaConf.merge(recipe, OmegaConf.from_cli(list(overrides))))
    except FileNotFoundError as error:
        fix = f"Paths are relative to the folder you start from ({Path.cwd()})."
        raise RecipeError(Problem(str(path), "does not exist.", fix)) from error
    except (OSError, OutsideError) as error:
        raise RecipeError(Problem(str(path), f"cannot be read ({error}).", "Check the file.")) from error
    except (ValueError, YAMLError, OmegaConfBaseException) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise RecipeError(Problem(str(path), f"is not valid {kind}: {error}", "Fix the file.")) from error
    if not isinstance(merged, dict):
        raise RecipeError(Problem(str(path), "does not contain keys and values.", "A recipe is a mapping."))
    return {str(key): value for key, value in merged.items()}


def read_stream_recipe(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """As `read_recipe`, but the recipe must have a ``cl`` block and an ``output_dir``.

    Raises:
        RecipeError: If it has not.
    """
    from ..contract.host import has_encoders

    recipe = read_recipe(path, overrides)
    problems = []
    if "cl" not in recipe and has_encoders(recipe):
        problems.append(Problem(str(path), "has no `cl:` block.", "Add one, with `stream` and `method`."))
    elif "cl" not in recipe:
        fix = "Add one, or train it with `llamafactory-cli train`."
        problems.append(Problem(str(path), "has no `cl:` block: it is a plain LLaMA-Factory recipe.", fix))
    if not isinstance(recipe.get("output_dir"), str):
        problems.append(Problem(f"{path}: output_dir", "is missing.", "Name the directory of the run."))
    if problems:
        raise RecipeError(problems)
    return recipe
