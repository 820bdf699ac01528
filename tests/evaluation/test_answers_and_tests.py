"""What of a record is the question, the answer and the right answer, and that `data prepare` reads it in the same way."""

from __future__ import annotations

import json

import pytest

from cl_plugins.base.errors import DataError
from cl_plugins.cli import main
from cl_plugins.data.prepare.llava.fields import answer_of
from cl_plugins.evaluation.answers import read_answers


def lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def chat(right, **more):
    return {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": right}]} | more


# --- the right answer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        chat("B"),
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "B"}]},
        {"instruction": "q", "input": "", "output": "B"},
    ],
)
@pytest.mark.parametrize("others", [["B. since"], ["B. since", "B. since", "B"], [], ["", "B. since"]])
def test_the_reference_of_a_data_set_is_what_a_run_tests_with(tmp_path, record, others):
    test = lines(tmp_path / "t.jsonl", record | {"id": "1", "answers": others})
    (item,) = read_answers(lines(tmp_path / "a.jsonl", {"question_id": "1", "text": "B"}), test)
    assert item.reference == "B"
    assert item.fields.get("answers", []) == [other for other in others if any(others)]
    host = lines(tmp_path / "g.jsonl", {"prompt": "q", "predict": "B", "label": "B"})
    assert read_answers(host, test)[0].reference == "B"
    if others:
        lines(host, {"prompt": "q", "predict": "B", "label": "B. since"})
        with pytest.raises(DataError, match=r"its reference is 'B. since', in .* it is 'B'"):
            read_answers(host, test)


@pytest.mark.parametrize(
    ("question", "listed", "reference", "several"),
    [
        ("Is it?", ["yes", "Yes", "yes"], "yes", ["yes", "Yes", "yes"]),
        ("What is written?", ["", "", "", "stop", "stop", "go"], "stop", ["", "", "", "stop", "stop", "go"]),
        ("Which states are red?", ["Ohio", "Texas"], "Ohio,Texas", []),
        ("Which states are red?", ["Ohio", "", "Texas"], "Ohio,Texas", []),
        ("Which states of water?", ["liquid", "frozen", "frozen"], "frozen", ["liquid", "frozen", "frozen"]),
        ("How many?", [2, 3, 3], "3", ["2", "3", "3"]),
        ("What?", [{"answer": "a"}, {"answer": "b"}, {"answer": "b"}, None], "b", ["a", "b", "b"]),
    ],
)
def test_lists_are_read_as_in_prepared_data(tmp_path, question, listed, reference, several):
    answers = lines(tmp_path / "a.jsonl", {"question_id": 1, "text": "x", "prompt": "?"})
    test = lines(tmp_path / "t.jsonl", {"question_id": 1, "text": question, "answer": listed})
    (item,) = read_answers(answers, test)
    assert (item.reference, item.fields.get("answers", [])) == (reference, several)
    assert answer_of(listed, question) == (reference, several)


@pytest.mark.parametrize("right", ["", "  ", ["", " "], [None]])
def test_a_record_without_a_right_answer_is_refused_as_in_a_run(tmp_path, right):
    answers = lines(tmp_path / "a.jsonl", {"question_id": 1, "text": "x", "prompt": "?"})
    test = lines(tmp_path / "t.jsonl", {"question_id": 1, "text": "q", "answer": right})
    with pytest.raises(DataError, match=r"t.jsonl, line 1: (its right answer is empty|has no right answer)"):
        read_answers(answers, test)


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "p", "predict": "x", "label": ""},
        {"prompt": "p", "predict": "x", "label": "</s>"},
        {"prompt": "p", "predict": "x", "label": "<think>why</think>"},
        {"response": "x", "labels": " "},
        {"question_id": 1, "prompt": "p", "text": "x", "gt": ""},
        {"index": 1, "prediction": "x", "answer": ""},
        {"id": "1", "prompt": "p", "prediction": "x", "reference": ""},
    ],
)
def test_files_that_hold_an_empty_right_answer_are_refused(tmp_path, record):
    with pytest.raises(DataError, match=r"a.jsonl, (line 1|item '1'): its right answer is empty"):
        read_answers(lines(tmp_path / "a.jsonl", record))


# --- question and answer -----------------------------------------------------------------------------------------

TEST = {"question_id": 1, "image": "x.jpg", "text": "Is there pneumonia?", "gt": "yes", "answer_type": "CLOSED"}


def test_text_is_the_question_where_there_is_a_prediction(tmp_path):
    file = lines(tmp_path / "a.jsonl", TEST | {"prediction": "no"})
    (item,) = read_answers(file)
    assert (item.prompt, item.prediction, item.reference) == ("Is there pneumonia?", "no", "yes")
    lines(file, TEST | {"prediction": "no"}, TEST | {"question_id": 2, "prompt": "Is there?"})
    with pytest.raises(DataError, match="line 2: the key 'prediction' is missing"):
        read_answers(file)


@pytest.mark.parametrize("record", [TEST, {"question_id": 1, "text": "q", "answer": "a"}])
def test_a_test_set_is_no_file_of_answers(tmp_path, record):
    file = lines(tmp_path / "a.jsonl", record)
    for test in (None, file):
        with pytest.raises(DataError, match="line 1: is a record of a test set: its 'text' is the question"):
            read_answers(file, test)


@pytest.mark.parametrize("more", [{"prompt": "q"}, {"question": "q"}, {"answer_id": "x"}, {"model_id": "m"}])
def test_answers_may_name_the_picture(tmp_path, more):
    assert read_answers(lines(tmp_path / "a.jsonl", TEST | more))[0].prediction == "Is there pneumonia?"


# --- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"A": 2, "B": 3, "C": 4}, ("2", "3", "4")),
        ({"A": 2.0, "B": 3.5, "C": "4"}, ("2", "3.5", "4")),
        ({"A": "none", "B": 2, "C": float("nan"), "D": None}, ("none", "2")),
        ({"A": "red", "B": float("nan"), "C": "blue"}, ("red", "", "blue")),
        ({"A": float("nan"), "B": None}, None),
    ],
)
def test_cells_of_vlmevalkit(tmp_path, options, found):
    file = lines(tmp_path / "a.jsonl", {"index": 1.0, "question": "q", "answer": 3.0, "prediction": 2.0} | options)
    (item,) = read_answers(file)
    assert (item.id, item.prediction, item.reference, item.options) == ("1", "2", "3", found)


def test_an_option_behind_an_empty_cell_keeps_its_letter(tmp_path, capsys):
    options = {"A": "red", "B": None, "C": "blue"}
    file = lines(tmp_path / "a.jsonl", {"index": 1, "answer": "C", "prediction": "blue"} | options)
    assert main(["score", str(file), "--scorer", "choice_accuracy", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["score"], found["random_baseline"]) == (100, 50)


# --- thoughts ----------------------------------------------------------------------------------------------------


def test_thoughts_in_predictions_files_are_split_off(tmp_path):
    line = {"id": "1", "prompt": "q", "prediction": "<think>so</think>\n\nA", "reference": "<think>as</think>A"}
    file = lines(tmp_path / "a.jsonl", line)
    (item,) = read_answers(file)
    assert (item.thought, item.prediction, item.reference_thought, item.reference) == ("so", "A", "as", "A")
    (item,) = read_answers(file, keep_thoughts=True)
    assert (item.thought, item.prediction) == ("", line["prediction"])


def test_thoughts_of_a_run_are_given_back_to_reference_scorers(tmp_path, capsys):
    line = {"id": "1", "prompt": "q", "prediction": "A", "reference": "yes", "thought": "so yes"}
    file = lines(tmp_path / "a.jsonl", line)
    (item,) = read_answers(file, keep_thoughts=True)
    assert item.prediction == "<think>\nso yes\n</think>\n\nA"
    assert read_answers(file)[0].thought == "so yes"
    for scorer, score in (("peer:mllm_cl:med", 100), ("contains", 0)):
        assert main(["score", str(file), "--scorer", scorer, "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found.get("accuracy", found.get("score")) == score


# --- captions ----------------------------------------------------------------------------------------------------


def test_answers_to_pictures_without_captions_are_left_out_and_counted(tmp_path, capsys):
    """UCIT's VizWiz: 3,000 answers, captions for 2,999 of the 3,000 pictures that the file lists."""
    coco = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2, 3)],
        "annotations": [{"id": n, "image_id": n, "caption": f"a cat number {n} sits here"} for n in (1, 3)],
    }
    test = tmp_path / "coco.json"
    test.write_text(json.dumps(coco))
    texts = [{"question_id": n, "prompt": "q", "text": f"a cat number {n} sits here"} for n in (1, 2, 3)]
    answers = lines(tmp_path / "a.jsonl", *texts)
    remarks = []
    items = read_answers(answers, test, remarks=remarks)
    assert [item.reference for item in items] == ["a cat number 1 sits here", "a cat number 3 sits here"]
    assert remarks == ["1 of 3 answers are left out, since their pictures have no captions (first: line 2)."]
    assert main(["score", str(answers), "--annotations", str(test), "--scorer", "bleu", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["n"] == 2
    assert "1 of 3 answers are left out" in captured.err
    lines(answers, *texts, {"question_id": 4, "prompt": "q", "text": "x"})
    with pytest.raises(DataError, match="line 4: there are no captions for image_id 4"):
        read_answers(answers, test)
    lines(answers, *texts[:1])
    with pytest.raises(DataError, match="has captions for 2 images, there are 1 answers"):
        read_answers(answers, test)
