"""How two identities of a run differ: `cl_plugins.run.differences`."""

from __future__ import annotations

from cl_plugins.run.differences import differences


def identity(recipe=None, tasks=(("a", {}), ("b", {})), base="1", data=None, **more):
    return {
        "recipe": {"lora_rank": 4, **(recipe or {})},
        "stream": {"name": "s", "tasks": [{"name": name, "test": [name], **keys} for name, keys in tasks]},
        "base": {"sha256": base, "tokenizer": None},
        "data": {"a": {"files": {"a.json": "1"}}} if data is None else data,
        "carry_from": False,
        **more,
    }


def test_equal_identities_have_no_differences():
    assert differences(identity(), identity()) == []


def test_every_key_is_named_as_in_a_recipe():
    old = identity({"cl": {"method": {"name": "ewc", "weight": 1.0}, "order": None}})
    new = identity({"cl": {"method": {"name": "ewc", "weight": 2.0}, "order": ["b", "a"]}, "seed": 1})
    assert differences(old, new) == [
        "cl.method.weight: 1.0 before, 2.0 now",
        'cl.order: null before, ["b", "a"] now',
        "seed: not set before, 1 now",
    ]


def test_tasks_are_told_by_their_names():
    old, new = identity(), identity(tasks=(("b", {}), ("a", {"overrides": {"max_steps": 3}}), ("c", {})))
    assert differences(old, new) == [
        "tasks in order: a, b before, b, a, c now",
        "task 'a': overrides: not set before, {\"max_steps\": 3} now",
    ]


def test_base_data_and_origin():
    new = identity(base="2", data={"a": {"files": {"a.json": "2"}}, "b": {}}, carry_from=True)
    assert differences(identity(), new) == [
        'the base\'s sha256: "1" before, "2" now',
        'data set \'a\', files.a.json: "1" before, "2" now',
        "data set 'b': not used before, used now",
        "cl.carry_from: false before, true now",
    ]


def test_long_values_are_cut():
    (line,) = differences(identity(), identity({"lora_target": "x" * 200}))
    assert line.endswith("… now")
    assert len(line) < 130
