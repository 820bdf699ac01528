"""What is dropped, cut or left out is counted in log, journal, ``run.json`` and report, or it is an error."""

from __future__ import annotations

import json

import pytest
import tiny
from running import go, journal, load, recipe

from cl_plugins.base.errors import DataError
from cl_plugins.cli.validate import check_recipe
from cl_plugins.host.data import load_training_set
from cl_plugins.host.session import Session
from cl_plugins.host.task_args import parse
from cl_plugins.report.notes import cut_notes, limit_note
from cl_plugins.report.run_data import read_run


def turns(*pairs):
    return {"conversations": [{"from": role, "value": text} for role, text in pairs]}


def write(folder, sets, **entry):
    folder.mkdir(parents=True, exist_ok=True)
    info = {}
    for name, records in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(records))
        info[name] = {"file_name": f"{name}.json", **entry}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def counted(llama, tmp_path):
    """The counts of a training set."""

    def load_set(records, file="train.json", entry=None, **keys):
        text = records if isinstance(records, str) else json.dumps(records)
        (tmp_path / file).write_text(text)
        info = {"train": {"file_name": file, **(entry or {})}}
        (tmp_path / "dataset_info.json").write_text(json.dumps(info))
        keys = tiny.recipe(llama, tmp_path, tmp_path / "out", text_only=True, **keys)
        keys.pop("cl")
        session = Session(parse({**keys, "dataset": "train"}))
        counts = []
        load_training_set("a", session.args, session.template, session.tokenizer_module, counts)
        return counts[0]

    return load_set


def record(question="which colour?", answer="red"):
    return {"instruction": question, "input": "", "output": answer}


def test_dropped_records_are_counted_from_training_to_report(llama, tmp_path, heard):
    good = [turns(("human", f"question {i}?"), ("gpt", "yes")) for i in range(2)]
    bad = [turns(("human", "one more"), ("human", f"question {i}?"), ("gpt", "no")) for i in range(8)]
    data = write(tmp_path / "data", {"train": good + bad, "test": good}, formatting="sharegpt")
    stream = {"name": "s", "tasks": [{"name": "a", "train": "train", "test": "test"}]}
    keys = recipe(llama, data, tmp_path / "run", "seqlora", cl={"stream": stream, "eval": {"max_new_tokens": 1}})
    go(keys)
    assert "task 'a': LLaMA-Factory dropped 8 of 10 training records" in heard.text
    by_step = {entry["step"]: entry["details"] for entry in journal(tmp_path / "run")}
    counts = {"records": 10, "dropped_records": 8, "cut_samples": 0}
    assert by_step["train:a"].items() >= counts.items()
    assert load(tmp_path / "run", "run.json")["training_data"] == {"a": counts}
    report = read_run(tmp_path / "run")
    assert "Training data of a: LLaMA-Factory dropped 8 of 10 records." in cut_notes(report)
    # the random model never ends an answer
    cut = by_step["evaluate:after_a:a"]["cut"]
    lines = (tmp_path / "run" / "predictions" / "after_a" / "a.jsonl").read_text().splitlines()
    assert cut == sum(json.loads(line).get("cut", False) for line in lines) > 0
    assert load(tmp_path / "run", "predictions/after_a/a.score.json")["cut"] == cut
    assert "answers were truncated at max_new_tokens: 1" in heard.text
    assert f"a {cut} of 2" in " ".join(cut_notes(report))


def test_a_long_answer_known_by_heart_is_right_with_room_and_counted_as_truncated_without(llama, tmp_path):
    records = [turns(("human", "what is in this picture?"), ("gpt", "red green blue grey one two three"))]
    data = write(tmp_path / "data", {"train": records * 4, "test": records}, formatting="sharegpt")
    stream = {"name": "s", "tasks": [{"name": "a", "train": "train", "test": "test"}]}
    seen = {}
    for room in (3, 30):
        out = tmp_path / f"run{room}"
        block = {"stream": stream, "eval": {"max_new_tokens": room}}
        go(recipe(llama, data, out, "seqfull", cl=block, max_steps=40, learning_rate=5e-3))
        score = load(out, "predictions/after_a/a.score.json")
        seen[room] = score["score"], score["cut"], " ".join(cut_notes(read_run(out)))
    assert seen[3][:2] == (0, 1)
    assert "a 1 of 1" in seen[3][2]
    assert seen[30][:2] == (100, 0)
    assert "truncated" not in seen[30][2]


def test_items_that_are_left_out_stand_under_every_table(llama, tmp_path):
    test = [record(), record("long question " * 60)]
    data = write(tmp_path / "data", {"train": [record()] * 4, "test": test})
    stream = {"name": "s", "tasks": [{"name": "a", "train": "train", "test": "test"}]}
    keys = recipe(llama, data, tmp_path / "run", "seqlora", cl={"stream": stream, "eval": {"max_new_tokens": 2}})
    with pytest.raises(DataError, match="1 of 2 test prompts are longer"):
        go(keys)
    keys["cl"]["eval"]["too_long"] = "drop"
    go(keys)
    assert load(tmp_path / "run", "predictions/after_a/a.score.json")["dropped"] == 1
    assert limit_note(read_run(tmp_path / "run")) == (
        "Test items left out, because their prompts exceed cutoff_len: a 1."
    )


def test_samples_that_fit_are_not_counted(counted):
    found = counted([record()] * 5)
    assert (found.records, found.dropped, found.cut) == (5, 0, 0)


@pytest.mark.parametrize("more", [{}, {"packing": True}, {"train_on_prompt": True}, {"mask_history": True}])
def test_a_question_that_is_cut_is_an_error(counted, more):
    long = " ".join(f"finding {i}" for i in range(40)) + " question: red or blue?"
    with pytest.raises(
        DataError,
        match=r"`cutoff_len: (100|99)` truncates the question of 2 of 3 training samples \(first: record 0, 2",
    ):
        counted([record(long), record(), record(long)], cutoff_len=100, **more)


@pytest.mark.parametrize("more", [{}, {"packing": True}, {"train_on_prompt": True}])
def test_an_answer_that_is_cut_is_counted(counted, more):
    found = counted([record(answer="red " * 300), record()], cutoff_len=200, **more)
    assert (found.records, found.cut) == (2, 1)


def test_a_sample_of_exactly_the_limit_is_not_cut(counted):
    from cl_plugins.host import sample_counts

    lengths = []
    original = sample_counts.full_rows
    # find the length of the sample, then make it the limit
    try:
        sample_counts.full_rows = lambda dataset, limit: (lengths.append(len(dataset[0]["input_ids"])), iter(()))[1]
        counted([record(answer="red " * 60)])
    finally:
        sample_counts.full_rows = original
    assert counted([record(answer="red " * 60)], cutoff_len=lengths[0]).cut == 0
    assert counted([record(answer="red " * 60)], cutoff_len=lengths[0] - 1).cut == 1


def test_turns_that_are_cut_off_whole_are_counted(counted):
    pairs = [("human", "red?"), ("gpt", "yes " * 400), ("human", "blue?"), ("gpt", "no")]
    assert counted([turns(*pairs)], entry={"formatting": "sharegpt"}, cutoff_len=200).cut == 1


def test_cells_that_a_csv_reader_takes_for_missing_are_counted(counted):
    answers = ["yes", "None", "NA", "null", "no", "nan"]
    rows = "\n".join(f"question {i}?,,{answer}" for i, answer in enumerate(answers))
    found = counted(f"instruction,input,output\n{rows}\n", file="train.csv")
    assert (found.records, found.dropped) == (6, 4)


@pytest.mark.parametrize("kept", [5, 2500])  # records are read a thousand at a time
def test_empty_answers_are_told(counted, heard, kept):
    answers = ["red"] * kept
    for row in (1, kept - 2):
        answers[row] = " \n"
    found = counted([record(answer=answer) for answer in answers])
    assert found.records == kept
    assert f"2 of {kept} training samples have an empty answer" in heard.text
    assert f"first: record 1, {kept - 2})" in heard.text


def test_only_the_last_answer_counts_as_empty(counted, heard):
    chat = {"formatting": "sharegpt"}
    good = turns(("human", "a?"), ("gpt", ""), ("human", "b?"), ("gpt", "yes"))
    counted([good, good], entry=chat)
    assert "empty answer" not in heard.text


def test_a_test_set_that_is_trained_on_is_told(llama, tmp_path, heard):
    records = [record(f"question {i}?") for i in range(4)]
    data = write(tmp_path / "data", {"train": records, "copy": records, "test": records[:2], "other": records[:3]})
    tasks = [{"name": "a", "train": "train", "test": "test"}, {"name": "b", "train": "other", "test": "copy"}]
    keys = recipe(
        llama, data, tmp_path / "run", "seqlora", cl={"stream": {"name": "s", "tasks": tasks}, "stop_after": 1}
    )
    told = "task 'a' trains on 'train', which has the same content as the test set 'copy' of task 'b'"
    go(keys)
    assert heard.text.count("has the same content") == heard.text.count(told) > 0
    problems, notes = check_recipe(keys, read=False)
    assert problems == []
    assert [note for note in notes if "same content" in note] == [
        f"{told}: its scores measure what was learned by heart"
    ]
