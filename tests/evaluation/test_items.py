from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import DataError
from cl_plugins.evaluation.items import Item, TaskScore, predictions_to_jsonl, read_predictions, require_items


TEXT = st.text(max_size=20)


def score_of(items: list[Item], **changes: object) -> TaskScore:
    fields = {"scorer": "exact_match@2", "score": 50.0, "n": len(items), "interval": (1.5, 98.25)}
    fields |= {"interval_method": "wilson", "items": (50.0,) * len(items), **changes}
    return TaskScore(**fields)


def record(**changes: object) -> str:
    return json.dumps({"id": "a", "prompt": "p", "prediction": "x", "reference": "y", **changes}) + "\n"


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, st.none() | st.lists(TEXT, max_size=3).map(tuple)), max_size=5))
def test_written_predictions_are_read_back(tmp_path_factory, rows):
    items = [Item(f"t/{n}", *row) for n, row in enumerate(rows)]
    path = tmp_path_factory.mktemp("predictions") / "t.jsonl"
    path.write_bytes(predictions_to_jsonl(items, score_of(items)).encode("utf-8"))
    assert read_predictions(path) == items


def test_odd_characters_survive_and_text_stays_readable(tmp_path):
    items = [Item("1", "line one\nline two\r\n", "Zell\u2028e \x0c é 细胞", "\ud800 lone", ("a", "b"))]
    items.append(Item("2", "p", "ü", "r"))
    text = predictions_to_jsonl(items, score_of(items))
    path = tmp_path / "t.jsonl"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_predictions(path) == items
    assert "ü" in text
    first, second = (json.loads(line) for line in text.removesuffix("\n").split("\n"))
    assert list(second) == ["id", "prompt", "prediction", "reference", "score"]
    assert first["options"] == ["a", "b"]
    assert first["score"] == 50.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "a", \n', "not JSON"),
        (b'{"id": "\xff"}\n', "UTF-8"),
        (b"[1]\n", "list, not a JSON object"),
        (record(reference=None).encode(), "'reference' is None"),
        (record(id=3).encode(), "'id' is 3"),
        (record(options="ab").encode(), "'options' is 'ab'"),
        (b'{"id": "a", "prompt": "", "prediction": ""}\n', "'reference' is missing"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(record(id="fine").encode() + line)
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert f"{path}, line 2" in str(caught.value)
    assert message in str(caught.value)


def test_every_bad_line_is_reported_and_a_flood_is_cut(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("{\n" + record() + "{\n")
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert [problem.where[-6:] for problem in caught.value.problems] == ["line 1", "line 3"]
    path.write_text("{\n" * 500)
    with pytest.raises(DataError, match="the last of 490 more problems"):
        read_predictions(path)


def test_duplicate_ids_are_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(record() + record(id="b") + record())
    with pytest.raises(DataError, match="line 3: the id 'a' occurs already in line 1"):
        read_predictions(path)
    with pytest.raises(DataError, match="more than once"):
        require_items([Item("a", "", "", ""), Item("a", "", "", "")])


def test_a_missing_file_and_an_empty_list_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot be read"):
        read_predictions(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="no items"):
        require_items([])


def test_items_and_scores_must_belong_together():
    item = Item("a", "", "", "")
    with pytest.raises(DataError, match="1 items, but item scores for 0"):
        predictions_to_jsonl([item], score_of([]))


def test_task_score_round_trip_with_and_without_item_scores():
    score = score_of([Item("a", "", "", "")] * 3, extra={"signature": "x"}, max_items=3, score=100 / 3)
    short = json.loads(json.dumps(score.to_dict()))
    assert len(short.pop("checksum")) == 64
    assert short == {
        "format": 2,
        "scorer": "exact_match@2",
        "score": 100 / 3,
        "n": 3,
        "interval": [1.5, 98.25],
        "interval_method": "wilson",
        "extra": {"signature": "x"},
        "max_items": 3,
        "cut": None,
        "dropped": 0,
    }
    assert TaskScore.from_dict(json.loads(json.dumps(score.to_dict(per_item=True)))) == score
    assert TaskScore.from_dict({**score.to_dict()}).items == ()
    with pytest.raises(DataError, match="its checksum differs"):
        TaskScore.from_dict({**score.to_dict(), "score": 99.5})


def test_a_damaged_score_lists_everything_that_is_wrong():
    data = score_of([]).to_dict() | {"score": float("nan"), "n": True, "interval": [1], "max_items": -1}
    with pytest.raises(DataError) as caught:
        TaskScore.from_dict(data, where="path.score.json")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert all(word in text for word in ("path.score.json", "'score'", "'n'", "'interval'", "'max_items'"))


def test_the_room_imports_nothing_heavy():
    code = (
        "import sys, cl_plugins.evaluation, cl_plugins.evaluation.hf_metrics\n"
        "heavy = {'torch', 'numpy', 'sacrebleu', 'evaluate', 'datasets', 'transformers', 'llamafactory'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
