"""The layout of JSON files: what `json.dumps` gives, with lists of numbers or words on one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.records.record import dump


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain, st.sampled_from([None, 1, 2]))
def test_it_is_read_as_what_it_was(value, indent):
    assert json.loads(dump(value, indent)) == value


@given(st.dictionaries(st.text(), st.text() | st.integers(), min_size=1, max_size=4), st.sampled_from([None, 1, 2]))
def test_mappings_are_laid_out_as_json_does(value, indent):
    expected = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        expected.encode()
    except UnicodeEncodeError:
        expected = json.dumps(value, indent=indent)
    assert dump(value, indent) == expected


def test_a_matrix_has_one_line_per_row():
    assert dump({"scores": [[1.5, None], [2.0, 3.25]], "tasks": ["a", "ü"], "none": {}, "empty": []}, 1) == (
        '{\n "scores": [\n  [1.5, null],\n  [2.0, 3.25]\n ],\n "tasks": ["a", "ü"],\n "none": {},\n "empty": []\n}'
    )


@pytest.mark.parametrize("indent", [None, 1])
def test_a_lone_surrogate_is_escaped(indent):
    text = dump({"a": ["\ud800"]}, indent)
    assert text.encode()
    assert json.loads(text) == {"a": ["\ud800"]}
