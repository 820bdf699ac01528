"""One task at a time, on machines that share nothing but the carry."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import sealed
import tiny
from running import copy_of, go, load, predictions, recipe, steps, weights

from cl_plugins.base.errors import RecipeError, RunStateError
from cl_plugins.run.journal import Journal


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
        "evaluate:zero_shot:two",
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


@pytest.fixture(scope="module")
def first(llama, text_data, tmp_path_factory):
    """Two first sites of one stream that have learned the first task differently."""
    root = tmp_path_factory.mktemp("first")
    for name, rate in (("a", 1e-3), ("b", 2e-3)):
        go(site(llama, text_data, root / name, "one", max_steps=1, learning_rate=rate))
    return root


def test_a_run_does_not_go_on_with_another_carry_than_it_began_with(first, llama, text_data, tmp_path):
    received = copy_of(first / "a/run/carry", tmp_path / "received/carry")
    keys = site(llama, text_data, tmp_path, "two", received.parent, max_steps=1)
    keys["cl"]["stop_after"] = 1
    go(keys)
    assert load(tmp_path / "run", "run.json")["began_with"]["tasks"] == ["one"]
    shutil.rmtree(received)
    copy_of(first / "b/run/carry", received)
    del keys["cl"]["stop_after"]
    before = steps(tmp_path / "run")
    with pytest.raises(RunStateError, match=r"cl\.carry_from: .* is not the carry"):
        go(keys)
    assert steps(tmp_path / "run") == before
    keys["cl"]["carry_from"] = str(copy_of(first / "a/run/carry", tmp_path / "elsewhere"))  # the same, moved
    go(keys)
    assert steps(tmp_path / "run")[-1] == "finish"


def swapped(base, place):
    """The base with two ids of its tokenizer swapped."""
    copy = copy_of(base, place)
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    one, two = sorted(vocab, key=vocab.get)[-2:]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    path.write_text(json.dumps(content))
    return copy


def test_a_tokenizer_with_other_ids_is_refused_and_one_that_was_written_anew_is_not(first, llama, text_data, tmp_path):
    with pytest.raises(RunStateError, match="a tokenizer that produces other ids"):
        go(site(swapped(llama, tmp_path / "other"), text_data, tmp_path / "x", "two", first / "a/run", max_steps=1))
    same = copy_of(llama, tmp_path / "same")
    path = same / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    go(site(same, text_data, tmp_path / "y", "two", first / "a/run", max_steps=1))


def test_another_end_of_answers_at_the_next_site_is_refused(first, llama, text_data, tmp_path):
    other = copy_of(llama, tmp_path / "other")
    path = other / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "."}))
    with pytest.raises(RunStateError, match=r"other settings of the base: special_tokens\.eos_token \('</s>' there"):
        go(site(other, text_data, tmp_path / "x", "two", first / "a/run", max_steps=1))


def test_a_carry_with_tasks_that_the_stream_does_not_have(first, llama, text_data, tmp_path):
    received = copy_of(first / "a/run/carry", tmp_path / "received")

    def change(content):
        content["tasks"] = ["somewhere_else"]
        content["meta"]["updates"][0]["task"] = "somewhere_else"

    sealed.edit(received / "carry.json", change)
    with pytest.raises(RecipeError, match=r"the stream 'tiny' does not have: somewhere_else"):
        go(site(llama, text_data, tmp_path, "two", received, max_steps=1))
    sealed.edit(received / "carry.json", lambda content: content.update(tasks=[]))
    with pytest.raises(RunStateError, match="'tasks' is"):
        go(site(llama, text_data, tmp_path, "two", received, max_steps=1))


def test_a_task_that_only_skips_is_remarked(first, llama, text_data, tmp_path, caplog):
    go(site(llama, text_data, tmp_path, "three", first / "a/run", max_steps=1))
    remark = "The stream has two before three; the model was not trained on it."
    assert remark in load(tmp_path / "run", "run.json")["notes"]
    assert remark in caplog.text
    go(site(llama, text_data, tmp_path / "next", "two", first / "a/run", max_steps=1))
    assert not any("was not trained on" in note for note in load(tmp_path / "next/run", "run.json")["notes"])


def test_another_number_of_processes_is_remarked_and_in_the_journal(llama, text_data, tmp_path):
    keys = recipe(llama, text_data, tmp_path, cl={"stop_after": 5}, max_steps=1)
    go(keys)
    journal = Journal(tmp_path)
    entry = journal.entries["train:one"]
    assert entry.details["processes"] == 1
    journal.add("train:one", entry.seconds, entry.artefacts, **entry.details | {"processes": 2})
    journal.rewrite()
    go(keys)
    said = [note for note in load(tmp_path, "run.json")["notes"] if "numbers of processes" in note]
    assert len(said) == 1
    assert said[0].endswith("one by 2, two by 1.")


DAMAGE = ["update.safetensors", "update.json"]


@pytest.mark.parametrize("name", DAMAGE)
def test_an_update_that_was_changed_with_its_time_kept_is_not_learned_from(name, llama, text_data, tmp_path):
    keys = recipe(llama, text_data, tmp_path, cl={"stop_after": 3, "eval": {"scope": "seen"}}, max_steps=1)
    go(keys)
    assert steps(tmp_path)[-1] == "train:one"
    path = tmp_path / "tasks/01_one" / name
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(RunStateError, match=rf"{name}: differs from its hash in journal\.jsonl"):
        go(keys)
    assert steps(tmp_path)[-1] == "train:one"
    assert not (tmp_path / "carry").exists()
