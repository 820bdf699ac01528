"""Strict building of dataclasses: every problem at once, with the YAML path, and never another exception."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.schema import build, check_value, describe, nearest, option, resolve_aliases, unknown_key


@dataclass(frozen=True)
class Inner:
    size: int = option(1, help="A size.", minimum=1)
    names: tuple[str, ...] = option((), help="Names.")


@dataclass(frozen=True)
class Outer:
    word: str = option(help="A word.")
    rate: float = option(0.5, help="A rate.", minimum=0.0)
    kind: Literal["red", "green"] = option("red", help="A kind.")
    flag: bool = option(False, help="A flag.")
    limit: int | None = option(None, help="A limit.", minimum=1)
    inner: Inner = option(factory=Inner, help="More.")
    table: dict[str, dict[str, Any]] = option(factory=dict, help="A table.")
    source: str | dict[str, Any] = option("x", help="Name or mapping.")
    words: list[str] | None = option(None, help="Words.")


def parse(**mapping):
    problems = []
    return build(Outer, mapping, "top", problems), problems


def test_defaults_and_nesting():
    value, problems = parse(word="a", inner={"size": 3, "names": "one"}, table={"t": {"k": 1}}, words="w")
    assert not problems
    assert value.inner == Inner(3, ("one",))
    assert value.words == ["w"]
    assert (value.rate, value.kind, value.flag, value.limit) == (0.5, "red", False, None)


def test_numbers_that_yaml_reads_as_text_or_as_whole_numbers():
    assert parse(word="a", rate="1e-4")[0].rate == 1e-4
    value = parse(word="a", rate=1)[0].rate
    assert value == 1.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ("mapping", "where"),
    [
        ({"word": 3}, "top.word"),
        ({"word": None}, "top.word"),
        ({"word": "a", "rate": "fast"}, "top.rate"),
        ({"word": "a", "rate": True}, "top.rate"),
        ({"word": "a", "rate": -1}, "top.rate"),
        ({"word": "a", "kind": "blue"}, "top.kind"),
        ({"word": "a", "kind": ["red"]}, "top.kind"),
        ({"word": "a", "flag": 1}, "top.flag"),
        ({"word": "a", "flag": "yes"}, "top.flag"),
        ({"word": "a", "limit": 0}, "top.limit"),
        ({"word": "a", "limit": 2.5}, "top.limit"),
        ({"word": "a", "limit": True}, "top.limit"),
        ({"word": "a", "inner": 1}, "top.inner"),
        ({"word": "a", "inner": {"size": "x"}}, "top.inner.size"),
        ({"word": "a", "inner": {"names": [1]}}, "top.inner.names[0]"),
        ({"word": "a", "inner": {"names": {"a": 1}}}, "top.inner.names"),
        ({"word": "a", "table": {"t": 1}}, "top.table.t"),
        ({"word": "a", "table": []}, "top.table"),
        ({"word": "a", "source": 1}, "top.source"),
        ({"word": "a", "words": 1}, "top.words"),
        ({}, "top.word"),
    ],
)
def test_a_wrong_value_names_its_path(mapping, where):
    value, problems = parse(**mapping)
    assert value is None
    assert [p.where for p in problems] == [where]
    assert all(p.what and p.fix for p in problems)


def test_all_problems_at_once():
    _, problems = parse(wrod="a", rate=-1, kind="gren", inner={"sise": 2, "names": [1, 2]})
    assert {p.where for p in problems} == {
        "top.wrod", "top.word", "top.rate", "top.kind", "top.inner.sise", "top.inner.names[0]", "top.inner.names[1]",
    }  # fmt: skip


def test_an_unknown_key_comes_with_the_nearest_and_all_known_ones():
    problem = unknown_key("cl.eval", "scop", ["scope", "zero_shot"])
    assert problem.where == "cl.eval.scop"
    assert problem.fix == "Did you mean 'scope'? Known keys: scope, zero_shot."
    assert nearest("nothing like it", ["scope"]) == ""
    assert "Did you mean 'green'?" in parse(word="a", kind="gren")[1][0].fix


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("inclroa", ["olora", "inclora"], "inclora"),
        ("qlora", ["seqlora", "olora"], "olora"),
        ("tow", ["one", "two"], "two"),
        ("mslora", ["seqlora", "mslora_cr"], "mslora_cr"),
        ("learning_rte", ["learning_rate"], "learning_rate"),
        ("dualprompt", ["modalprompt"], ""),
        ("full", ["seqfull"], ""),
        ("task", ["multitask"], ""),
        ("start", ["restart"], ""),
        ("er", ["der"], ""),
        ("", ["a"], ""),
    ],
)
def test_only_what_is_near_is_suggested(word, known, near):
    assert nearest(word, known) == (f"Did you mean '{near}'?" if near else "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["word", "rate", "kind", "flag", "limit", "inner", "table", "source", "words", "size", "names", "other"]


@given(st.dictionaries(st.sampled_from(KEYS) | st.integers(), json_values, max_size=6))
def test_any_mapping_is_built_or_has_problems(mapping):
    problems = []
    value = build(Outer, mapping, "top", problems)
    assert (value is None) == bool(problems)
    assert all(p.where.startswith("top") and p.what for p in problems)


@given(json_values)
def test_any_value_is_checked_without_an_exception(value):
    for hint in (
        int,
        float,
        str,
        bool,
        dict[str, int],
        list[str],
        tuple[int, ...],
        int | None,
        Literal["a"],
        Inner,
        Any,
    ):
        problems = []
        check_value(value, hint, "here", problems)


def test_describe_lists_nested_keys_with_type_default_and_help():
    rows = {key: (kind, default, text) for key, kind, default, text in describe(Outer)}
    assert rows["word"] == ("str", "required", "A word.")
    assert rows["inner.size"][1:] == ("1", "A size.")
    assert rows["kind"][0] == "red \\| green"
    assert "nothing" in rows["limit"][0]


def test_an_alias_is_another_word_for_a_value():
    @dataclass(frozen=True)
    class Choice:
        like: Literal["port"] | None = option(None, help="Which.", aliases={"peer": "port"})

    problems = []
    assert build(Choice, {"like": "peer"}, "top", problems) == Choice("port")
    assert check_value({"like": "port"}, Choice, "top", problems) == Choice("port")
    assert resolve_aliases(Choice, {"like": "peer", "other": "peer"}) == {"like": "port", "other": "peer"}
    assert problems == []
    assert build(Choice, {"like": "paper"}, "top", problems) is None
    assert "'port'" in problems[0].fix
