"""Readers: JSON piece by piece, CSV as text, parquet by rows, pickles without code."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import OrderedDict

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_plugins.base.errors import DataError
from cl_plugins.data.prepare import csv_rows, json_records, parquet_rows, plain_pickle, readers
from cl_plugins.data.prepare.readers import open_parquet


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(values, max_size=6), st.integers(1, 40), st.sampled_from([None, 0, 2]), st.booleans(), st.booleans())
def test_json_records_equal_json_load_whatever_the_piece(
    tmp_path_factory, records, piece, indent, as_lines, ascii_only
):
    path = tmp_path_factory.mktemp("json") / "x.json"
    if as_lines:
        path.write_text(
            "".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in records if not isinstance(r, list))
        )
        records = [r for r in records if not isinstance(r, list)]
    else:
        path.write_text(json.dumps(records, indent=indent, ensure_ascii=ascii_only))
    whole, readers._CHUNK = readers._CHUNK, piece
    try:
        assert list(json_records(path)) == records
    finally:
        readers._CHUNK = whole


@pytest.mark.parametrize(
    "text", ['[{"a": 1}', '[{"a": 1} {"a": 2}]', '[{"a": }]', "[1, 2] 3", '{"a": 1', "[1,", "nonsense"]
)
def test_json_that_is_not(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: is not JSON: .* at character \d+"):
        list(json_records(tmp_path / "x.json"))


def test_json_records_before_the_damage_are_given(tmp_path):
    (tmp_path / "x.json").write_text('[{"a": 1}, {"a": 2}, {"a"')
    stream = json_records(tmp_path / "x.json")
    assert [next(stream), next(stream)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(DataError):
        next(stream)


def test_byte_order_mark_and_wrong_encoding(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf[{"a": "\xc3\xa9"}]')
    assert list(json_records(tmp_path / "x.json")) == [{"a": "é"}]
    (tmp_path / "x.json").write_bytes(b'[{"a": "\xe9"}]')
    with pytest.raises(DataError, match="not UTF-8"):
        list(json_records(tmp_path / "x.json"))
    (tmp_path / "x.csv").write_bytes("ID,Caption\n1,na\xefve\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        list(csv_rows(tmp_path / "x.csv", ("ID", "Caption")))


def test_csv_keeps_words_that_look_like_missing_values(tmp_path):
    (tmp_path / "x.csv").write_text('ID , Caption,more\n01,"a, ""b""",x\n02, NA ,x\n03,,x\n04,null,\n')
    assert list(csv_rows(tmp_path / "x.csv", ("ID", "Caption"))) == [
        {"ID": "01", "Caption": 'a, "b"'},
        {"ID": "02", "Caption": "NA"},
        {"ID": "03", "Caption": ""},
        {"ID": "04", "Caption": "null"},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ID,Text\n1,a\n", "no column 'Caption'"),
        ("", "no column 'ID', 'Caption'; it has none"),
        ('ID,Caption\n1,"a\n', "CSV"),
    ],
)
def test_csv_that_is_not(tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        list(csv_rows(tmp_path / "x.csv", ("ID", "Caption")))


@pytest.mark.parametrize("rows", ["1,2,\n3,4,\n", "1,2,\n3,4\n", "1,2\n\n3,4\n", "1,2,,\n3,4"])
def test_a_comma_behind_the_last_cell_moves_no_column(tmp_path, rows):
    """Pandas took the first cell of such rows for their name, and gave every column its neighbour's cells."""
    (tmp_path / "x.csv").write_text("ID,Caption\n" + rows)
    read = list(csv_rows(tmp_path / "x.csv", ("ID", "Caption")))
    assert read == [{"ID": "1", "Caption": "2"}, {"ID": "3", "Caption": "4"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ID,Caption\n1,a\n2,b, c\n", "more cells than columns in the row that ends in line 3 .3, not 2"),
        ("ID,Caption\n1,a,\n2,b,\n3,b, c\n", "line 4"),
        ("ID,Caption\n1,2,x\n2,3,y\n", "line 2"),
        ('ID,Caption\n1,"2\n3"\n4,5,6\n', "line 4"),
        ('ID,Caption\n1,2\n3,"4\n5,6\n', "cannot be read as CSV .line 4: unexpected end"),
        ('ID,Caption\n1,"2\n3,"4"\n', "cannot be read as CSV .line 3"),
        ("ID,ID,Caption\n1,2,x\n", "more than one column 'ID'"),
    ],
)
def test_csv_cells_of_unknown_columns_are_refused(tmp_path, text, words):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        list(csv_rows(tmp_path / "x.csv", ("ID", "Caption")))


@pytest.mark.parametrize(("first", "last"), [(0, 300), (95, 105), (299, 300), (64, 64), (10, 170)])
def test_parquet_ranges(tmp_path, first, last):
    table = pyarrow.table({"n": list(range(300)), "m": ["x"] * 300})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=100)
    rows = list(parquet_rows(tmp_path / "x.parquet", ("n",), first, last))
    assert rows == [(i, {"n": i}) for i in range(first, last)]


def test_parquet_truncated_or_with_other_columns(tmp_path):
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"n": [1]}), path)
    with pytest.raises(DataError, match="no column 'image'"):
        open_parquet(path, ("image",))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="Download it again"):
        open_parquet(path)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


@pytest.mark.parametrize("value", [Evil(), [1, {"a": Evil()}], OrderedDict(a=1), print, io.BytesIO(b"x")])
def test_pickles_with_anything_but_plain_containers_are_refused(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(DataError, match="only plain containers"):
        plain_pickle(tmp_path / "x.pkl")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles(tmp_path, protocol):
    value = [{"sent": "où?", "label": {"a": 1}, "id": 10**12, "x": None, "y": 1.5, "z": [True]}]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    assert plain_pickle(tmp_path / "x.pkl") == value


def test_python_2_texts_become_text(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'na\\xefve'\np3\nsa.")
    assert plain_pickle(tmp_path / "x.pkl") == [{"sent": "naïve"}]


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x80\x05"])
def test_damaged_pickles(tmp_path, data):
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.pkl"):
        plain_pickle(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(b"x" * 11)
    with pytest.raises(DataError, match="larger"):
        plain_pickle(tmp_path / "x.pkl", limit=10)
