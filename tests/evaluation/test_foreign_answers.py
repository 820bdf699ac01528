"""Answer files of ms-swift, of the harnesses and of VLMEvalKit can be scored."""

from __future__ import annotations

import json

import pytest

from cl_plugins.base.errors import DataError
from cl_plugins.cli import main
from cl_plugins.evaluation.answers import read_answers


def swift(question, response, labels, **more):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    return {"response": response, "labels": labels, "logprobs": None, "messages": turns, "images": [], **more}


def sample(number, answer, target, **more):
    found = {
        "doc_id": number,
        "doc": {"question": "q"},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": f"Question {number}", "arg_1": {"until": ["\n"]}}},
        "resps": [[answer]],
        "filtered_resps": [answer],
        "filter": "none",
        "exact_match": 1.0,
    }
    return {**found, **more}


def vlmeval(index, prediction, answer):
    return {"index": index, "question": "Which?", "A": "yes", "B": "no", "answer": answer, "prediction": prediction}


@pytest.fixture
def written(tmp_path):
    def write(records, name="answers.jsonl"):
        path = tmp_path / name
        lines = "\n".join(json.dumps(record) for record in records)
        path.write_text(json.dumps(records) if name.endswith(".json") else lines)
        return path

    return write


def test_ms_swift(written, capsys):
    path = written([swift("what is it?", "a cat", "a cat"), swift("and this?", "a dog</s>", "a cow")])
    items = read_answers(path)
    assert [(i.id, i.prompt, i.prediction, i.reference) for i in items] == [
        ("1", "what is it?", "a cat", "a cat"),
        ("2", "and this?", "a dog</s>", "a cow"),  # words that end an answer are LLaMA-Factory's alone
    ]
    assert main(["score", str(path), "--scorer", "exact_match", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == 50.0


def test_ms_swift_beside_a_test_set_is_joined_by_row(written, tmp_path):
    path = written([swift("a?", "x", "x"), swift("b?", "y", "z")])
    test = tmp_path / "test.json"
    test.write_text(
        json.dumps([{"question_id": 7, "text": "a?", "answer": "x"}, {"question_id": 8, "text": "b?", "answer": "q"}])
    )
    with pytest.raises(DataError, match="its reference is 'z'"):
        read_answers(path, test)


@pytest.mark.parametrize("labels", [None, ["x"], 1.5e400])
def test_ms_swift_without_a_label(written, labels):
    with pytest.raises(DataError, match=r"line 2.*'labels' must be a text"):
        read_answers(written([swift("a?", "x", "x"), swift("b?", "y", labels)]))


def test_samples_of_a_harness(written):
    items = read_answers(written([sample(0, "Paris", "Paris"), sample(1, "Rome", "Oslo")]))
    assert [(i.id, i.prompt, i.prediction, i.reference) for i in items] == [
        ("0", "Question 0", "Paris", "Paris"),
        ("1", "Question 1", "Rome", "Oslo"),
    ]


def test_samples_without_one_answer_or_by_several_filters(written):
    choice = sample(0, "x", 1, filtered_resps=[["-3.2", "False"], ["-0.1", "True"]])
    with pytest.raises(DataError, match="contains log-likelihoods"):
        read_answers(written([choice]))
    both = [sample(0, "7", "7", filter="strict-match"), sample(0, "7", "7", filter="flexible-extract")]
    with pytest.raises(DataError, match=r"by 2 filters \(strict-match, flexible-extract\)"):
        read_answers(written(both))
    with pytest.raises(DataError, match="'doc_id' must be"):
        read_answers(written([sample(None, "7", "7")]))


def test_predictions_of_vlmevalkit_have_options(written, capsys):
    path = written([vlmeval(3, "A. yes", "A"), vlmeval(4, "no", "A")], "llava_MMBench.json")
    items = read_answers(path)
    assert [(i.id, i.options, i.reference) for i in items] == [("3", ("yes", "no"), "A"), ("4", ("yes", "no"), "A")]
    assert main(["score", str(path), "--scorer", "choice_accuracy", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == 50.0


def test_an_unknown_file_names_all_forms(written):
    with pytest.raises(DataError) as error:
        read_answers(written([{"output": "x"}]))
    for word in ("predict, label", "response, labels", "filtered_resps", "VLMEvalKit"):
        assert word in str(error.value)
