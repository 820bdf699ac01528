"""``cl-plugins score``: files of other programs in every form, and what is said about broken ones."""

from __future__ import annotations

import json

import pytest

from cl_plugins.cli import main
from cl_plugins.evaluation.answers import read_answers


@pytest.fixture
def score(capsys, monkeypatch, tmp_path):
    """Run ``cl-plugins score`` in a folder of its own: (exit code, the JSON printed or None, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def go(*words):
        capsys.readouterr()
        code = main(["score", *map(str, words), "--format", "json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, " ".join(captured.err.split())

    return go


def lines(path, *records):
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def answer(key, text, **more):
    return {"question_id": key, "prompt": "q", "text": text, "answer_id": "x", "model_id": "m", "metadata": {}} | more


def question(key, right, **more):
    return {"question_id": key, "image": "images/AI2D_1.png", "text": "q", "answer": right} | more


def row(predict, label):
    return {"prompt": "USER: q ASSISTANT:", "predict": predict, "label": label}


# --- the peers' answer files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "value"), [("rs", 75.0), ("med", 75.0), ("ad", 75.0), ("sci", 25.0), ("fin", 50.0)])
def test_mllm_cl_answers_are_joined_with_their_annotations(score, tmp_path, task, value):
    answers = lines(
        tmp_path / "merge.jsonl", answer(2, "B"), answer("1", "b."), answer("x", "no"), answer("4", "a B c")
    )
    test = tmp_path / "test.json"
    test.write_text(json.dumps([question(k, r) for k, r in (("1", "B"), ("2", "B"), ("4", "B"), ("x", "yes"))]))
    code, found, err = score(answers, "--annotations", test, "--scorer", f"peer:mllm_cl:{task}")
    assert (code, err) == (0, "")
    assert found == {"accuracy": value}


def test_the_prompt_of_the_answer_and_the_picture_of_the_annotation_are_used(score, tmp_path):
    answers = lines(tmp_path / "a.jsonl", answer("1", "Ohio", prompt="Which states?"))
    test = lines(tmp_path / "t.jsonl", question("1", "Ohio,Texas", image=["x/MapQA_3.png"]))
    assert score(answers, "--annotations", test, "--scorer", "peer:mllm_cl:sci")[1] == {"accuracy": 50.0}
    (item,) = read_answers(answers, test)
    assert (item.prompt, item.fields["image"], item.id) == ("Which states?", "x/MapQA_3.png", "1")


def test_answers_may_be_one_json_list_and_scored_strictly(score, tmp_path):
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps([answer("1", "Yes."), answer("2", "no")]))
    test = lines(tmp_path / "t.jsonl", question("1", "yes"), question("2", "yes"))
    code, found, _ = score(answers, "--annotations", test, "--scorer", "exact_match")
    assert code == 0
    assert found["score"] == 50
    assert found["scorer"] == "exact_match@2"
    assert not any(isinstance(value, dict | list) for value in found.values())


def test_percentages_are_not_rounded(score, tmp_path):
    answers = lines(tmp_path / "a.jsonl", *(answer(str(n), "B" if n else "A") for n in range(3)))
    test = lines(tmp_path / "t.jsonl", *(question(str(n), "B") for n in range(3)))
    assert score(answers, "--annotations", test, "--scorer", "peer:mllm_cl:fin")[1]["accuracy"] == 200 / 3


def test_mslora_cr_answers_stand_alone_and_may_repeat_ids(score, tmp_path):
    file = lines(
        tmp_path / "answer-file.jsonl",
        answer(1, "Yes", gt="yes", answer_type="CLOSED"),
        answer(1, "left lung", gt="lung", answer_type="OPEN"),
        {"question_id": 2, "question": "q", "prediction": "no", "ground_truth": "normal"},
    )
    # The first line decides where the answer and the reference stand; the peer takes either name.
    code, found, err = score(file, "--scorer", "peer:mslora_cr")
    assert (code, err) == (0, "")
    assert list(found) == (
        ["exact_match", "f1", "precision", "recall", "bleu", "bleu_1", "bleu_2", "bleu_3", "closed_accuracy"]
    )
    assert found["exact_match"] == pytest.approx(100 / 3)
    assert found["closed_accuracy"] == 100
    assert found["recall"] == 50
    items = read_answers(file)
    assert [item.id for item in items] == ["1#1", "1#2", "2"]
    assert [item.fields["question_id"] for item in items] == ["1", "1", "2"]


def test_closed_files_have_no_open_metrics(score, tmp_path):
    file = lines(tmp_path / "a.jsonl", answer("x", "abnormal", gt="normal", answer_type="CLOSED"))
    assert score(file, "--scorer", "peer:mslora_cr")[1] == {"exact_match": 0.0, "closed_accuracy": 100.0}


def test_coin_boxes_and_human_answers_come_from_the_annotations(score, tmp_path):
    answers = lines(tmp_path / "a.jsonl", answer("1", "[0.10, 0.10, 0.90, 0.90]"))
    boxes = lines(
        tmp_path / "b.jsonl",
        {"question_id": "1", "text": "q", "answer_bbox": "[0.10, 0.10, 0.90, 0.90]", "size": [9, 5]},
    )
    assert score(answers, "--annotations", boxes, "--scorer", "peer:coin:grounding")[1] == {"accuracy": 100.0}
    vqa = tmp_path / "vqa.json"
    vqa.write_text(json.dumps({"data": [{"question_id": 1, "question": "q", "answers": ["two"] * 10}]}))
    answers = lines(tmp_path / "c.jsonl", answer("1", "2"))
    assert score(answers, "--annotations", vqa, "--scorer", "peer:coin:textvqa")[1] == {"accuracy": 100.0}


def test_scienceqa_problems(score, tmp_path):
    problems = tmp_path / "problems.json"
    entry = {"question": "q", "choices": ["x", "y"], "answer": 1, "split": "test"}
    problems.write_text(json.dumps({"7": entry, "8": entry | {"split": "train"}}))
    answers = lines(tmp_path / "a.jsonl", answer("7", "B. y"))
    assert score(answers, "--annotations", problems, "--scorer", "peer:coin:scienceqa")[1] == {"accuracy": 100.0}


def test_annotations_without_ids_are_joined_by_row(score, tmp_path):
    answers = lines(tmp_path / "a.jsonl", answer("1", "cat"), answer("2", ""))
    test = lines(tmp_path / "t.jsonl", {"text": "q", "answer": "cat"}, {"text": "q", "answer": "dog"})
    assert score(answers, "--annotations", test, "--scorer", "peer:coin:imagenet")[1] == {"accuracy": 100.0}
    lines(tmp_path / "t.jsonl", {"text": "q", "answer": "cat"})
    code, _, err = score(answers, "--annotations", test, "--scorer", "peer:coin:imagenet")
    assert code == 2
    assert "has 2 answers for the 1 records" in err


def test_imagenet_is_joined_by_row_as_both_peers_do(score, tmp_path):
    answers = lines(tmp_path / "a.jsonl", answer("1", "cat"), answer("2", "dog"), answer("2", "dog"))
    test = lines(tmp_path / "t.jsonl", question("2", "cat"), question("1", "dog"), question("2", "cow"))
    for library in ("coin", "mcitlib"):
        code, found, err = score(answers, "--annotations", test, "--scorer", f"peer:{library}:imagenet")
        assert (code, err) == (0, "")
        assert found == {"accuracy": 200 / 3}, "by id, nothing would be right"
    assert "is used twice" in score(answers, "--annotations", test, "--scorer", "peer:coin:gqa")[2]
    lines(tmp_path / "t.jsonl", question("2", "cat"), question("1", "dog"))
    assert "they are joined by row" in score(answers, "--annotations", test, "--scorer", "peer:coin:imagenet")[2]


def test_lists_of_states_are_one_answer_as_in_prepared_data(score, tmp_path):
    answers = lines(tmp_path / "a.jsonl", answer("1", "Ohio,Texas", prompt="Which states are red?"))
    listed = question("1", ["Texas", "Ohio"], text="Which states are red?", image="images/map_1.png")
    test = lines(tmp_path / "t.jsonl", listed)
    (item,) = read_answers(answers, test)
    assert (item.reference, item.fields.get("answers")) == ("Texas,Ohio", None)
    assert score(answers, "--annotations", test, "--scorer", "peer:mllm_cl:sci")[1] == {"accuracy": 100.0}
    assert score(answers, "--annotations", test, "--scorer", "list_f1")[1]["score"] == 100


def test_of_several_answers_the_most_frequent_is_the_reference_as_in_prepared_data(tmp_path):
    from cl_plugins.data.prepare.llava.fields import answer_of

    answers = lines(tmp_path / "a.jsonl", answer("1", "red"), answer("2", "red"))
    several = (["blue", "red", "red"], ["blue", "red"])
    test = lines(tmp_path / "t.jsonl", *(question(str(n), right) for n, right in enumerate(several, start=1)))
    found = [item.reference for item in read_answers(answers, test)]
    assert found == ["red", "blue"] == [answer_of(right)[0] for right in several]


def test_captions_are_joined_by_line_as_the_peer_does(tmp_path):
    answers = lines(tmp_path / "a.jsonl", answer("77", "a cat"), answer("78", "a dog"))
    captions = tmp_path / "coco.json"
    listed = [
        {"image_id": 2, "caption": "dog"},
        {"image_id": 1, "caption": "cat"},
        {"image_id": 1, "caption": "a cat"},
    ]
    captions.write_text(json.dumps({"images": [], "annotations": listed}))
    first, second = read_answers(answers, captions)
    assert (first.fields["answers"], second.reference) == (["cat", "a cat"], "dog")


# --- LLaMA-Factory -----------------------------------------------------------------------------------------------


def test_llamafactory_alone(score, tmp_path):
    file = lines(tmp_path / "generated_predictions.jsonl", row("B", "B"), row("B. x", "B"), row("c", "B"))
    assert score(file, "--scorer", "peer:medical_cl:sur")[1] == {"accuracy": 200 / 3}
    assert score(file, "--scorer", "peer:mslora_cr")[1]["exact_match"] == pytest.approx(100 / 3)
    found = score(file, "--scorer", "peer:llamafactory")[1]
    assert set(found) == {"bleu-4", "rouge-1", "rouge-2", "rouge-l"}


@pytest.mark.parametrize("form", ["peer", "sharegpt", "openai", "alpaca"])
def test_llamafactory_joined_by_row_with_the_test_set(score, tmp_path, form):
    file = lines(tmp_path / "g.jsonl", row("A", "B"), row("B", "B\n"), row("texas", "Texas"))
    rights = ["B", "B", "Texas"]
    turns = {
        "peer": lambda right: {"text": "q", "answer": right},
        "sharegpt": lambda right: {
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": right}]
        },
        "openai": lambda right: {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": right}]
        },
        "alpaca": lambda right: {"instruction": "q", "output": right},
    }
    pictures = ["AI2D_1.png", "TQA_1.png", "MapQA_1.png"]
    records = [
        turns[form](right) | {"id": f"t{n}", "images": [f"p/{name}"], "answer_type": "CLOSED"}
        for n, (right, name) in enumerate(zip(rights, pictures, strict=True))
    ]
    test = tmp_path / "test.json"
    test.write_text(json.dumps(records))
    assert score(file, "--annotations", test, "--scorer", "peer:mllm_cl:sci")[1] == {"accuracy": 200 / 3}
    assert set(score(file, "--annotations", test, "--scorer", "peer:mslora_cr")[1]) == {
        "exact_match",
        "closed_accuracy",
    }
    assert [item.id for item in read_answers(file, test)] == ["t0", "t1", "t2"]


def test_labels_that_differ_are_refused_with_both_lines(score, tmp_path):
    file = lines(tmp_path / "g.jsonl", row("A", "B"), "\n", row("A", "C"), row("A", "A"))
    test = lines(tmp_path / "test.jsonl", *(question(n, right) for n, right in enumerate("BAC")))
    code, found, err = score(file, "--annotations", test, "--scorer", "exact_match")
    assert (code, found) == (2, None)
    assert "g.jsonl, line 3 its reference is 'C'" in err
    assert "test.jsonl, line 2 it is 'A'" in err
    assert "g.jsonl, line 4 its reference is 'A'" in err
    assert "line 1 its" not in err


def test_a_test_set_of_another_length_is_refused(score, tmp_path):
    file = lines(tmp_path / "g.jsonl", row("A", "B"))
    test = lines(tmp_path / "t.jsonl", question("1", "B"), question("2", "B"))
    code, _, err = score(file, "--annotations", test, "--scorer", "exact_match")
    assert code == 2
    assert "has 1 answers for the 2 records" in err


def test_references_in_both_peer_files_must_agree(score, tmp_path):
    file = lines(tmp_path / "a.jsonl", answer("1", "x", gt="left  lung"), answer("2", "x", gt="liver"))
    test = lines(tmp_path / "t.jsonl", question("2", "lung"), question("1", "left lung"))
    code, _, err = score(file, "--annotations", test, "--scorer", "exact_match")
    assert code == 2
    assert "a.jsonl, line 2 its reference is 'liver', in " in err
    assert "a.jsonl, line 1" not in err


def test_repeated_ids_are_joined_by_row_where_both_files_have_them_in_the_same_order(score, tmp_path):
    file = lines(tmp_path / "a.jsonl", answer(1, "lung", gt="lung"), answer(2, "x", gt="y"), answer(1, "no", gt="yes"))
    test = lines(tmp_path / "test.jsonl", *({"question_id": n, "text": "q", "gt": g} for n, g in zip((1, 2, 1), ("lung", "y", "yes"), strict=True)))  # fmt: skip
    found = score(file, "--annotations", test, "--scorer", "peer:mslora_cr:exact_match")[1]
    assert found["exact_match"] == pytest.approx(100 / 3)
    items = read_answers(file, test)
    assert [item.id for item in items] == ["1#1", "2", "1#3"]
    assert [item.fields["question_id"] for item in items] == ["1", "2", "1"]


def test_in_another_order_the_advice_is_to_leave_the_annotations_out(score, tmp_path):
    file = lines(tmp_path / "a.jsonl", answer(1, "lung", gt="lung"), answer(2, "x", gt="y"), answer(1, "no", gt="yes"))
    test = lines(tmp_path / "test.jsonl", *(question(n, "x") for n in (2, 1, 1)))
    code, _, err = score(file, "--annotations", test, "--scorer", "peer:mslora_cr")
    assert code == 2
    assert err.count("The answer file contains references: omit --annotations.") == 2
    assert "Keep one" not in err
    assert score(file, "--scorer", "peer:mslora_cr")[0] == 0


# --- what is wrong with a file -----------------------------------------------------------------------------------


def test_ids_that_are_missing_or_repeated_in_a_join(score, tmp_path):
    file = lines(tmp_path / "a.jsonl", answer("1", "x"), answer("9", "x"), answer("1", "y"))
    test = lines(tmp_path / "t.jsonl", question("1", "x"), question("2", "x"), question("3", "x"), question("2", "y"))
    code, _, err = score(file, "--annotations", test, "--scorer", "peer:mllm_cl:med")
    assert code == 2
    assert "4 problems" in err
    assert "a.jsonl, line 2 the id '9' is not in" in err
    assert "a.jsonl, line 3 the id '1' was answered already (line 1)" in err
    assert "t.jsonl, line 4 the id '2' is used twice (line 2)" in err
    assert "2 of its 3 questions have no answer (first: '2')" in err


def test_questions_without_answer_may_be_left_out_on_purpose(score, tmp_path):
    file = lines(tmp_path / "a.jsonl", answer("2", "x"))
    test = lines(tmp_path / "t.jsonl", question("1", "x"), question("2", "x"))
    words = (file, "--annotations", test, "--scorer", "peer:mllm_cl:med")
    assert score(*words)[0] == 2
    assert score(*words, "--partial")[1] == {"accuracy": 100.0}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"question_id": "2", \n', "a.jsonl, line 2 is not JSON"),
        ("[1]\n", "a.jsonl, line 2 is list, not a JSON object"),
        ({"question_id": "2", "prompt": "q"}, "a.jsonl, line 2 the key 'prediction' or 'text' is missing"),
        (answer("2", None), "a.jsonl, line 2 'text' must be a text, found None"),
        (answer("2", ["x"]), "a.jsonl, line 2 'text' must be a text, found ['x']"),
        (answer("2", float("nan")), "a.jsonl, line 2 'text' must be a text, found nan"),
        (answer("2", float("-inf")), "a.jsonl, line 2 'text' must be a text, found -inf"),
        (answer(None, "x"), "a.jsonl, line 2 'question_id' must be a string or a number, found None"),
        (answer(True, "x"), "a.jsonl, line 2 'question_id' must be a string or a number, found True"),
    ],
)
def test_a_malformed_line_is_named(score, tmp_path, bad, message):
    file = lines(tmp_path / "a.jsonl", answer("1", "x"), bad)
    test = lines(tmp_path / "t.jsonl", question("1", "x"), question("2", "x"))
    code, found, err = score(file, "--annotations", test, "--scorer", "peer:mllm_cl:med")
    assert (code, found) == (2, None)
    assert message in err


def test_every_malformed_line_is_named_at_once(score, tmp_path):
    file = lines(tmp_path / "g.jsonl", row("A", "B"), {"predict": "x"}, row("A", "B"), {"label": "x"})
    _, _, err = score(file, "--scorer", "exact_match")
    assert "line 2 the key 'label' is missing" in err
    assert "line 4 the key 'predict' is missing" in err


def test_bad_bytes_are_found_by_line(score, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(json.dumps(answer("1", "x", gt="x")).encode() + b'\n{"text": "\xff"}\n')
    assert "a.jsonl, line 2 is not UTF-8" in score(file, "--scorer", "peer:mslora_cr")[2]
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(answer("1", "x", gt="x")).encode())
    assert score(file, "--scorer", "peer:mslora_cr:recall")[1]["recall"] == 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no answers"),
        ("[{,", "line 1 is not JSON"),
        ("[1, 2]", "record 2 is int, not a JSON object"),
        ('{"a": 1}\n', "has the keys 'a'. → Known are LLaMA-Factory's"),
        (json.dumps(answer("1", "x")), "contains no reference answers. → Give the test set with --annotations FILE."),
        (json.dumps(answer("1", "x", gt=None)), "'gt' must be a text, found None"),
        (json.dumps(answer("1", "x", gt=float("nan"))), "line 1 'gt' must be a text, found nan"),
        (json.dumps(row(float("inf"), "x")), "line 1 'predict' must be a text, found inf"),
    ],
)
def test_files_that_are_not_answers(score, tmp_path, content, message):
    file = tmp_path / "a.jsonl"
    file.write_text(content)
    code, found, err = score(file, "--scorer", "exact_match")
    assert (code, found) == (2, None)
    assert message in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "t.json: cannot be read"),
        ("[]", "t.json: holds no records"),
        ('[\n{"question_id": "1",}\n]', "t.json, line 2: is not JSON"),
        ('[{"question_id": "1", "text": "q"}]', "t.json, record 1: has no right answer"),
        ('[{"question_id": "1", "answer": null}]', "t.json, record 1: has no right answer"),
        ('[{"question_id": "1", "answer": NaN}]', "t.json, record 1: 'answer' is nan, which is not an answer"),
        ('[{"question_id": "1", "gt": -Infinity}]', "t.json, record 1: 'gt' is -inf, which is not an answer"),
        (
            '[{"question_id": "1", "answers": ["a", NaN]}]',
            "t.json, record 1: 'answers' is ['a', nan], which is not an answer",
        ),
        ('{"annotations": [{"caption": "x"}]}', "t.json, annotation 1: needs 'image_id' and 'caption'"),
        ('[{"question_id": "1", "answer": "x"}, {"answer": "y"}]', "record 2: has no 'question_id', but others have"),
        ('{"annotations": [{"image_id": 2, "caption": "x"}]}', "line 1: there are no captions for image_id 1"),
    ],
)
def test_annotations_that_are_none(tmp_path, content, message):
    from cl_plugins.base.errors import DataError

    file = lines(tmp_path / "a.jsonl", answer("1", "x"))
    test = tmp_path / "t.json"
    if content is not None:
        test.write_text(content)
    with pytest.raises(DataError) as caught:
        read_answers(file, test)
    assert message in str(caught.value)


def test_predictions_of_a_run_are_read_as_ever(score, tmp_path):
    own = {"id": "a", "prompt": "p", "prediction": "x", "reference": "x", "fields": {"answer_type": "CLOSED"}}
    file = lines(tmp_path / "own.jsonl", own)
    assert score(file, "--scorer", "peer:mslora_cr")[1] == {"exact_match": 100.0, "closed_accuracy": 100.0}
    test = lines(tmp_path / "t.jsonl", question("a", "x"))
    assert "already contains references" in score(file, "--scorer", "exact_match", "--annotations", test)[2]
    lines(file, own | {"fields": 3})
    assert "line 1 'fields' is 3" in score(file, "--scorer", "exact_match")[2]


def test_a_peer_without_its_task_is_refused(score, tmp_path):
    file = lines(tmp_path / "a.jsonl", row("a", "a"))
    code, found, err = score(file, "--scorer", "peer:mllm_cl")
    assert (code, found) == (2, None)
    assert "--scorer" in err
    assert "peer:mllm_cl:rs" in err


def test_text_output_shows_the_peers_metrics(capsys, tmp_path):
    file = lines(tmp_path / "a.jsonl", answer("x", "left lung", gt="lung"))
    assert main(["score", str(file), "--scorer", "peer:mslora_cr"]) == 0
    out = capsys.readouterr().out
    assert "peer:mslora_cr@2" in out
    assert "precision" in out
    assert "50.00" in out
