"""What goes wrong when a run is under way: the error says what to do, and what was finished is still there."""

from __future__ import annotations

import json

import pytest
import tiny
from running import (
    NO_TESTS,
    changed,
    copy_of,
    digest,
    files,
    go,
    half_written,
    journal,
    load,
    predictions,
    recipe,
    steps,
    weights,
)

from cl_plugins.base.errors import ClPluginsError, DataError, RecipeError, RunStateError, TrainingError


@pytest.fixture(scope="module")
def clean(llama, text_data, tmp_path_factory):
    """A run in which nothing goes wrong."""
    out = tmp_path_factory.mktemp("clean") / "run"
    go(recipe(llama, text_data, out))
    return out


@pytest.fixture
def own_data(text_data, tmp_path):
    return copy_of(text_data, tmp_path / "data")


def fails(keys, kind, *said):
    with pytest.raises(ClPluginsError) as caught:
        go(keys)
    assert type(caught.value) is kind, repr(caught.value)
    for text in said:
        assert text in str(caught.value)
    assert all(p.where and p.what and p.fix for p in caught.value.problems)


def first_task_is_whole(out):
    """Everything of task one is in the journal with its bytes, and nothing of task two."""
    assert steps(out)[-3:] == ["train:one", "consolidate:one", "evaluate:after_one:one"]
    for entry in journal(out):
        for name, record in entry["artefacts"].items():
            assert digest(out / name) == record["sha256"]
    assert not half_written(out)
    assert load(out, "matrix.json")["scores"][0][0] is not None


def goes_on_as_if_nothing_had_happened(keys, out, clean):
    begun = (out / "journal.jsonl").exists()
    times = {entry["step"]: entry["time"] for entry in journal(out)} if begun else {}
    go(keys)
    assert {e["step"]: e["time"] for e in journal(out) if e["step"] in times} == times  # nothing is done twice
    assert steps(out) == steps(clean)
    assert predictions(out) == predictions(clean)
    assert weights(out) == weights(clean)
    assert load(out, "matrix.json") == load(clean, "matrix.json")
    assert "failed" not in load(out, "run.json")


BAD_KEYS = {
    "learning rate of nothing": ({"learning_rate": 0.0}, TrainingError, ("changed no weight", "learning_rate")),
    "loss that is no number": (
        {"learning_rate": 1e30, "max_steps": 4},
        TrainingError,
        ("the loss is nan", "learning_rate"),
    ),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_keys_of_the_second_task_are_mended_and_the_run_goes_on(llama, text_data, tmp_path, clean, case):
    bad, kind, said = BAD_KEYS[case]
    out = tmp_path / "run"
    fails(recipe(llama, text_data, out, cl={"task_overrides": {"two": bad}}), kind, "task 'two'", *said)
    first_task_is_whole(out)
    failed = load(out, "run.json")["failed"]
    assert failed["step"] == "train:two"
    assert said[0] in failed["error"]
    # what belongs to the finished task may not be changed along with it
    fails(recipe(llama, text_data, out, cl={"task_overrides": {"one": bad}}), RunStateError, "another recipe")
    goes_on_as_if_nothing_had_happened(recipe(llama, text_data, out), out, clean)


def test_data_of_the_second_task_are_looked_at_before_the_first(llama, own_data, tmp_path, clean):
    out = tmp_path / "run"
    records = json.loads((own_data / "two_train.json").read_text())
    questions = [{**record, "messages": record["messages"][:1]} for record in records]
    keys = recipe(llama, own_data, out)
    with changed(own_data / "two_train.json", json.dumps(questions)):
        fails(keys, DataError, "task 'two'", "two_train")
    assert not (out / "journal.jsonl").exists()
    goes_on_as_if_nothing_had_happened(keys, out, clean)


def test_data_of_the_second_task_are_mended_and_the_run_goes_on(llama, own_data, tmp_path, clean, monkeypatch):
    """A fault that no check has seen."""
    monkeypatch.setattr("cl_plugins.run.state.RunState.keep_training_set", lambda *args: None)
    out = tmp_path / "run"
    records = json.loads((own_data / "two_train.json").read_text())
    questions = [{**record, "messages": record["messages"][:1]} for record in records]
    keys = recipe(llama, own_data, out)
    with changed(own_data / "two_train.json", json.dumps(questions)):
        fails(keys, DataError, "task 'two'", "two_train")
        first_task_is_whole(out)
    goes_on_as_if_nothing_had_happened(keys, out, clean)


def test_before_anything_is_finished_the_recipe_may_be_mended(llama, text_data, tmp_path):
    """A directory in which nothing stands yet belongs to no recipe."""
    out = tmp_path / "run"
    fails(recipe(llama, text_data, out, cutoff_len=8), DataError, "cutoff_len: 8", "task 'one'", "task 'two'")
    go(recipe(llama, text_data, out, tasks=("one",), max_steps=1))
    assert steps(out)[-1] == "finish"


def test_the_first_task_fails_after_the_zero_shot_row(llama, text_data, tmp_path):
    out = tmp_path / "run"
    fails(recipe(llama, text_data, out, tasks=("one",), learning_rate=0.0), TrainingError, "changed no weight")
    zero_shot = journal(out)
    assert [entry["step"] for entry in zero_shot] == ["evaluate:zero_shot:one"]
    go(recipe(llama, text_data, out, tasks=("one",), learning_rate=1e-3))
    assert journal(out)[:1] == zero_shot
    assert steps(out)[-1] == "finish"


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_broken_training_picture(llava, data, tmp_path):
    folder = copy_of(data, tmp_path / "data")
    out = tmp_path / "run"
    keys = tiny.recipe(llava, folder, out, tasks=("one", "two"), max_steps=2)
    with changed(folder / "images" / "two_train_3.png", "not a picture"):
        fails(keys, DataError, "two_train_3.png", "task 'two'")
    assert not (out / "journal.jsonl").exists()
    go(keys)
    assert steps(out)[-1] == "finish"


def test_broken_test_pictures_duplicate_ids_and_long_prompts_before_any_training(llava, data, tmp_path):
    folder = copy_of(data, tmp_path / "data")
    records = json.loads((folder / "two_test.json").read_text())
    records[1]["id"] = records[4]["id"] = records[0]["id"]
    (folder / "two_test.json").write_text(json.dumps(records))
    keys = tiny.recipe(llava, folder, tmp_path / "run", max_steps=2)
    with changed(folder / "images" / "one_test_2.png", "not a picture"):
        fails(keys, DataError, "data set 'one_test', record 2", "task 'two'", "2 ids", "'two-test-0'")
    assert not (tmp_path / "run" / "journal.jsonl").exists()
    fails({**keys, "dataset_dir": str(data), "cutoff_len": 20}, DataError, "6 of 6 test prompts", "pictures included")


def test_a_cutoff_smaller_than_the_pictures_in_training(llava, data, tmp_path):
    keys = tiny.recipe(llava, data, tmp_path / "run", max_steps=2, cutoff_len=10, cl=NO_TESTS)
    fails(keys, DataError, "4 picture tokens", "cutoff_len: 10", "task 'one'")


def test_a_cutoff_that_leaves_no_answer(llama, text_data, tmp_path):
    """Without a label the loss is no number, and nobody would look for the reason in `cutoff_len`."""
    cl = {"task_overrides": {"two": {"cutoff_len": 4}}, **NO_TESTS}
    fails(
        recipe(llama, text_data, tmp_path / "run", cl=cl),
        DataError,
        "task 'two'",
        "no token of the answer",
        "cutoff_len: 4",
    )


def test_a_number_of_pictures_that_does_not_fit_the_text(llava, data, tmp_path):
    folder = copy_of(data, tmp_path / "data")
    records = json.loads((folder / "one_train.json").read_text())
    records[5]["messages"][0]["value"] = "no picture here"
    (folder / "one_train.json").write_text(json.dumps(records))
    fails(tiny.recipe(llava, folder, tmp_path / "run", cl=NO_TESTS), DataError, "one_train", "<image>")


# --- what is trained --------------------------------------------------------------------------------------------------


def test_a_projector_that_no_picture_reaches(llava, text_data, tmp_path, monkeypatch):
    """The guard behind the check of the data."""
    monkeypatch.setattr("cl_plugins.host.session.Session._check_projectors", lambda *args: None)
    keys = tiny.recipe(llava, text_data, tmp_path / "run", tasks=("one",), max_steps=2, cl=NO_TESTS)
    fails(keys, TrainingError, "multi_modal_projector", "did not change it", "<image>")


@pytest.mark.parametrize(
    ("keys", "guard"),
    [
        ({"additional_target": "no_such_module"}, TrainingError),
        ({"lora_target": "no_such_layer"}, RecipeError),
    ],
)
def test_modules_that_the_model_lacks(llama, text_data, tmp_path, monkeypatch, keys, guard):
    """By the check, and where the base could not be built from its config, by the guard."""
    made, name = recipe(llama, text_data, tmp_path / "run", cl=NO_TESTS, **keys), next(iter(keys.values()))
    fails(made, RecipeError, name)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("cl_plugins.host.llama_factory.LlamaFactoryHost.base_problems", lambda *args: [])
    fails(made, guard, name)


def test_nothing_to_train(llama, text_data, tmp_path, monkeypatch):
    from cl_plugins.methods.seqlora import SeqLoRA

    begin = SeqLoRA.begin_task
    monkeypatch.setattr(SeqLoRA, "begin_task", lambda *args: begin(*args).requires_grad_(False))
    fails(recipe(llama, text_data, tmp_path / "run", "seqlora", cl=NO_TESTS), TrainingError, "nothing is trainable")


def test_a_base_with_an_infinite_weight(llama, text_data, tmp_path):
    from safetensors.torch import load_file, save_file

    base = copy_of(llama, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"][3, 3] = float("inf")
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    fails(recipe(base, text_data, tmp_path / "run", cl=NO_TESTS), TrainingError, "the loss is nan at step 2")
    # no later loss shows what the last step did to the weights
    last = recipe(base, text_data, tmp_path / "short", cl=NO_TESTS, max_steps=1)
    fails(last, TrainingError, "not finite after training", "task 'one'")
    assert not list((tmp_path / "short").rglob("*.safetensors"))


# --- carries ----------------------------------------------------------------------------------------------------------


def from_carry(llama, text_data, source, tmp_path, method="inclora", **more):
    block = {"only": "three", "carry_from": str(source), **NO_TESTS}
    return recipe(llama, text_data, tmp_path / "site", method, ("one", "two", "three"), cl=block, **more)


def test_carries_that_must_not_be_used(llama, text_data, tmp_path, clean):
    taken = copy_of(clean / "carry", tmp_path / "carry")
    fails(from_carry(llama, text_data, tmp_path / "nowhere", tmp_path), RunStateError, "holds no carry")
    fails(from_carry(llama, text_data, taken, tmp_path, "seqlora"), RecipeError, "made by 'inclora'")
    other = tiny.build_llama(tmp_path / "other", seed=5)
    fails(from_carry(other, text_data, taken, tmp_path), RunStateError, "another base")
    again = from_carry(llama, text_data, taken, tmp_path)
    again["cl"]["only"] = "two"
    fails(again, RecipeError, "already contains task 'two'")
    update = taken / "updates" / "01_one.safetensors"
    whole = update.read_bytes()
    with changed(update, whole[:-1] + bytes([whole[-1] ^ 1])):
        fails(
            from_carry(llama, text_data, taken, tmp_path), RunStateError, "01_one.safetensors", "differs from its hash"
        )
    with changed(update, None):
        fails(from_carry(llama, text_data, taken, tmp_path), RunStateError, "01_one.safetensors", "is missing")
    with changed(taken / "carry.json", "{"):
        fails(from_carry(llama, text_data, taken, tmp_path), RunStateError, "carry.json", "not JSON")
    assert not (tmp_path / "site" / "journal.jsonl").exists()


def test_an_adapter_is_not_taken_over_with_another_rank_or_scaling(llama, text_data, tmp_path):
    first = recipe(llama, text_data, tmp_path / "first", "seqlora", cl={"only": "one", **NO_TESTS}, max_steps=1)
    go(first)
    for keys, said in (({"lora_rank": 2}, "lora_rank"), ({"lora_alpha": 99}, "lora_alpha")):
        fails(from_carry(llama, text_data, tmp_path / "first", tmp_path, "seqlora", **keys), RunStateError, said)


@pytest.mark.parametrize(
    "name", ["carry/updates/01_one.safetensors", "predictions/after_one/one.jsonl", "run.json", "journal.jsonl"]
)
def test_damaged_files_of_the_runs_own_directory(llama, text_data, tmp_path, clean, name):
    """They are named, and nothing is computed on top of them or written over them."""
    out = copy_of(clean, tmp_path / "run")
    path = out / name
    damaged = path.read_bytes()[:-20]
    path.unlink()  # a hard link of the update
    path.write_bytes(damaged)
    if name.startswith("carry"):
        (out / "tasks" / "01_one" / "update.safetensors").unlink()
    before = files(out)
    keys = recipe(llama, text_data, out, tasks=("one", "two", "three"))
    with pytest.raises(RunStateError) as caught:
        go(keys)
    assert "update.safetensors" in str(caught.value) if name.startswith("carry") else name in str(caught.value)
    assert files(out) == before
