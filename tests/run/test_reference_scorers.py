"""A run that is scored by a peer's rule, and reports that show it beside the recipe's."""

from __future__ import annotations

import json

import pytest
import sealed
import tiny

from cl_plugins.cli import main
from cl_plugins.evaluation.items import read_predictions
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.reference import printed_average


TASKS = ("one", "two")


@pytest.fixture(scope="module")
def finished(llava, tmp_path_factory):
    """Two tasks whose records hold what peers ask for; the second is scored by a rule of MLLM-CL."""
    from llamafactory.train.tuner import run_exp

    folder = tmp_path_factory.mktemp("peer")
    data = tiny.build_data(folder / "data", TASKS)
    for task in TASKS:
        file = data / f"{task}_test.json"
        records = json.loads(file.read_text())
        for n, record in enumerate(records):
            record |= {"question_id": "same", "answer_type": "CLOSED", "image": [f"deep/down/AI2D_{n}.png"]}
        file.write_text(json.dumps(records))
    stream = tiny.stream(TASKS)
    stream["tasks"][1] |= {"scorer": "peer:mllm_cl:sci"}
    keys = tiny.recipe(llava, data, folder / "out", "seqlora", TASKS, max_steps=2, cl={"stream": stream})
    run_exp(keys)
    return folder / "out"


@pytest.fixture
def report(finished, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "100")

    def go(*words):
        code = main(["report", str(finished), "--out", str(tmp_path / "new"), "--scorer", *words])
        captured = capsys.readouterr()
        return code, " ".join(captured.out.split()), captured.err, tmp_path / "new"

    return go


def test_a_run_keeps_what_peers_ask_for(finished):
    items = read_predictions(finished / "predictions" / "after_two" / "two.jsonl")
    assert [item.fields["image"] for item in items] == [f"AI2D_{n}.png" for n in range(6)]
    assert {item.fields["answer_type"] for item in items} == {"CLOSED"}
    assert {item.fields["question_id"] for item in items} == {"same"}
    assert len({item.id for item in items}) == 6
    matrix = json.loads((finished / "matrix.json").read_text())
    assert matrix["scorers"] == {"one": "choice_accuracy@2", "two": "peer:mllm_cl:sci@1"}
    exact = sum(item.prediction.lower() == item.reference.lower() for item in items)
    assert matrix["scores"][1][1] == pytest.approx(100 * exact / 6)


def test_the_peers_table_stands_beside_the_recipes(finished, report):
    code, out, err, new = report("peer:mslora_cr")
    assert code == 0, err
    assert "The same answers by choice_accuracy@2 (one) and peer:mllm_cl:sci@1 (two):" in out
    items = read_predictions(finished / "predictions" / "after_two" / "one.jsonl")
    expected = get_scorer("peer:mslora_cr").score(items)
    assert expected.extra["closed_items"] == 6
    matrix = json.loads((new / "matrix.json").read_text())
    assert matrix["scores"][1][0] == expected.score
    for page in ("report.md", "report.html"):
        text = (new / page).read_text()
        assert "The same answers by" in text
        assert "peer:mslora" in text
    assert "The same answers by" not in (finished / "report.md").read_text()


def test_the_library_alone_takes_the_rule_of_each_task(finished, report):
    code, _, err, _ = report("peer:medical_cl")
    assert code == 2
    assert "no rule for 'one'" in err
    assert "no rule for 'two'" in err


def test_peer_alone_takes_what_the_stream_names(finished, report, tmp_path):
    code, _, err, _ = report("peer")
    assert code == 2
    assert "no task of this run's stream names a `peer_scorer`" in err

    record = finished / "run.json"
    text = record.read_text()
    sealed.edit(record, lambda value: value["stream"]["tasks"][0].update(peer_scorer="peer:mslora_cr"))
    try:
        code, _, err, new = report("peer")
    finally:
        record.write_text(text)
    assert code == 0, err
    scorers = json.loads((new / "matrix.json").read_text())["scorers"]
    assert scorers["one"].startswith("peer:mslora_cr")
    assert scorers["two"] == "peer:mllm_cl:sci@1", "without a peer of its own a task keeps its scorer"


def test_averages_as_the_medical_authors_print_them(finished, report):
    code, out, err, new = report("one=peer:medical_cl:sur", "two=peer:medical_cl:rad")
    assert code == 0, err
    scores = json.loads((new / "matrix.json").read_text())["scores"][1]
    printed = printed_average({"one": scores[0], "rad": scores[1]})
    (note,) = [n for n in json.loads((new / "run.json").read_text())["notes"] if "truncated to a whole number" in n]
    assert f"after_two {printed:.2f}" in note
    assert "after_one" not in note, "Rad had not been tested yet"
    assert "truncated to a whole number" in out


def test_a_task_that_its_rule_cannot_score_is_named_and_the_others_are_scored(finished, report):
    code, out, err, new = report("one=peer:coin:textvqa", "two=exact_match")
    assert code == 2
    assert "task 'one' is not scored:" in err
    assert "needs the 10 human 'answers', found 1" in err
    matrix = json.loads((new / "matrix.json").read_text())
    assert matrix["zero_shot"][0] is None
    assert [row[0] for row in matrix["scores"]] == [None, None]
    assert matrix["scorers"]["one"] == "peer:coin:textvqa@1"
    items = read_predictions(finished / "predictions" / "after_two" / "two.jsonl")
    assert matrix["scores"][1][1] == get_scorer("exact_match").score(items).score
    notes = json.loads((new / "run.json").read_text())["notes"]
    (note,) = [note for note in notes if note.startswith("one has no score by peer:coin:textvqa@1: item ")]
    assert "needs the 10 human 'answers'" in note
    assert any(note.endswith("two with exact_match@2.") for note in notes)
    assert "one has no score by" in out or "one has no score by" in (new / "report.md").read_text()
    assert not (new / "predictions" / "after_two" / "one.jsonl").exists()
    assert main(["report", str(new)]) == 0, "what was written can be read again"


def test_where_no_task_can_be_scored_nothing_is_written(report):
    code, _, err, new = report("peer:coin:textvqa")
    assert code == 2
    assert "needs the 10 human 'answers'" in err
    assert not new.exists()


def test_damaged_predictions_are_an_error_of_the_whole_report(finished, report):
    file = finished / "predictions" / "after_two" / "one.jsonl"
    content = file.read_bytes()
    file.write_bytes(content + b"{")
    try:
        code, _, err, new = report("exact_match")
    finally:
        file.write_bytes(content)
    assert code in (1, 2)
    assert "one.jsonl" in err
    assert not new.exists()
