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
    check_method(MethodCase("lab_moe", {"name": "lab_moe"}, boundary=0.0), tmp_path)


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
    from transformers import TrainerCallback

    rates = {}

    class Look(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            names = {id(p): name.rpartition(".")[2] for name, p in model.named_parameters()}
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    rates.setdefault(names[id(parameter)], set()).add(group["lr"])

    keys = {"max_steps": 1, "lr_scheduler_type": "constant", "learning_rate": 1e-2}
    go(recipe(llama, text_data, tmp_path / "run", "lab_moe", ("one",), cl=NO_TESTS, **keys), [Look()])
    assert rates == {"cl_a": {1e-2}, "cl_b": {1e-2}, "cl_router": {2e-2}}


def test_tiny_is_what_the_tests_use():
    assert tiny.recipe is importlib.import_module("cl_plugins.testing.tiny").recipe


def test_numbers_stand_in_the_report(llama, text_data, tmp_path):
    from cl_plugins.report import write_report

    out = tmp_path / "run"
    go(recipe(llama, text_data, out, "lab_moe", cl={"eval": {"max_items": 2}}))
    entries = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    wanted = [f"{e['details']['numbers']['router_norm']:.4g}" for e in entries if e["step"].startswith("train:")]
    write_report(out)
    for name in ("report.md", "report.html"):
        page = (out / name).read_text()
        assert "What the method has measured" in page
        assert all(number in page for number in wanted)
