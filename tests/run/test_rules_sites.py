"""One task at a time, on machines that share nothing but the carry."""

from __future__ import annotations

import shutil

import pytest
import tiny
from running import copy_of, go, load, predictions, recipe, steps, weights

from cl_plugins.base.errors import RecipeError


TASKS = ("one", "two", "three")


def site(base, data, place, task, carry=None, method="inclora", tested=TASKS, **more):
    """The recipe of one site: its own base and data; training sets of other tasks are named and not there."""
    stream = tiny.stream(TASKS)
    for entry in stream["tasks"]:
        if entry["name"] not in tested:
            del entry["test"]
    block = {"only": task, "stream": stream}
    if carry is not None:
        block["carry_from"] = str(carry)
    return recipe(base, data, place / "run", method, TASKS, cl=block, **more)


def moved_carry(run, place):
    """The carry travels alone; what it came from is gone."""
    carry = copy_of(run / "carry", place / "received" / "carry")
    shutil.rmtree(run / "tasks")
    return carry.parent


@pytest.fixture(scope="module", params=["inclora", "seqlora"])
def chain(request, llama, text_data, tmp_path_factory):
    """One run of all three tasks, and the same over three sites."""
    method = request.param
    root = tmp_path_factory.mktemp(method)
    go(recipe(llama, text_data, root / "all", method, TASKS))
    carry = None
    places = []
    for number, task in enumerate(TASKS):
        place = root / f"site_{number}"
        place.mkdir()
        base = copy_of(llama, place / "base")
        data = copy_of(text_data, place / "data")
        if number:
            carry = moved_carry(places[-1] / "run", place)
        for other in TASKS:
            if other != task:
                (data / f"{other}_train.json").unlink()
        tested = TASKS if number < 2 else ("two", "three")  # the last site may not see the first test set
        go(site(base, data, place, task, carry, method, tested))
        places.append(place)
    return root / "all", [place / "run" for place in places]


def test_the_chain_over_three_sites_equals_one_run(chain):
    whole, runs = chain
    assert weights(runs[-1]) == weights(whole)
    assert load(runs[-1], "carry/carry.json")["tasks"] == list(TASKS)
    expected = predictions(whole)
    for run in runs:
        found = predictions(run)
        assert found
        assert {name: expected[name] for name in found} == found


def test_each_site_measures_what_it_can_and_says_what_it_cannot(chain):
    whole, runs = chain
    full = load(whole, "matrix.json")
    for number, run in enumerate(runs):
        matrix = load(run, "matrix.json")
        assert matrix["tasks"] == list(TASKS)
        row = matrix["scores"][matrix["rows"].index(f"after_{TASKS[number]}")]
        expected = [full["scores"][number][j] if j <= number else None for j in range(3)]
        if number == 2:
            expected[0] = None
        assert row == expected
        for name, metric in load(run, "metrics.json")["metrics"].items():
            if metric.get("value", metric.get("values")) is None:
                assert metric["reason"], name
    assert load(runs[1], "metrics.json")["metrics"]["bwt"]["value"] is None


def test_a_sites_run_is_finished_and_stays_so(chain, llama, text_data):
    _, runs = chain
    assert steps(runs[1]) == [
        "train:two",
        "consolidate:two",
        "evaluate:after_two:one",
        "evaluate:after_two:two",
        "finish",
    ]
    record = load(runs[1], "run.json")
    assert set(record["data"]) == {"two_train", "one_test", "two_test", "three_test"}


def test_only_without_a_carry_begins_with_the_first_task(llama, text_data, tmp_path):
    with pytest.raises(RecipeError, match="carry_from"):
        go(site(llama, text_data, tmp_path, "two"))


def test_a_carry_stands_for_itself_when_its_run_goes_on(llama, text_data, tmp_path):
    """Site B takes the carry of a run directory; the directory as such and its carry are accepted alike."""
    go(site(llama, text_data, tmp_path / "a", "one", max_steps=1))
    first = tmp_path / "a" / "run"
    for name, source in (("b", first), ("c", first / "carry")):
        go(site(llama, text_data, tmp_path / name, "two", source, max_steps=1))
    assert weights(tmp_path / "b" / "run") == weights(tmp_path / "c" / "run")
