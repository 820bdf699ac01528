"""``run.json``: which changes of a recipe a directory goes on with."""

from __future__ import annotations

import copy

import pytest

from cl_plugins.base.errors import RunStateError
from cl_plugins.host.keys import key_table
from cl_plugins.recipe import parse_cl
from cl_plugins.run import record


def identity(tasks=("a", "b"), data=None, base="base", block=None, **keys):
    stream = {
        "name": "s",
        "title": "T",
        "tasks": [{"name": t, "train": f"{t}_train", "test": f"{t}_test"} for t in tasks],
    }
    config = parse_cl({"stream": stream, "method": {"name": "seqlora"}, **(block or {})})
    host = {"model_name_or_path": "m", "learning_rate": 1e-4, "output_dir": "out", "seed": 1, **keys}
    hashes = {f"{t}_{part}": {"files": {f"{t}.json": "0"}} for t in tasks for part in ("train", "test")}
    return record.identity(host, config, {"sha256": base, "name": "m"}, {**hashes, **(data or {})})


def refused(old, new, tmp_path, **more):
    with pytest.raises(RunStateError) as caught:
        record.compare(old, new, tmp_path, **more)
    return str(caught.value)


def test_the_same_recipe_goes_on(tmp_path):
    assert record.compare(identity(), identity(), tmp_path) == ()
    assert not record.changed(identity(), identity())


@pytest.mark.parametrize("key", [*record.FREE, *record.PATHS])
def test_what_may_change(tmp_path, key):
    assert record.compare(identity(), identity(**{key: "another"}), tmp_path) == ()


@pytest.mark.parametrize("block", [{"stop_after": 3}, {"restart": True}, {"keep": "last"}])
def test_how_a_run_is_carried_out_may_change(tmp_path, block):
    assert record.compare(identity(), identity(block=block), tmp_path) == ()


def test_what_a_stream_says_about_its_tasks_may_change_and_may_be_new(tmp_path):
    old, new = identity(), identity()
    new["stream"]["tasks"][0].update(source="elsewhere", licence="MIT", test_size=7, peer_scorer="peer:mslora_cr")
    del old["stream"]["tasks"][1]["peer_scorer"]  # written by a version that did not know the key
    assert record.compare(old, new, tmp_path) == ()
    new["stream"]["tasks"][0]["scorer"] = "token_f1"
    assert "token_f1" in refused(old, new, tmp_path)


@pytest.mark.parametrize(
    ("new", "shown"),
    [
        (identity(learning_rate=2e-4), "learning_rate: 0.0001 before, 0.0002 now"),
        (identity(seed=2), "seed: 1 before, 2 now"),
        (identity(lora_rank=8), "lora_rank: not set before, 8 now"),
        (identity(base="another"), "the base's sha256:"),
        (identity(data={"a_test": {"files": {"a.json": "1"}}}), "data set 'a_test'"),
        (identity(block={"eval": {"scope": "all"}}), 'cl.eval.scope: "seen" before, "all" now'),
        (identity(block={"seed_per_task": False}), "cl.seed_per_task: true before, false now"),
        (
            identity(block={"task_overrides": {"b": {"max_steps": 3}}}),
            'cl.task_overrides.b: not set before, {"max_steps": 3} now',
        ),
        (identity(tasks=("b", "a")), "tasks in order: a, b before, b, a now"),
        (identity(tasks=("a",)), "tasks in order: a, b before, a now"),
    ],
)
def test_every_other_change_is_refused_and_named(tmp_path, new, shown):
    message = refused(identity(), new, tmp_path)
    assert f"  {shown}" in message
    assert "restart: true" in message


def test_tasks_may_be_appended_and_only_appended(tmp_path):
    assert record.compare(identity(), identity(tasks=("a", "b", "c", "d")), tmp_path) == ("c", "d")
    overrides = {"task_overrides": {"c": {"max_steps": 1}}}
    assert record.compare(identity(), identity(tasks=("a", "b", "c"), block=overrides), tmp_path) == ("c",)
    refused(identity(), identity(tasks=("a", "c", "b")), tmp_path)
    refused(identity(), identity(tasks=("a", "b", "c"), learning_rate=1), tmp_path)
    refused(identity(), identity(tasks=("a", "b", "c"), data={"a_train": {"files": {}}}), tmp_path)
    refused(identity(), identity(tasks=("a", "b", "c"), block={"task_overrides": {"a": {"max_steps": 1}}}), tmp_path)


def test_what_may_be_mended_after_a_tasks_training_failed(tmp_path):
    overrides = identity(block={"task_overrides": {"b": {"learning_rate": 1e-5}}})
    data = identity(data={"b_train": {"files": {"b.json": "mended"}}})
    for new in (overrides, data):
        refused(identity(), new, tmp_path)
        assert record.compare(identity(), new, tmp_path, "b") == ()
        refused(identity(), new, tmp_path, failed="a")
    refused(identity(), identity(data={"b_test": {"files": {"b.json": "changed"}}}), tmp_path, failed="b")
    refused(identity(), identity(learning_rate=1e-5), tmp_path, failed="b")


def test_keys_of_single_tasks_may_be_mended_while_no_task_is_trained(tmp_path):
    keys = frozenset(info.key for info in key_table() if info.kind == "per_task")
    assert record.compare(identity(), identity(learning_rate=1e-5), tmp_path, "a", keys) == ()
    refused(identity(), identity(lora_rank=2), tmp_path, failed="a", keys=keys)


@pytest.mark.parametrize("top", [True, False])
def test_a_mended_training_keeps_the_items_of_measured_tests(tmp_path, top):
    """Where long prompts are left out, `cutoff_len` decides which items a test set has."""

    def with_limit(limit, too_long):
        block = {"eval": {"too_long": too_long}} if top else {
            "eval": {"too_long": too_long}, "task_overrides": {"b": {"cutoff_len": limit}}
        }  # fmt: skip
        return identity(block=block, **({"cutoff_len": limit} if top else {}))

    keys = frozenset({"cutoff_len"})
    for measured in ({"a", "b"}, None):
        old, new = with_limit(100, "drop"), with_limit(200, "drop")
        with pytest.raises(RunStateError, match="cutoff_len"):
            record.compare(old, new, tmp_path, "b", keys, measured)
        old, new = with_limit(100, "error"), with_limit(200, "error")
        assert record.compare(old, new, tmp_path, "b", keys, measured) == ()
    assert record.compare(with_limit(100, "drop"), with_limit(200, "drop"), tmp_path, "b", keys, set()) == ()


def test_a_training_set_that_another_task_uses_too_may_not_be_mended(tmp_path):
    def shared(digest):
        made = copy.deepcopy(identity())
        made["stream"]["tasks"][1]["train"] = ["a_train"]
        made["data"]["a_train"] = digest
        return made

    refused(shared("1"), shared("2"), tmp_path, failed="b")


def test_tokens_are_not_written_down():
    host = identity(hf_hub_token="secret", hub_token=None, max_new_tokens_like="5")["recipe"]
    assert "secret" not in str(host)


def test_versions_that_changed():
    now = {"torch": "2", "peft": "1"}
    assert record.version_changes({"torch": "1", "peft": "1", "trl": "3"}, now) == ["torch 1 -> 2", "trl 3 -> none"]
    assert record.versions()["cl-plugins"]
