"""The ``cl:`` block: what it means, and what is said about one that is wrong."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_plugins.base.errors import RecipeError
from cl_plugins.config import CLConfig
from cl_plugins.recipe import parse_cl
from cl_plugins.streams import load_stream


STREAM = {
    "name": "letters",
    "tasks": [
        {"name": name, "train": f"{name}_train", "test": [f"{name}_test", f"{name}_hard"], "scorer": "choice_accuracy"}
        for name in ("a", "b", "c", "d", "e")
    ],
}


def block(**more):
    return {"stream": STREAM, "method": {"name": "seqlora"}, **more}


def problems(cl):
    with pytest.raises(RecipeError) as caught:
        parse_cl(cl)
    return {p.where: p for p in caught.value.problems}


def test_the_name_of_a_method_alone_is_enough():
    assert parse_cl(block(method="seqlora")) == parse_cl(block())
    assert "Did you mean 'inclora'" in problems(block(method="inclorra"))["cl.method"].fix


def test_a_data_set_or_a_list_of_them():
    task = parse_cl(block()).stream.task("a")
    assert task.train == ("a_train",)
    assert task.test == ("a_test", "a_hard")
    assert parse_cl(block()).first_datasets == ("a_train",)
    both = {"name": "s", "tasks": [{"name": "t", "train": ["x", "y"]}]}
    assert parse_cl(block(stream=both)).first_datasets == ("x", "y")
    assert parse_cl(block(only="c", carry_from="x")).first_datasets == ("c_train",)


@pytest.mark.parametrize(
    ("cl", "where", "hint"),
    [
        (block(evl={}), "cl.evl", "eval"),
        (block(eval={"scop": "all"}), "cl.eval.scop", "scope"),
        (block(eval={"scope": "al"}), "cl.eval.scope", "all"),
        (block(method={"name": "inclorra"}), "cl.method.name", "inclora"),
        (block(method={"name": "inclora", "consolidat": "merge"}), "cl.method.consolidat", "consolidate"),
        (block(method={"name": "inclora", "consolidate": "merg"}), "cl.method.consolidate", "merge"),
        (block(method={"name": "seqlora", "rank": 4}), "cl.method.rank", ""),
        (block(replay={"capacity": 3}), "cl.replay.capacity", "capacity_per_task"),
        (block(only="f"), "cl.only", ""),
        (block(task_overrides={"aa": {}}), "cl.task_overrides.aa", "a"),
        (block(stream={**STREAM, "task": []}), "cl.stream.task", "tasks"),
        (block(stream={"name": "s", "tasks": [{"name": "t", "trian": "x"}]}), "cl.stream.tasks[0].trian", "train"),
        (
            block(stream={"name": "s", "tasks": [{"name": "t", "train": "x", "scorer": "choice_acuracy"}]}),
            "cl.stream.tasks[0].scorer",
            "choice_accuracy",
        ),
        (block(stream="medical_c"), "cl.stream", "medical_cl"),
    ],
)
def test_misspellings_name_the_path_and_the_nearest_key(cl, where, hint):
    found = problems(cl)
    assert where in found
    assert hint in found[where].fix
    assert found[where].fix


@pytest.mark.parametrize(
    ("cl", "where"),
    [
        ({}, "cl.stream"),
        ({}, "cl.method"),
        (block(method="inclorra"), "cl.method"),
        (block(method=""), "cl.method"),
        (block(method=["inclora"]), "cl.method"),
        (block(method={}), "cl.method.name"),
        (block(method={"name": 3}), "cl.method.name"),
        (block(stream=3), "cl.stream"),
        (block(stream={"name": "s", "tasks": []}), "cl.stream.tasks"),
        (block(stream={"name": "s", "tasks": [{"name": "t"}]}), "cl.stream.tasks[0]"),
        (block(stream={"name": "s", "tasks": [{"name": "a/b", "train": "x"}]}), "cl.stream.tasks[0].name"),
        (block(stream={"name": "s", "tasks": [{"name": "zero_shot", "train": "x"}]}), "cl.stream.tasks[0].name"),
        (block(stream={"name": "s", "tasks": [{"name": "n" * 300, "train": "x"}]}), "cl.stream.tasks[0].name"),
        (
            block(stream={"name": "s", "tasks": [{"name": "x", "train": "1"}, {"name": "X", "train": "2"}]}),
            "cl.stream.tasks[1].name",
        ),
        (block(stream={"name": "s", "tasks": [{"name": "t", "test": "x"}]}), "cl.stream.tasks"),
        (block(stop_after=0), "cl.stop_after"),
        (block(restart="yes"), "cl.restart"),
        (block(keep="some"), "cl.keep"),
        (block(order=["a", "b"]), "cl.order"),
        (block(order=["a", "b", "c", "d", "d"]), "cl.order"),
        (block(order=list("edcba"), order_seed=1), "cl.order"),
        (block(carry_from="somewhere"), "cl.carry_from"),
        (block(replay={"capacity_per_task": -3}), "cl.replay.capacity_per_task"),
        (block(replay={"capacity_per_task": 3, "capacity_total": 3}), "cl.replay.capacity_total"),
        (block(eval={"max_items": 0}), "cl.eval.max_items"),
        (block(task_overrides={"a": 3}), "cl.task_overrides.a"),
        (block(stream="nowhere/stream.yaml"), "cl.stream"),
    ],
)
def test_wrong_values_name_the_path(cl, where):
    assert where in problems(cl)


@pytest.mark.parametrize("cl", [None, 3, "medical_cl", [1], True])
def test_a_block_that_is_no_mapping(cl):
    assert set(problems(cl)) == {"cl"}


def test_all_problems_of_all_levels_are_reported_together():
    cl = block(
        evl={},
        eval={"scop": 1},
        method={"name": "inclora", "x": 1},
        stream={"name": "s", "tasks": [{"name": "t", "trian": "x"}, {"nme": "u", "train": "y"}]},
    )
    expected = {"cl.evl", "cl.eval.scop", "cl.method.x", "cl.stream.tasks[0].trian", "cl.stream.tasks[1].nme"}
    assert expected <= set(problems(cl))


@pytest.mark.parametrize(("name", "peer"), [("olora", "port"), ("lwf", "easycl")])
def test_peer_stands_for_the_only_one_and_is_recorded_by_its_name(name, peer):
    from cl_plugins.run.record import identity

    config = parse_cl(block(method={"name": name, "faithful": "peer"}))
    assert config.method_options == {"faithful": peer}
    assert identity({}, config, {}, {})["recipe"]["cl"]["method"] == {"name": name, "faithful": peer}


def test_peer_is_refused_where_there_are_several():
    (found,) = problems(block(method={"name": "ewc", "faithful": "peer"})).items()
    assert found[0] == "cl.method.faithful"
    assert all(peer in found[1].fix for peer in ("prism", "mammoth", "easycl"))


def test_order_and_order_seed():
    assert parse_cl(block(order=list("edcba"))).stream.task_names == tuple("edcba")
    # pinned: the permutation is part of a recipe and must be the same on every machine and Python
    assert parse_cl(block(order_seed=1)).stream.task_names == ("c", "d", "e", "a", "b")
    assert parse_cl(block(order_seed=2)).stream.task_names == ("c", "b", "d", "e", "a")
    orders = {parse_cl(block(order_seed=seed)).stream.task_names for seed in range(20)}
    assert len(orders) > 10
    assert parse_cl(block(order_seed=1)).first_datasets == ("c_train",)


def test_overrides_of_recipe_win_over_those_of_the_stream():
    stream = {"name": "s", "tasks": [{"name": "t", "train": "x", "overrides": {"max_steps": 3, "learning_rate": 1}}]}
    config = parse_cl(block(stream=stream, task_overrides={"t": {"max_steps": 9}}))
    assert config.overrides_for("t") == {"max_steps": 9, "learning_rate": 1}


def test_defaults_of_the_stream_give_way_to_the_recipe():
    task = {"name": "t", "train": "x", "defaults": {"max_steps": 3, "learning_rate": 1}, "overrides": {"seed": 2}}
    config = parse_cl(block(stream={"name": "s", "tasks": [task]}))
    assert config.with_defaults(()).overrides_for("t") == {"max_steps": 3, "learning_rate": 1, "seed": 2}
    assert config.with_defaults({"learning_rate"}).overrides_for("t") == {"max_steps": 3, "seed": 2}
    # either of the two says how long to train, and the host prefers max_steps wherever it stands
    shorter = parse_cl(block(stream={"name": "s", "tasks": [task]}, task_overrides={"t": {"num_train_epochs": 5}}))
    assert shorter.with_defaults(()).overrides_for("t") == {"num_train_epochs": 5, "learning_rate": 1, "seed": 2}
    assert config.with_defaults({"num_train_epochs"}).overrides_for("t") == {"learning_rate": 1, "seed": 2}


@pytest.mark.parametrize(
    ("keys", "stream", "recipe", "expected"),
    [
        ({"max_steps"}, {}, {"num_train_epochs": 5}, {"num_train_epochs": 5, "max_steps": -1}),
        ({"max_steps"}, {"num_train_epochs": 5}, {}, {"num_train_epochs": 5, "max_steps": -1}),
        ({"max_steps"}, {"max_steps": 3}, {"num_train_epochs": 5}, {"num_train_epochs": 5, "max_steps": -1}),
        ((), {"max_steps": 3}, {"num_train_epochs": 5}, {"num_train_epochs": 5}),
        ({"max_steps"}, {"num_train_epochs": 5}, {"max_steps": 3}, {"max_steps": 3}),
        ({"num_train_epochs"}, {}, {"max_steps": 3}, {"max_steps": 3}),
        ({"max_steps", "num_train_epochs"}, {}, {}, {}),
    ],
)
def test_a_tasks_own_length_wins(keys, stream, recipe, expected):
    task = {"name": "t", "train": "x", "overrides": stream}
    config = parse_cl(block(stream={"name": "s", "tasks": [task]}, task_overrides={"t": recipe} if recipe else {}))
    config = config.with_defaults(keys)
    assert config.overrides_for("t") == expected == config.with_defaults(keys).overrides_for("t")


def test_longest_answer_task_then_eval_then_default():
    stream = {"name": "s", "tasks": [{"name": "t", "train": "x", "max_new_tokens": 5}, {"name": "u", "train": "y"}]}
    assert parse_cl(block(stream=stream)).max_new_tokens("t") == 5
    assert parse_cl(block(stream=stream)).max_new_tokens("u") == 64
    assert parse_cl(block(stream=stream, eval={"max_new_tokens": 7})).max_new_tokens("u") == 7


def test_the_same_stream_inline_by_path_and_built_in(tmp_path):
    inline = load_stream(STREAM)
    for name, text in (("s.yaml", yaml.safe_dump(STREAM)), ("s.json", json.dumps(STREAM))):
        path = tmp_path / name
        path.write_text(text)
        assert load_stream(str(path)) == inline
    assert load_stream("medical_cl").task_names == ("path", "sur", "cell", "rad")


@pytest.mark.parametrize(
    "content", [b"", b"- 1\n", b"a: [", b"\xff\xfe\x00bad", b"date: 2020-13-45\n", b"[" * 5000, b"name: s\ntasks: 3\n"]
)
def test_a_broken_stream_file_is_named(tmp_path, content):
    path = tmp_path / "stream.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_stream(str(path))
    assert any(p.where.startswith(str(path)) or str(path) in p.what for p in caught.value.problems)


def test_a_folder_or_an_impossible_name_as_stream(tmp_path):
    (tmp_path / "x.yaml").mkdir()
    for name in (str(tmp_path / "x.yaml"), "a" * 5000, "with\0null.yaml", "with\0null"):
        with pytest.raises(RecipeError):
            load_stream(name)


# values of the right kind are drawn more often, so that the deeper checks are reached
words = st.sampled_from(["a", "b", "seqlora", "inclora", "all", "medical_cl", "x.yaml", ""]) | st.text(max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
tasks = st.fixed_dictionaries(
    {"name": words | values, "train": words | st.lists(words, max_size=2) | values},
    optional=dict.fromkeys(
        ("test", "scorer", "modality", "max_new_tokens", "overrides", "options_column", "odd"), values
    ),
)
streams = st.fixed_dictionaries({"name": words, "tasks": st.lists(tasks, max_size=3)}) | words | values
blocks = st.fixed_dictionaries(
    {"stream": streams, "method": st.fixed_dictionaries({"name": words}) | values},
    optional=dict.fromkeys(
        ("task_overrides", "replay", "eval", "order", "order_seed", "only", "carry_from", "keep", "restart", "z"),
        values,
    ),
)


@settings(max_examples=300)
@given(blocks | values)
def test_any_block_parses_or_raises_a_recipe_error(cl):
    found = None
    try:
        config = parse_cl(cl)
    except RecipeError as error:
        found = error.problems
    if found is None:
        assert isinstance(config, CLConfig)
    else:
        assert found
        assert all(p.where and p.what for p in found)
