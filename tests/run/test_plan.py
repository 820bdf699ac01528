"""The plan: which steps, in which order. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.evaluation.matrix import JOINT, row_name
from cl_plugins.methods.registry import make_method
from cl_plugins.recipe import parse_cl
from cl_plugins.run.plan import Step, make_plan, rows


def config(tasks=("a", "b", "c"), untested=(), method="seqlora", **block):
    stream = {
        "name": "s",
        "tasks": [{"name": t, "train": f"{t}1", **({} if t in untested else {"test": f"{t}2"})} for t in tasks],
    }
    return parse_cl({"stream": stream, "method": {"name": method}, **block})


METHODS = {"sequential": "seqlora", "independent": "single_task", "joint": "multitask"}


def planned(made, schedule, **more):
    """The plan of a method with this schedule."""
    return make_plan(made, make_method(METHODS[schedule], {}), **more)


def keys(steps):
    return [step.key for step in steps]


def test_three_tasks_one_after_the_other():
    assert keys(planned(config(), "sequential")) == [
        "evaluate:zero_shot:a", "evaluate:zero_shot:b", "evaluate:zero_shot:c",
        "train:a", "consolidate:a", "evaluate:after_a:a",
        "train:b", "consolidate:b", "evaluate:after_b:a", "evaluate:after_b:b",
        "train:c", "consolidate:c", "evaluate:after_c:a", "evaluate:after_c:b", "evaluate:after_c:c",
        "finish",
    ]  # fmt: skip


def test_the_oracle_row_is_at_the_end_and_of_learned_tasks_with_tests_only():
    method = make_method("single_task", {"selector": {"kind": "prototype"}})
    made = config(untested=("b",), eval={"oracle": True, "zero_shot": False})
    found = keys(make_plan(made, method))
    assert found[-3:] == ["evaluate:oracle:a", "evaluate:oracle:c", "finish"]
    assert sum("oracle" in key for key in found) == 2
    first = keys(make_plan(config(eval={"oracle": True}, only="a"), method))
    assert [key for key in first if "oracle" in key] == ["evaluate:oracle:a"]
    none = keys(make_plan(config(eval={"oracle": True, "scope": "none"}), method))
    assert not [key for key in none if "oracle" in key]


def test_with_only_the_zero_shot_row_is_of_this_task_or_of_all():
    first = keys(planned(config(only="b", carry_from="x"), "sequential", earlier=("a",)))
    assert [key for key in first if "zero_shot" in key] == ["evaluate:zero_shot:b"]
    every = keys(planned(config(only="b", carry_from="x", eval={"scope": "all"}), "sequential"))
    assert [key for key in every if "zero_shot" in key] == [f"evaluate:zero_shot:{t}" for t in "abc"]
    for settings in ({"zero_shot": False}, {"scope": "none"}):
        assert "zero_shot" not in str(keys(planned(config(only="b", carry_from="x", eval=settings), "sequential")))
    untested = keys(planned(config(untested=("b",), only="b", carry_from="x"), "sequential"))
    assert "zero_shot" not in str(untested)


def test_scopes():
    every = keys(planned(config(eval={"scope": "all", "zero_shot": False}), "sequential"))
    assert [k for k in every if "after_a" in k] == [f"evaluate:after_a:{t}" for t in "abc"]
    nothing = keys(planned(config(eval={"scope": "none"}), "sequential"))
    assert not [k for k in nothing if k.startswith("evaluate")]
    assert nothing[-1] == "finish"


def test_independent_tests_only_its_own_task_unless_all_is_asked_for():
    own = keys(planned(config(), "independent"))
    assert [k for k in own if "after" in k] == ["evaluate:after_a:a", "evaluate:after_b:b", "evaluate:after_c:c"]
    every = keys(planned(config(eval={"scope": "all"}), "independent"))
    assert len([k for k in every if "after" in k]) == 9


def test_joint_trains_once():
    steps = planned(config(), "joint")
    assert keys(steps)[3:] == [
        "train:joint", "consolidate:joint", "evaluate:joint:a", "evaluate:joint:b", "evaluate:joint:c", "finish",
    ]  # fmt: skip
    assert rows(steps) == [JOINT]


def test_only_one_task_from_a_carry():
    steps = planned(config(only="b", carry_from="x"), "sequential", earlier=("a",))
    trained = ["train:b", "consolidate:b", "evaluate:after_b:a", "evaluate:after_b:b", "finish"]
    assert keys(steps) == ["evaluate:zero_shot:b", *trained]
    # a task of the carry that this site's stream does not know cannot be tested
    steps = planned(config(only="b", carry_from="x"), "sequential", earlier=("elsewhere",))
    assert keys(steps)[1:] == ["train:b", "consolidate:b", "evaluate:after_b:b", "finish"]


def test_a_task_without_test_data_is_trained_and_not_tested():
    steps = planned(config(untested=("a",)), "sequential")
    assert "train:a" in keys(steps)
    assert not [k for k in keys(steps) if k.startswith("evaluate") and k.endswith(":a")]
    assert rows(steps) == [row_name(t) for t in "abc"]  # the row of a stays, with nothing in it


names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5, unique=True)


@given(
    names,
    st.sampled_from(["sequential", "independent", "joint"]),
    st.sampled_from(["seen", "all", "none"]),
    st.booleans(),
    st.data(),
)
def test_what_holds_for_every_plan(tasks, schedule, scope, zero_shot, data):
    untested = data.draw(st.sets(st.sampled_from(tasks)))
    steps = planned(config(tasks, untested, eval={"scope": scope, "zero_shot": zero_shot}), schedule)
    found = keys(steps)
    assert len(set(found)) == len(found)
    assert found[-1] == "finish"
    trained = [s.task for s in steps if s.kind == "train"]
    assert trained == ([JOINT] if schedule == "joint" else tasks)
    for name in trained:  # each training is followed by its consolidation
        assert found.index(f"consolidate:{name}") == found.index(f"train:{name}") + 1
    for step in steps:
        if step.kind == "evaluate":
            assert step.task not in untested
            row = str(step.row).removeprefix("after_")
            if row in trained:
                assert found.index(step.key) > found.index(f"consolidate:{row}")
            if scope == "seen" and schedule == "sequential" and step.row != "zero_shot":
                assert tasks.index(step.task) <= tasks.index(row)
    # a longer stream begins with the same steps: appending goes on where the shorter one ended
    longer = planned(config([*tasks, "z"], untested, eval={"scope": scope, "zero_shot": zero_shot}), schedule)
    if schedule != "joint" and scope != "all":
        assert [s.key for s in longer if "z" not in (s.task, str(s.row).removeprefix("after_"))] == found


def test_keys_say_what_is_done():
    assert Step("finish").key == "finish"
    assert Step("evaluate", "a", "zero_shot").key == "evaluate:zero_shot:a"
    with pytest.raises(AttributeError):
        Step("finish").kind = "train"
