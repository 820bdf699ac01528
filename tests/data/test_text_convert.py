"""From what O-LoRA, Zhang et al., LFPT5 and TRACE distribute to LLaMA-Factory's data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import text_raw

from cl_plugins.base.errors import DataError
from cl_plugins.data.prepare.engine import Request, prepare
from cl_plugins.data.prepare.registry import CONVERTERS, converters
from cl_plugins.data.prepare.text.words import first_words, last_words
from cl_plugins.evaluation.items import FIELDS
from cl_plugins.evaluation.scorers.options import parse_reference
from cl_plugins.streams import load_stream


STREAMS = sorted(text_raw.RAW)


def convert(stream: str, raw: Path, out: Path, **more: Any) -> dict[str, dict[str, Any]]:
    return prepare(Request(stream, raw, out, **more))


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def dropped(out: Path, name: str) -> dict[str, str]:
    path = out / "dropped" / f"{name}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {record["id"]: record["reason"] for record in found}


def asked(record: dict[str, Any]) -> tuple[str, str]:
    question, answer = record["conversations"]
    return question["value"], answer["value"]


@pytest.mark.parametrize("stream", STREAMS)
def test_names_of_tasks_data_sets_and_columns_are_the_streams(stream: str) -> None:
    tasks = load_stream(stream).tasks
    assert list(CONVERTERS[stream]) == [task.name for task in tasks]
    for kind, task in zip(converters(stream), tasks, strict=True):
        assert (kind.task, kind.stream) == (task.name, stream)
        assert set(kind.columns) <= {*FIELDS, "options"}
        assert ("options" in kind.columns) >= (task.options_column == "options")


@pytest.mark.parametrize("stream", STREAMS)
def test_one_message_lists_all_that_is_missing(stream: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        convert(stream, tmp_path, tmp_path / "out")
    assert len(caught.value.problems) == len(CONVERTERS[stream])
    for kind, problem in zip(converters(stream), caught.value.problems, strict=True):
        assert "train.json" in problem.what
        assert "test.json" in problem.what
        assert all(source.where in problem.fix for source in kind.sources)


@pytest.mark.parametrize("stream", STREAMS)
def test_every_record_arrives(stream: str, tmp_path: Path) -> None:
    entries = convert(stream, text_raw.RAW[stream](tmp_path / "raw"), tmp_path / "out")
    assert {entry["records"] for entry in entries.values()} == {4}
    assert not any(dropped(tmp_path / "out", name) for name in entries)
    for task in load_stream(stream).tasks:
        assert {*task.train, *task.test} <= set(entries)
    assert all(record["images"] == [] for name in entries for record in lines(tmp_path / "out", name))


def test_the_prompt_is_olora_s(tmp_path: Path) -> None:
    convert("standard_cl", text_raw.olora(tmp_path / "raw"), tmp_path / "out")
    question, answer = asked(lines(tmp_path / "out", "standard_cl_agnews_train")[3])
    assert question == (
        "Task:TC\nDataset:agnews\nWhat is the topic of the following paragraph? Choose one from the option.\n"
        "Option: World, Sports, Business, Science or Technology \nTitle: train 3\nText: some words here\n\nAnswer:"
    )
    assert answer == "Science or Technology"
    record = lines(tmp_path / "out", "standard_cl_amazon_test")[4 - 1]
    assert asked(record)[0].startswith("Task:SC\nDataset:amazon\nWhat is the sentiment of")
    assert record["options"] == ["very negative", "negative", "neutral", "positive", "very positive"]


def test_the_lines_that_name_the_task_can_be_left_out_and_texts_shortened(tmp_path: Path) -> None:
    settings = {"agnews.prompt": "plain", "agnews.max_words": "3"}
    convert("standard_cl", text_raw.olora(tmp_path / "raw"), tmp_path / "out", settings=settings, tasks=("agnews",))
    question, _ = asked(lines(tmp_path / "out", "standard_cl_agnews_test")[0])
    assert question.startswith("What is the topic")
    assert question.endswith("Technology \nTitle: test 0\nAnswer:")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "texts end after 3 words" in json.dumps(manifest)


def test_labels_that_are_none_and_texts_that_are_missing_are_dropped(tmp_path: Path) -> None:
    raw = text_raw.olora(tmp_path / "raw")
    path = raw / "CL_Benchmark" / "TC" / "agnews" / "test.json"
    good = json.loads(path.read_text())
    bad = [
        {"label": "Weather", "sentence": "rain"},
        {"label": "World", "sentence": " "},
        {"label": ["World"], "sentence": "x"},
        7,
    ]
    text_raw.write(path, [*good, *bad])
    convert("standard_cl", raw, tmp_path / "out", tasks=("agnews",))
    assert list(dropped(tmp_path / "out", "standard_cl_agnews_test").values()) == [
        "label is unknown",
        "text is missing",
        "label is unknown",
        "not a record",
    ]


def test_csv_files_give_the_same_labels(tmp_path: Path) -> None:
    convert("standard_cl", text_raw.zhang(tmp_path / "raw"), tmp_path / "out")
    question, answer = asked(lines(tmp_path / "out", "standard_cl_yahoo_test")[5])
    assert 'Title: test 5\nText: a "quoted" text,\nof two lines the answer\n\nAnswer:' in question
    assert answer == "Sports"
    assert [asked(r)[1] for r in lines(tmp_path / "out", "standard_cl_agnews_train")][:5] == [
        "World",
        "Sports",
        "Business",
        "Science or Technology",
        "World",
    ]


def test_rows_of_long_csv_files_are_drawn_with_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl_plugins.data.prepare.text import standard_cl

    monkeypatch.setattr(standard_cl, "TEST_ROWS", 5)
    monkeypatch.setattr(standard_cl.AGNews, "train_rows", 3)
    raw = text_raw.zhang(tmp_path / "raw", count=40)
    found = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        convert("standard_cl", raw, tmp_path / name, tasks=("agnews",), seed=seed)
        found[name] = [record["id"] for record in lines(tmp_path / name, "standard_cl_agnews_test")]
    assert found["a"] == found["b"] != found["c"]
    assert len(found["a"]) == 5
    assert found["a"] == sorted(found["a"])  # rows stay in the order of the file
    convert("standard_cl", raw, tmp_path / "d", tasks=("agnews",), settings={"agnews.rows": "all"})
    assert len(lines(tmp_path / "d", "standard_cl_agnews_train")) == 40


def test_rows_of_csv_files_without_a_class_are_dropped_and_broken_files_refused(tmp_path: Path) -> None:
    raw = text_raw.zhang(tmp_path / "raw")
    path = raw / "ag_news_csv" / "test.csv"
    path.write_text(
        '"1","a","b"\n"5","a","b"\n"x","a","b"\n"' + "9" * 5000 + '","a","b"\n"1","b"\n"1","",""\n\n', encoding="utf-8"
    )
    convert("standard_cl", raw, tmp_path / "out", tasks=("agnews",))
    reasons = list(dropped(tmp_path / "out", "standard_cl_agnews_test").values())
    assert reasons == [*["label is unknown"] * 3, "row has fewer than three cells", "text is missing"]
    path.write_bytes(b'"1","a","\xff"\n')
    with pytest.raises(DataError, match=r"test\.csv: is not UTF-8"):
        convert("standard_cl", raw, tmp_path / "other", tasks=("agnews",))
    path.write_text('"1","a","b"\n"2","a","b\n"3","a","b"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.csv: cannot be read as CSV"):
        convert("standard_cl", raw, tmp_path / "third", tasks=("agnews",))


def test_few_shot_files_get_the_long_labels(tmp_path: Path) -> None:
    raw = text_raw.lfpt5(tmp_path / "raw")
    convert("standard_cl", raw, tmp_path / "out")
    for kind in converters("standard_cl"):
        records = lines(tmp_path / "out", f"standard_cl_{kind.task}_test")
        assert [asked(record)[1] for record in records] == list(kind.labels)
    with pytest.raises(DataError, match="1_142"):
        convert(
            "standard_cl",
            raw,
            tmp_path / "no",
            tasks=("agnews",),
            settings={"agnews.form": "lfpt5", "agnews.draw": "1_142"},
        )


def test_the_form_can_be_chosen_and_is_named_in_the_manifest(tmp_path: Path) -> None:
    raw = text_raw.zhang(text_raw.olora(tmp_path / "raw"))
    for form, count in (("auto", 4), ("csv", 6)):
        convert("standard_cl", raw, tmp_path / form, tasks=("agnews",), settings={"agnews.form": form})
        assert len(lines(tmp_path / form, "standard_cl_agnews_test")) == count
    assert "read from the CSV files" in (tmp_path / "csv" / "manifest.json").read_text()


@pytest.mark.parametrize("value", ["0", "-3", "many", "2.5", ""])
def test_a_number_of_words_that_is_none_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--set fomc\.max_words: is"):
        convert("trace", text_raw.trace(tmp_path / "raw"), tmp_path / "out", settings={"fomc.max_words": value})


def test_words_keep_the_spaces_between_them() -> None:
    text = "  one\ttwo\n\nthree "
    assert first_words(text, "all") == last_words(text, "all") == text
    assert (first_words(text, "2"), last_words(text, "2")) == ("  one\ttwo", "two\n\nthree ")
    assert (first_words(text, "9"), last_words(text, "9")) == (text, text)


def test_trace_in_other_folders_and_without_eval_file(tmp_path: Path) -> None:
    raw = text_raw.trace(tmp_path / "raw", top=".")
    (raw / "FOMC" / "eval.json").unlink()
    entries = convert("trace", raw, tmp_path / "out", tasks=("fomc", "c_stance"))
    assert list(entries) == [
        *("trace_c_stance_train", "trace_c_stance_valid", "trace_c_stance_test"),
        *("trace_fomc_train", "trace_fomc_test"),
    ]


def test_answers_of_both_releases_of_fomc_name_an_option(tmp_path: Path) -> None:
    raw = text_raw.trace(tmp_path / "raw")
    path = raw / "LLM-CL-Benchmark_5000" / "FOMC" / "test.json"
    text_raw.write(
        path, [*json.loads(path.read_text()), {"prompt": "p", "answer": "bullish"}, {"prompt": 3, "answer": None}]
    )
    convert("trace", raw, tmp_path / "out", tasks=("fomc",))
    records = lines(tmp_path / "out", "trace_fomc_test")
    assert [parse_reference(asked(record)[1], record["options"]) for record in records] == ["A", "B", "C", "B"]
    assert list(dropped(tmp_path / "out", "trace_fomc_test").values()) == [
        "reference names no option",
        "answer is missing",
    ]


def test_scienceqa_is_tested_on_the_letter_and_trained_on_the_reasons(tmp_path: Path) -> None:
    raw = text_raw.trace(tmp_path / "raw")
    path = raw / "LLM-CL-Benchmark_5000" / "ScienceQA" / "test.json"
    text_raw.write(
        path, [*json.loads(path.read_text()), {"prompt": "p", "answer": "Because"}, {"prompt": "p", "answer": " "}]
    )
    convert("trace", raw, tmp_path / "out", tasks=("scienceqa",))
    assert asked(lines(tmp_path / "out", "trace_scienceqa_train")[0])[1] == "A\nBecause it is cold."
    tested = lines(tmp_path / "out", "trace_scienceqa_test")
    assert [asked(record)[1] for record in tested] == ["A", "B", "A", "B"]
    assert tested[0]["answers"] == ["A\nBecause it is cold."]
    assert len(dropped(tmp_path / "out", "trace_scienceqa_test")) == 2


def test_scienceqa_of_the_first_release_has_a_word_before_the_letter(tmp_path: Path) -> None:
    raw = text_raw.trace(tmp_path / "raw")
    path = raw / "LLM-CL-Benchmark_5000" / "ScienceQA" / "test.json"
    answers = ["Answer: B\nBecause it is hot.", "Answer: Because it is hot.", "Answer:"]
    text_raw.write(path, [{"prompt": "p", "answer": answer} for answer in answers])
    convert("trace", raw, tmp_path / "out", tasks=("scienceqa",))
    (record,) = lines(tmp_path / "out", "trace_scienceqa_test")
    assert asked(record)[1] == "B"
    assert record["answers"] == ["Answer: B\nBecause it is hot."]
    assert set(dropped(tmp_path / "out", "trace_scienceqa_test").values()) == {
        "reference begins with no letter of an option"
    }


def test_a_file_that_two_splits_share_is_remarked(tmp_path: Path) -> None:
    raw = text_raw.trace(tmp_path / "raw")
    folder = raw / "LLM-CL-Benchmark_5000" / "FOMC"
    records = json.loads((folder / "train.json").read_text())
    text_raw.write(folder / "train.json", records[:2])
    entries = convert("trace", raw, tmp_path / "out", tasks=("fomc",))
    same = {
        entry["split"]: [text for text in entry["remarks"] if "is the same file as" in text]
        for entry in entries.values()
    }
    assert same["train"] == []
    assert [text.partition(" is ")[0].rpartition("/")[2] for text in same["valid"]] == ["eval.json"]
    assert same["valid"][0].endswith("FOMC/test.json, of the split test")
    assert same["test"][0].endswith("FOMC/eval.json, of the split valid")


def test_long_prompts_keep_their_end(tmp_path: Path) -> None:
    raw = text_raw.trace(tmp_path / "raw")
    convert("trace", raw, tmp_path / "out", tasks=("meetingbank",), settings={"meetingbank.max_words": "3"})
    assert asked(lines(tmp_path / "out", "trace_meetingbank_train")[2])[0] == "long talk 2"
