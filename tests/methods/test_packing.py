"""Rows of several samples, and methods that look at single ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
from method_cases import CASES, mapping_of

from cl_plugins.base.errors import CompatibilityError, RecipeError
from cl_plugins.callbacks.given import check_rows
from cl_plugins.contract.capabilities import Capabilities, RunFacts
from cl_plugins.host.facts import packing_problems
from cl_plugins.methods.registry import make_method
from cl_plugins.streams import Stream, Task


#: Methods that choose for every sample, or measure single ones; of the others some do with a selector.
CHOOSE = {"branchlora", "clmoe", "disco", "ewc", "hide", "l2p", "modalprompt", "mr_lora", "smolora"}
WITH_SELECTOR = [
    {"name": name, "selector": {"kind": kind, "features": ["text"]}}
    for name in ("hide", "single_task", "mslora_cr")
    for kind in ("keys", "anchors", "ridge")
]
METHODS = [*(case.method for case in CASES), *WITH_SELECTOR]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: " ".join(map(str, m.values()))[:60])
def test_what_looks_at_single_samples_is_refused(method, llama, text_data, tmp_path):
    recipe = tiny.recipe(llama, text_data, tmp_path / "run", method, text_only=True, packing=True)
    try:
        tiny.checked(recipe)
        said = ""
    except RecipeError as error:
        said = str(error)
    looks = method["name"] in CHOOSE or method.get("selector") is not None
    assert ("looks at single samples" in said) == looks


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"neat_packing": True}, "neat_packing"),
        ({"cl": {"task_overrides": {"two": {"packing": True}}}}, r"packing \(task 'two'\)"),
    ],
)
def test_both_ways_of_packing_and_a_single_task(more, where, llama, text_data, tmp_path):
    recipe = tiny.recipe(llama, text_data, tmp_path / "run", mapping_of("l2p"), text_only=True, **more)
    with pytest.raises(RecipeError, match=where):
        tiny.checked(recipe)


@pytest.mark.parametrize(
    ("able", "refused"),
    [
        (Capabilities(), False),
        (Capabilities(rows_in_training=True), True),
        (Capabilities(answers="by_sample"), True),
        (Capabilities(answers="by_sample", per_sample=False), False),
        (Capabilities(rows_in_training=True, per_sample=False), True),
        (Capabilities(per_sample=True), True),
    ],
)
def test_methods_of_other_packages_are_told_by_what_they_declare(able, refused):
    stream = Stream("s", (Task("one"), Task("two")))
    facts = RunFacts("lora", stream, keys={"packing": True})
    assert bool(packing_problems("mine", able, facts)) == refused


@pytest.mark.parametrize("key", ["packing", "padding_free"])
def test_trainers_of_ones_own(key):
    args = SimpleNamespace(**{key: True})
    with pytest.raises(CompatibilityError, match=key):
        check_rows(args, make_method("l2p", {}))
    check_rows(args, make_method("seqlora", {}))
