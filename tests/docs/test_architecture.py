"""The pages for developers say what the code and its import rules are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "cl_plugins"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
LAYERS = [re.split(r"\s*([|:])\s*", layer) for layer in CONTRACTS["layers"]["layers"]]
PACKAGES = {
    path.stem for path in SOURCE.iterdir() if (path.is_dir() or path.suffix == ".py") and not path.stem.startswith("_")
}


def part(name):
    return PAGE.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


def names(words):
    return re.findall(r"`([^`]+)`", words)


def table():
    """Package to what the page says that it may import."""
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in part("packages").splitlines()[2:]]
    assert all(len(row) == 3 and row[1] for row in rows)
    return {names(package)[0]: allowed for package, _, allowed in rows}


def test_the_table_is_the_configuration():
    """One row per package, highest layer first; what it may import is what import-linter allows."""
    order = [name for layer in LAYERS for name in layer[::2]]
    shown = table()
    assert list(shown) == order
    for number, layer in enumerate(LAYERS):
        members, separators = layer[::2], set(layer[1::2])
        assert len(separators) <= 1
        for name in members:
            beside = sorted(set(members) - {name}) if separators == {":"} else []
            if name == "data":
                forbidden = {module.removeprefix("cl_plugins.") for module in CONTRACTS["data"]["forbidden_modules"]}
                lower = {other for below in LAYERS[number + 1 :] for other in below[::2]}
                assert names(shown[name]) == sorted(lower - forbidden)
            elif number == len(LAYERS) - 1:
                assert shown[name] == "nothing"
            else:
                assert shown[name] == ", ".join(["all lower layers", *(f"`{other}`" for other in beside)])


def test_every_package_has_a_layer_and_a_rule_on_llamafactory():
    assert set(table()) == PACKAGES
    assert {module.removeprefix("cl_plugins.") for module in CONTRACTS["llamafactory"]["source_modules"]} == (
        PACKAGES - {"host", "testing"}
    )


def test_the_exceptions_are_those_of_the_configuration():
    assert names(part("exceptions")) == CONTRACTS["layers"]["ignore_imports"]
    assert not any("ignore_imports" in contract for key, contract in CONTRACTS.items() if key != "layers")


@pytest.mark.parametrize("page", ["reading.md", "architecture.md"])
def test_files_that_the_pages_name_exist(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.py|(?:\w+/)+)`", text)) - {"final/", "tasks/NN_name/"}
    assert [name for name in sorted(named) if not (SOURCE / name).exists()] == []
    assert len(named) > 20 or page != "reading.md"


def test_the_way_through_a_run_fits_two_screens():
    assert len((ROOT / "docs" / "reading.md").read_text(encoding="utf-8").splitlines()) <= 80
