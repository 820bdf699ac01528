"""The rules of a run: one directory, one recipe, going on, starting anew, appending, what is kept and what is measured."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import sealed
import tiny
from running import (
    NO_TESTS,
    changed,
    copy_of,
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

from cl_plugins.base.errors import RunStateError


THREE = ("one", "two", "three")


@pytest.fixture(scope="module")
def finished(llama, text_data, tmp_path_factory):
    """Finished runs of three tasks by method; only to be read."""
    made = {}

    def get(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(method) / "run"
            go(recipe(llama, text_data, made[method], method, THREE))
        return made[method]

    return get


@pytest.fixture
def log(monkeypatch):
    """What the run said."""
    monkeypatch.setattr(logging.getLogger("cl_plugins"), "propagate", False)
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))

    handler = Lines()
    logging.getLogger("cl_plugins").addHandler(handler)
    yield lines
    logging.getLogger("cl_plugins").removeHandler(handler)


def equal(a, b, folder="final"):
    assert steps(a) == steps(b)
    assert predictions(a) == predictions(b)
    assert load(a, "matrix.json") == load(b, "matrix.json")
    assert load(a, "metrics.json") == load(b, "metrics.json")
    assert weights(a) == weights(b)


# --- one directory, one run, one recipe -------------------------------------------------------------------------------


def test_a_second_run_on_one_directory_is_refused(llama, text_data, tmp_path):
    from cl_plugins.base.lock import RunLock

    out = tmp_path / "run"
    with RunLock(out), pytest.raises(RunStateError, match=r"in use by process \d+ on \S+, started"):
        go(recipe(llama, text_data, out))
    assert [p.name for p in out.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("keys", "cl", "shown"),
    [
        ({"learning_rate": 5e-3}, {}, "learning_rate: 0.01 before, 0.005 now"),
        ({"lora_rank": 2}, {}, "lora_rank: 4 before, 2 now"),
        ({}, {"eval": {"max_items": 3}}, "cl.eval.max_items: null before, 3 now"),
        (
            {},
            {"method": {"name": "inclora", "consolidate": "stack"}},
            'cl.method.consolidate: not set before, "stack" now',
        ),
        (
            {},
            {"task_overrides": {"three": {"max_steps": 1}}},
            'cl.task_overrides.three: not set before, {"max_steps": 1} now',
        ),
        ({}, {"order": ["two", "one", "three"]}, "tasks in order: one, two, three before, two, one, three now"),
    ],
)
def test_a_changed_recipe_is_refused_and_every_key_named(llama, text_data, tmp_path, finished, keys, cl, shown):
    out = copy_of(finished("inclora"), tmp_path / "run")
    before = files(out)
    with pytest.raises(RunStateError, match="was made with another recipe") as caught:
        go(recipe(llama, text_data, out, "inclora", THREE, cl=cl, **keys))
    assert f"  {shown}" in str(caught.value).splitlines(), str(caught.value)
    assert files(out) == before


def test_changed_data_are_refused_and_moved_data_are_not(llama, text_data, tmp_path, finished):
    out = copy_of(finished("inclora"), tmp_path / "run")
    before = files(out)
    moved = copy_of(text_data, tmp_path / "moved")
    base = copy_of(llama, tmp_path / "base")
    go(recipe(base, moved, out, "inclora", THREE))
    same = {name for name, digest in files(out).items() if before.get(name) == digest}
    assert {n for n in before if n.startswith(("tasks", "carry", "final", "predictions", "journal"))} <= same
    records = json.loads((moved / "two_train.json").read_text())
    with changed(moved / "two_train.json", json.dumps(records[:-1])), pytest.raises(RunStateError, match="two_train"):
        go(recipe(base, moved, out, "inclora", THREE))
    other = tiny.build_llama(tmp_path / "other", seed=3)
    with pytest.raises(RunStateError, match="sha256"):
        go(recipe(other, moved, out, "inclora", THREE))


def test_what_does_not_change_a_number_may_change_and_versions_only_warn(llama, text_data, tmp_path, finished, log):
    out = copy_of(finished("inclora"), tmp_path / "run")
    sealed.edit(out / "run.json", lambda record: record["versions"].update(torch="1.0"))
    done = journal(out)
    free = {
        "logging_steps": 7,
        "save_strategy": "steps",
        "save_steps": 3,
        "overwrite_output_dir": True,
        "report_to": "none",
    }
    go(recipe(llama, text_data, out, "inclora", THREE, cl={"stop_after": 2}, **free))
    assert journal(out) == done  # overwrite_output_dir stands in most of the host's examples and restarts nothing
    assert any(level == "WARNING" and "torch 1.0 ->" in text for level, text in log)
    assert any("nothing to do" in text for _, text in log)


# --- going on, appending, beginning anew ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["inclora", "seqlora"])
def test_stopping_after_every_step_changes_nothing(llama, text_data, tmp_path, finished, method):
    out = tmp_path / "run"
    plan = steps(finished(method))
    seen = []
    for count in (4, 1, 1, 3, 50):
        go(recipe(llama, text_data, out, method, THREE, cl={"stop_after": count}))
        seen.append(len(steps(out)))
        assert steps(out) == plan[: seen[-1]]
        assert load(out, "matrix.json")["tasks"] == list(THREE)
        assert not half_written(out)
    assert seen == [4, 5, 6, 9, len(plan)]
    equal(out, finished(method))


@pytest.mark.parametrize("method", ["inclora", "seqlora"])
def test_an_appended_task_equals_having_had_it_from_the_start(llama, text_data, tmp_path, finished, method):
    out = tmp_path / "run"
    go(recipe(llama, text_data, out, method, ("one", "two")))
    done = {entry["step"]: entry for entry in journal(out) if entry["step"] != "finish"}
    go(recipe(llama, text_data, out, method, THREE))
    assert {e["step"]: e for e in journal(out) if e["step"] in done} == done
    assert sorted(steps(out)) == sorted(steps(finished(method)))
    assert load(out, "matrix.json") == load(finished(method), "matrix.json")
    assert predictions(out) == predictions(finished(method))
    assert weights(out) == weights(finished(method))
    assert load(out, "final/MANIFEST.json")["tasks"] == list(THREE)
    with pytest.raises(RunStateError, match="only be appended"):
        go(recipe(llama, text_data, out, method, ("one", "two")))


def test_a_task_cannot_be_appended_to_a_finished_joint_training(llama, text_data, tmp_path):
    out = tmp_path / "run"
    go(recipe(llama, text_data, out, "multitask", ("one", "two"), max_steps=1))
    before = files(out)
    with pytest.raises(RunStateError, match=r"all its tasks at once, without three.*Start again with") as error:
        go(recipe(llama, text_data, out, "multitask", THREE, max_steps=1))
    assert files(out) == before
    assert "another `output_dir`" in str(error.value)


def test_a_test_may_be_appended_to_a_finished_joint_training(llama, text_data, tmp_path):
    out = tmp_path / "run"
    go(recipe(llama, text_data, out, "multitask", ("one", "two"), max_steps=1))
    keys = recipe(llama, text_data, out, "multitask", THREE, max_steps=1)
    del keys["cl"]["stream"]["tasks"][2]["train"]
    go(keys)
    assert "evaluate:joint:three" in steps(out)


def test_appending_with_an_unusable_test_set_leaves_the_finished_run_as_it_was(llama, text_data, tmp_path):
    data = copy_of(text_data, tmp_path / "data")
    out = tmp_path / "run"
    go(recipe(llama, data, out, tasks=("one",), max_steps=1))
    before = files(out)
    records = json.loads((data / "two_test.json").read_text())
    double = json.dumps([{**r, "id": "same"} for r in records])
    with changed(data / "two_test.json", double), pytest.raises(ValueError, match="more than once"):
        go(recipe(llama, data, out, max_steps=1))
    assert files(out) == before
    go(recipe(llama, data, out, max_steps=1))
    assert load(out, "matrix.json")["tasks"] == ["one", "two"]


def test_restart_moves_the_old_directory_aside(llama, text_data, tmp_path, finished):
    out = copy_of(finished("inclora"), tmp_path / "run")
    before = files(out)
    go(recipe(llama, text_data, out, "seqlora", ("one",), cl={"restart": True}, max_steps=1))
    (aside,) = tmp_path.glob("run.before-*")
    assert files(aside) == before
    assert load(out, "run.json")["method"] == "seqlora"
    assert not (out / "predictions" / "after_three").exists()


# --- what is measured and what is kept --------------------------------------------------------------------------------


def test_scope_all_and_a_limit_of_items(llama, text_data, tmp_path):
    out = tmp_path / "run"
    go(recipe(llama, text_data, out, cl={"eval": {"scope": "all", "max_items": 4, "zero_shot": False}}))
    matrix = load(out, "matrix.json")
    assert matrix["n"] == {"one": 4, "two": 4}
    assert all(score is not None for row in matrix["scores"] for score in row)
    assert matrix["zero_shot"] in (None, [None, None])
    assert load(out, "predictions/after_one/two.score.json")["max_items"] == 4
    metrics = load(out, "metrics.json")["metrics"]
    assert metrics["last"]["value"] is not None
    assert metrics["fwt"]["value"] is None
    assert "zero" in metrics["fwt"]["reason"]


def test_the_limit_is_printed_in_every_table(llama, text_data, tmp_path):
    from llamafactory.train.tuner import run_exp

    out = tmp_path / "run"
    cl = {"eval": {"max_items": 4, "zero_shot": False}}
    run_exp(recipe(llama, text_data, out, tasks=("one",), cl=cl, max_steps=1))
    for name in ("report.md", "report.html", "matrix.tex"):
        text = (out / name).read_text()
        assert "max_items" in text.replace("\\_", "_") or "first 4" in text, name


def test_nothing_is_measured_with_scope_none(llama, text_data, tmp_path):
    out = tmp_path / "run"
    go(recipe(llama, text_data, out, cl=NO_TESTS))
    assert [s for s in steps(out) if s.startswith("evaluate")] == []
    assert not (out / "matrix.json").exists()
    assert not (out / "predictions").exists()
    assert (out / "final" / "model.safetensors").is_file()


def test_max_samples_cuts_training_only(llama, text_data, tmp_path):
    out = tmp_path / "run"
    keys = recipe(llama, text_data, out, tasks=("one",), max_samples=5, num_train_epochs=1)
    del keys["max_steps"]
    go(keys)
    (entry,) = [e for e in journal(out) if e["step"] == "train:one"]
    assert entry["details"]["optimizer_steps"] == 2  # 5 samples in batches of 4
    assert load(out, "matrix.json")["n"] == {"one": 6}


def test_tasks_without_tests_leave_their_column_empty_and_say_so(llama, text_data, tmp_path):
    out = tmp_path / "run"
    keys = recipe(llama, text_data, out, tasks=THREE)
    del keys["cl"]["stream"]["tasks"][0]["test"]
    go(keys)
    matrix = load(out, "matrix.json")
    assert [row[0] for row in matrix["scores"]] == [None, None, None]
    assert matrix["scores"][2][1] is not None
    metrics = load(out, "metrics.json")["metrics"]
    for name in ("last", "bwt", "forgetting"):
        if metrics[name]["value"] is None:
            assert metrics[name]["reason"]
    assert metrics["last"]["value"] is None
    assert "one" in metrics["last"]["reason"]


@pytest.mark.parametrize(("keep", "left"), [("all", THREE), ("last", THREE[-1:]), ("none", ())])
def test_which_updates_are_kept_changes_no_result(llama, text_data, tmp_path, finished, keep, left):
    out = tmp_path / "run"
    go(recipe(llama, text_data, out, "inclora", THREE, cl={"keep": keep, "stop_after": 9}))
    go(recipe(llama, text_data, out, "inclora", THREE, cl={"keep": keep}))
    assert sorted(p.parent.name[3:] for p in out.glob("tasks/*/update.safetensors")) == sorted(left)
    equal(out, finished("inclora"))
    go(recipe(llama, text_data, out, "inclora", THREE, cl={"keep": keep}))  # and the journal knows what is gone


# --- what a task trains with ------------------------------------------------------------------------------------------


def test_the_users_callbacks_see_every_step_of_every_task(llama, text_data, tmp_path):
    from transformers import TrainerCallback

    seen = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append((args.output_dir.rsplit("/", 1)[1], args.seed, []))

        def on_step_end(self, args, state, control, **kwargs):
            seen[-1][2].append((state.global_step, state.max_steps))

    go(
        recipe(llama, text_data, tmp_path / "run", cl={"task_overrides": {"two": {"max_steps": 3}}, **NO_TESTS}),
        [Watch()],
    )
    assert seen == [
        ("01_one", 7, [(1, 2), (2, 2)]),
        ("02_two", 1007, [(1, 3), (2, 3), (3, 3)]),
    ]  # the seed is the recipe's plus 1000 per task; step counters start afresh


def test_the_same_seed_for_all_and_orders(llama, text_data, tmp_path):
    from transformers import TrainerCallback

    seen = []

    class Seeds(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            seen.append((args.output_dir.rsplit("/", 1)[1], args.seed))

    cl = {"seed_per_task": False, "order": ["two", "one"], **NO_TESTS}
    go(recipe(llama, text_data, tmp_path / "run", cl=cl, max_steps=1), [Seeds()])
    assert seen == [("01_two", 7), ("02_one", 7)]
    assert [t["name"] for t in load(tmp_path / "run", "run.json")["stream"]["tasks"]] == ["two", "one"]


def test_folders_of_single_tasks_hold_for_their_tests_too(llama, text_data, tmp_path):
    elsewhere = copy_of(text_data, tmp_path / "elsewhere")
    shutil.move(elsewhere / "one_test.json", elsewhere / "hidden.json")
    records = json.loads((elsewhere / "two_test.json").read_text())
    (elsewhere / "two_test.json").write_text(json.dumps(records[:3]))
    out = tmp_path / "run"
    cl = {"task_overrides": {"two": {"dataset_dir": str(elsewhere)}}}
    go(recipe(llama, text_data, out, cl=cl))
    assert load(out, "matrix.json")["n"] == {"one": 6, "two": 3}
    assert "two/two_test" in load(out, "run.json")["data"]
