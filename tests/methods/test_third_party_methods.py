"""A routed method of another package passes the shared tests; one that forgets its router is refused by name."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import tiny
from running import NO_TESTS, go, recipe

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.methods.registry import METHODS
from cl_plugins.testing import MethodCase, check_method


FOLDER = Path(__file__).parents[1] / "third_party_methods"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The package, as if it had been installed."""
    monkeypatch.syspath_prepend(str(FOLDER))
    importlib.invalidate_caches()
    METHODS.refresh()
    yield
    for name in [n for n in sys.modules if n.startswith("lab_methods")]:
        del sys.modules[name]
    METHODS.refresh()


def test_a_routed_method_passes_the_shared_tests(tmp_path):
    check_method(MethodCase("lab_moe", {"name": "lab_moe"}, {"additional_target": None}, boundary=0.0), tmp_path)


def test_a_router_that_is_not_saved_is_refused_by_name_before_the_first_step(llama, text_data, tmp_path):
    with pytest.raises(CompatibilityError, match=r"lab_forgetful.*cl_router"):
        go(recipe(llama, text_data, tmp_path / "run", "lab_forgetful", cl=NO_TESTS))
    assert not list((tmp_path / "run").rglob("update.safetensors"))


def test_numbers_stand_in_the_journal(llama, text_data, tmp_path):
    go(recipe(llama, text_data, tmp_path / "run", "lab_moe", cl=NO_TESTS))
    entries = [json.loads(line) for line in (tmp_path / "run" / "journal.jsonl").read_text().splitlines()]
    found = [entry["details"]["numbers"]["router_norm"] for entry in entries if entry["step"].startswith("train:")]
    assert len(found) == 2
    assert found[0] > 0
    assert found[0] != found[1]


def test_routers_learn_at_a_rate_of_their_own(llama, text_data, tmp_path):
    """With plain SGD and one step the change is the rate times the gradient: twice that of a factor of one."""
    from lab_methods.moe import LabMoE
    from safetensors.torch import load_file

    def changes(factor):
        LabMoE.learning_rates = lambda self, context, model: {".cl_router": factor} if factor else {}
        out = tmp_path / f"factor{factor}"
        keys = {"optim": "sgd", "max_steps": 1, "lr_scheduler_type": "constant"}
        go(recipe(llama, text_data, out, "lab_moe", ("one",), cl=NO_TESTS, **keys))
        return load_file(out / "tasks" / "01_one" / "update.safetensors")

    start, once, twice = changes(0.0), changes(1.0), changes(2.0)
    names = [name for name in once if name.endswith(".cl_router")]
    assert names
    import torch

    for name in names:  # a factor of 0 is none at all
        assert torch.equal(start[name], once[name])
    assert not all(torch.equal(once[name], twice[name]) for name in names)
    assert all(torch.equal(once[n], twice[n]) for n in once if n not in names)


def test_tiny_is_what_the_tests_use():
    assert tiny.recipe is importlib.import_module("cl_plugins.testing.tiny").recipe
