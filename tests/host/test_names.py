from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cl_plugins
from cl_plugins.base.errors import CompatibilityError
from cl_plugins.host import activation, names


PACKAGE = Path(cl_plugins.__file__).parent


def _host_imports() -> set[tuple[str, str, str]]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            absolute = isinstance(node, ast.ImportFrom) and node.level == 0
            if absolute and (node.module or "").split(".")[0] == "llamafactory":
                found |= {(path.relative_to(PACKAGE).as_posix(), node.module, alias.name) for alias in node.names}
            if isinstance(node, ast.Import):
                found |= {(path.name, a.name, "") for a in node.names if a.name.split(".")[0] == "llamafactory"}
    return found


def test_every_name_is_there_in_the_installed_version():
    assert names.missing(load=True) == []
    names.require(load=True)
    assert names.installed_version() in names.SUPPORTED_VERSIONS


def test_only_the_host_room_imports_the_host_and_every_name_it_imports_is_listed():
    """`testing` starts runs as a user does, and imports nothing else of the host."""
    found = _host_imports()
    started = {(module, name) for file, module, name in found if file.startswith("testing/")}
    assert started == {("llamafactory.train.tuner", "run_exp")}
    imports = {item for item in found if not item[0].startswith("testing/")}
    assert {file.split("/")[0] for file, _, _ in imports} == {"host"}
    listed = {(entry.module, entry.name) for entry in names.NAMES}
    modules = {entry.module for entry in names.NAMES}
    argument_classes = {entry.name for entry in names.NAMES if entry.name.endswith("Arguments")} | {"get_train_args"}
    for file, module, name in sorted(imports):
        if module.startswith("llamafactory.hparams"):  # the same objects, also under the package and their own modules
            assert name in argument_classes | {"parser"}, (file, module, name)
        else:
            assert (module, name) in listed or f"{module}.{name}" in modules, (file, module, name)


def test_a_name_that_has_moved_is_one_error_with_versions_and_only_when_cl_is_used(recipe, plain_recipe, monkeypatch):
    from llamafactory.hparams import get_train_args
    from llamafactory.model import adapter
    from llamafactory.train import sft

    activation.activate()
    monkeypatch.delattr(adapter, "init_adapter")
    monkeypatch.delattr(sft, "run_sft")
    with pytest.raises(CompatibilityError) as caught:
        get_train_args({**plain_recipe, "dataset": None, "cl": {"stream": "x", "method": {"name": "y"}}})
    message = str(caught.value)
    assert [problem.where for problem in caught.value.problems] == [
        "llamafactory.model.adapter.init_adapter",
        "llamafactory.train.sft.run_sft",
    ]
    assert names.installed_version() in message
    assert all(version in message for version in names.SUPPORTED_VERSIONS)
    assert get_train_args(plain_recipe)[1].dataset == ["alpaca_en_demo", "other"]
