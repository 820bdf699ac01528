"""From what the authors of MLLM-CL, MSLoRA-CR, CoIN and UCIT distribute to LLaMA-Factory's data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llava_raw
import pytest

from cl_plugins.base.errors import DataError
from cl_plugins.data.prepare.engine import Request, prepare
from cl_plugins.data.prepare.registry import CONVERTERS, converters
from cl_plugins.evaluation.items import FIELDS
from cl_plugins.streams import load_stream


STREAMS = sorted({*llava_raw.RAW, "mslora_cr_6"})


def convert(stream: str, raw: Path, out: Path, **more: Any) -> dict[str, dict[str, Any]]:
    return prepare(Request(stream, raw, out, **more))


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def dropped(out: Path, name: str) -> dict[str, str]:
    path = out / "dropped" / f"{name}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {record["id"]: record["reason"] for record in found}


def answers(out: Path, name: str) -> list[str]:
    return [record["conversations"][-1]["value"] for record in lines(out, name)]


@pytest.mark.parametrize("stream", STREAMS)
def test_names_of_tasks_and_data_sets_are_the_streams(stream: str) -> None:
    tasks = load_stream(stream).tasks
    assert list(CONVERTERS[stream]) == [task.name for task in tasks]
    for kind, task in zip(converters(stream), tasks, strict=True):
        assert kind.task == task.name
        name = f"{kind.stream}_{kind.task}"
        assert (task.train, task.test) == ((f"{name}_train",), (f"{name}_test",))


@pytest.mark.parametrize("stream", STREAMS)
def test_columns_are_those_that_scorers_may_ask_for(stream: str) -> None:
    for kind in converters(stream):
        assert set(kind.columns) <= {*FIELDS, "options"}


@pytest.mark.parametrize("stream", STREAMS)
def test_one_message_lists_all_that_is_missing(stream: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        convert(stream, tmp_path, tmp_path / "out")
    assert len(caught.value.problems) == len(CONVERTERS[stream])
    for kind, problem in zip(converters(stream), caught.value.problems, strict=True):
        assert "train" in problem.what
        assert "test" in problem.what or "val.json" in problem.what
        assert kind.sources[0].where in problem.fix
        assert kind.sources[0].licence in problem.fix
    assert not (tmp_path / "out" / "dataset_info.json").exists()


def test_a_picture_folder_that_is_still_packed_is_named_with_the_command(tmp_path: Path) -> None:
    import shutil
    import zipfile

    from cl_plugins.cli import main

    raw = llava_raw.mllm_cl(tmp_path / "raw")
    archive = raw / "RS" / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (raw / "RS" / "images").iterdir():
            file.write(path, f"images/{path.name}")
    shutil.rmtree(raw / "RS" / "images")
    with pytest.raises(DataError) as caught:
        convert("mllm_cl", raw, tmp_path / "out", tasks=("rs",))
    command = f"cl-plugins data unpack {archive} --out {raw / 'RS' / 'images'}"
    assert command in caught.value.problems[0].fix
    assert "Obtain: " in caught.value.problems[0].fix
    assert main(command.split()[1:]) == 0
    assert convert("mllm_cl", raw, tmp_path / "out", tasks=("rs",))["mllm_cl_rs_train"]["records"] == 4


@pytest.mark.parametrize("stream", sorted(llava_raw.RAW))
def test_every_record_arrives_once_with_an_id_of_its_own(stream: str, tmp_path: Path) -> None:
    made = convert(stream, llava_raw.RAW[stream](tmp_path / "raw"), tmp_path / "out")
    for name, entry in made.items():
        ids = [record["id"] for record in lines(tmp_path / "out", name)]
        assert len(ids) == len(set(ids)) == entry["records"] >= 3
        for record in lines(tmp_path / "out", name):
            question = record["conversations"][-2]["value"]
            assert question.count("<image>") == len(record["images"])
            assert all((tmp_path / "out" / image).is_file() for image in record["images"])
    reasons = {reason for entry in made.values() for reason in entry["dropped"]["reasons"]}
    assert reasons <= {"answer is missing", "reference names no option"}


def test_the_short_stream_of_mslora_cr_takes_the_data_sets_of_the_long_one(tmp_path: Path) -> None:
    raw = llava_raw.mslora_cr(tmp_path / "raw")
    long = convert("mslora_cr_8", raw, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.jsonl")}
    short = convert("mslora_cr_6", raw, tmp_path / "out")
    assert short == {name: long[name] for name in short}
    assert {path: path.stat().st_mtime_ns for path in before} == before


# --- oddities ---------------------------------------------------------------------------------------------------------


def test_colliding_ids_are_kept_beside_unique_ones(tmp_path: Path) -> None:
    made = convert(
        "mslora_cr_8", llava_raw.mslora_cr(tmp_path / "raw"), tmp_path / "out", tasks=("slake_vqarad", "ham")
    )
    records = lines(tmp_path / "out", "mslora_cr_slake_vqarad_test")
    assert [record["question_id"] for record in records] == ["4", "5", "6", "7", "4"]
    assert len({record["id"] for record in records}) == 5
    for name in ("mslora_cr_slake_vqarad_test", "mslora_cr_ham_test"):
        assert any("repeated question_ids in test.jsonl: 1;" in remark for remark in made[name]["remarks"])


def test_answers_as_distributed_commas_and_closed_lists(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert("mslora_cr_8", llava_raw.mslora_cr(tmp_path / "raw"), out)
    assert answers(out, "mslora_cr_derm_test")[0] == "red,green"
    assert lines(out, "mslora_cr_cxp_test")[0]["options"] == ["normal", "pneumonia"]
    assert lines(out, "mslora_cr_cxp_test")[0]["answer_type"] == "CLOSED"
    assert lines(out, "mslora_cr_nmi_test")[0]["answer_type"] == "OPEN"  # the file does not say


def test_a_reference_that_names_no_option_is_dropped_before_the_strict_scorer_meets_it(tmp_path: Path) -> None:
    from cl_plugins.evaluation.items import Item
    from cl_plugins.evaluation.scorers import get_scorer

    raw, out = llava_raw.mslora_cr(tmp_path / "raw"), tmp_path / "out"
    path = raw / "CXP" / "test.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["gt"], records[1]["gt"], records[2]["gt"] = "unclear", " Normal.", None
    llava_raw.write(path, records)
    made = convert("mslora_cr_8", raw, out, tasks=("cxp", "pathvqa"))
    assert dropped(out, "mslora_cr_cxp_test") == {
        "cxp-test-000000": "reference names no option",
        "cxp-test-000002": "answer is missing",
    }
    assert made["mslora_cr_cxp_train"]["dropped"]["count"] == 0
    assert made["mslora_cr_pathvqa_test"]["dropped"]["count"] == 0
    items = [
        Item(r["id"], "", r["conversations"][-1]["value"], r["conversations"][-1]["value"], tuple(r["options"]))
        for r in lines(out, "mslora_cr_cxp_test")
    ]
    assert get_scorer("choice_accuracy").score(items).score == 100


def test_the_first_of_several_views_is_used(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert("mslora_cr_8", llava_raw.mslora_cr(tmp_path / "raw"), out, tasks=("iu_x_ray",))
    first = lines(out, "mslora_cr_iu_x_ray_test")[0]
    assert len(first["images"]) == 1
    assert first["image"] == "NLMCXR_png/4.png"


@pytest.mark.parametrize("split", ["train", "test"])
def test_views_that_are_not_used_are_counted_and_leave_no_placeholder(split: str, tmp_path: Path) -> None:
    raw, out = llava_raw.mslora_cr(tmp_path / "raw"), tmp_path / "out"
    path = raw / "IU-X-Ray" / ("train.json" if split == "train" else "test.jsonl")
    text = path.read_text()
    records = json.loads(text) if split == "train" else [json.loads(line) for line in text.splitlines()]
    views = [f"NLMCXR_png/{n}.png" for n in (4, 5)]
    if split == "train":
        turns = records[0]["conversations"]
        turns[0]["value"] = "<image>\n" + turns[0]["value"]
    else:
        records[0]["text"] = "<image>\n<image>\n" + records[0]["text"]
    records[0]["image"], records[1]["image"] = views, views[:1]
    llava_raw.write(path, records)
    made = convert("mslora_cr_8", raw, out, tasks=("iu_x_ray",))[f"mslora_cr_iu_x_ray_{split}"]
    first = lines(out, f"mslora_cr_iu_x_ray_{split}")[0]
    assert (len(first["images"]), first["image"]) == (1, views[0])
    assert first["conversations"][0]["value"] == "<image>\nreport"
    assert (made["escaped_placeholders"], made["dropped"]["count"]) == (0, 0)
    assert f"1 records in {path.name} name several pictures; the first one is used" in made["remarks"]


def test_several_answers_and_numbers(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert("mllm_cl_ability", llava_raw.mllm_cl_ability(tmp_path / "raw"), out)
    reading = lines(out, "mllm_cl_ability_ocr_test")[0]
    assert reading["answers"] == ["red", "RED", "red "]
    assert reading["conversations"][1]["value"] == "red"
    assert reading["answer_type"] == "Regular Text Recognition"
    assert answers(out, "mllm_cl_ability_math_test")[:2] == ["3", "0.5"]
    assert lines(out, "mllm_cl_ability_vp_test")[0]["task"] == "Count"
    assert dropped(out, "mllm_cl_ability_app_test") == {"app-test-000003": "answer is missing"}


def test_lists_of_states_and_the_file_name_that_peers_score_by(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert("mllm_cl", llava_raw.mllm_cl(tmp_path / "raw"), out, tasks=("sci",))
    assert answers(out, "mllm_cl_sci_test")[-2:] == ["Texas, Ohio", "Iowa,Ohio"]
    assert lines(out, "mllm_cl_sci_test")[0]["image"] == "images/AI2D_4.png"


@pytest.mark.parametrize(
    ("stream", "task", "suffixes"),
    [
        (
            "mllm_cl",
            "fin",
            {
                "Yes": " Only answer with yes or no directly.",
                "A": " Answer with the given letter directly, e.g., A, B, C, D.",
            },
        ),
        ("mllm_cl", "med", dict.fromkeys(["red", "green"], " Answer the question with a single word (or phrase).")),
        (
            "coin",
            "scienceqa",
            dict.fromkeys(["B", "C"], "\nAnswer with the option's letter from the given choices directly."),
        ),
    ],
)
def test_the_peers_prompts_are_a_choice(stream: str, task: str, suffixes: dict[str, str], tmp_path: Path) -> None:
    raw = llava_raw.RAW[stream](tmp_path / "raw")
    convert(stream, raw, tmp_path / "plain", tasks=(task,))
    convert(stream, raw, tmp_path / "peer", tasks=(task,), settings={f"{task}.prompt": "peer"})
    for split in ("train", "test"):
        plain, peer = (lines(tmp_path / out, f"{stream}_{task}_{split}") for out in ("plain", "peer"))
        assert [record["id"] for record in plain] == [record["id"] for record in peer]
        for one, other in zip(plain, peer, strict=True):
            question, answer = (turn["value"] for turn in one["conversations"][-2:])
            asked = other["conversations"][-2]["value"]
            assert other["conversations"][-1]["value"] == answer
            if split == "train":
                assert asked == question, "the peers' test code adds it, to test questions"
            elif answer in suffixes:
                assert asked == question + suffixes[answer]
    answered = {record["conversations"][-1]["value"] for record in lines(tmp_path / "peer", f"{stream}_{task}_test")}
    assert suffixes.keys() <= answered


def test_a_question_that_has_the_peers_instruction_gets_no_second_one(tmp_path: Path) -> None:
    raw, out = llava_raw.mllm_cl(tmp_path / "raw"), tmp_path / "out"
    records = json.loads((raw / "Med" / "test.json").read_text())
    records[0]["text"] += " Answer the question with a single word (or phrase)."
    llava_raw.write(raw / "Med" / "test.json", records)
    convert("mllm_cl", raw, out, tasks=("med",), settings={"med.prompt": "peer"})
    for record in lines(out, "mllm_cl_med_test"):
        assert record["conversations"][0]["value"].count("single word") == 1


def test_coin_majority_answer_boxes_and_options(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert("coin", llava_raw.coin(tmp_path / "raw"), out)
    annotators = lines(out, "coin_textvqa_test")[0]
    assert annotators["conversations"][1]["value"] == "green"
    assert len(annotators["answers"]) == 10
    box = lines(out, "coin_grounding_test")[0]
    assert box["conversations"][1]["value"] == box["answer_bbox"] == "[0.1, 0.2, 0.5, 0.6]"
    assert [float(side) for side in box["size"]] == [20, 16]
    first, second, *_ = lines(out, "coin_scienceqa_test")
    # As many letters as the reference needs would say which one is right.
    assert (first["images"], first["options"]) == ([], [])
    assert second["options"] == ["red", "blue"]
    assert dropped(out, "coin_scienceqa_test") == {"scienceqa-test-000004": "reference names no option"}


@pytest.mark.parametrize(
    ("answer", "kept"), [("B", True), ("green", True), ("(C)", True), ("E", False), ("yellow", False), ("b", False)]
)
def test_coin_options_are_those_of_the_question(answer: str, kept: bool, tmp_path: Path) -> None:
    raw, out = llava_raw.coin(tmp_path / "raw"), tmp_path / "out"
    path = raw / "Instruction_Original" / "ScienceQA" / "test.json"
    records = json.loads(path.read_text())
    records[1] |= {"text": "which?\nA. red\nB. blue\nC. green", "answer": answer}
    path.write_text(json.dumps(records))
    convert("coin", raw, out, tasks=("scienceqa",))
    found = {record["id"]: record for record in lines(out, "coin_scienceqa_test")}
    assert ("scienceqa-test-000001" in found) is kept
    if kept:
        assert found["scienceqa-test-000001"]["options"] == ["red", "blue", "green"]
    else:
        assert dropped(out, "coin_scienceqa_test")["scienceqa-test-000001"] == "reference names no option"


def test_coin_answers_of_ten_annotators_stay_ten(tmp_path: Path) -> None:
    """The published rule needs all ten, also of those who wrote nothing."""
    raw, out = llava_raw.coin(tmp_path / "raw"), tmp_path / "out"
    path = raw / "Instruction_Original" / "TextVQA" / "val.json"
    records = json.loads(path.read_text())
    records[0]["answer"] = ["", *["red"] * 3, *["green"] * 6]
    records[1]["answer"] = "red"
    path.write_text(json.dumps(records))
    made = convert("coin", raw, out, tasks=("textvqa",))["coin_textvqa_test"]
    assert len(lines(out, "coin_textvqa_test")[0]["answers"]) == 10
    assert answers(out, "coin_textvqa_test")[0] == "green"
    assert any("`peer:coin:textvqa` refuses" in remark for remark in made["remarks"])


def test_coin_takes_the_instruction_set_that_was_asked_for(tmp_path: Path) -> None:
    raw = llava_raw.coin(tmp_path / "raw")
    (raw / "Instruction_Type2").mkdir()
    with pytest.raises(DataError, match=r"Instruction_Type2.GQA.train\.json"):
        convert("coin", raw, tmp_path / "out", tasks=("gqa",), settings={"gqa.instructions": "type2"})
    (raw / "Instruction_Original" / "GQA").rename(raw / "Instruction_Type2" / "GQA")
    assert convert("coin", raw, tmp_path / "out", tasks=("gqa",), settings={"gqa.instructions": "type2"})


def test_captions_come_from_their_own_file_by_row(tmp_path: Path) -> None:
    raw, out = llava_raw.ucit(tmp_path / "raw"), tmp_path / "out"
    path = raw / "instructions" / "Flickr30k" / "val_coco_type_3000.json"
    captions = json.loads(path.read_text())
    captions["annotations"] = [a for a in captions["annotations"] if a["image_id"] != 2]
    for annotation in captions["annotations"]:
        annotation["caption"] += f" number {annotation['image_id']}"
    path.write_text(json.dumps(captions))
    convert("ucit", raw, out, tasks=("flickr30k",))
    assert answers(out, "ucit_flickr30k_test") == [f"a red picture number {n}" for n in (1, 3, 4)]
    assert len(lines(out, "ucit_flickr30k_test")[0]["answers"]) == 3
    assert dropped(out, "ucit_flickr30k_test") == {"flickr30k-test-000001": "answer is missing"}
    path.write_text(json.dumps({"annotations": [{"caption": "no number"}]}))
    with pytest.raises(DataError, match="not in COCO's layout"):
        convert("ucit", raw, tmp_path / "other", tasks=("flickr30k",))


def test_the_reference_is_the_first_caption_also_if_another_occurs_twice(tmp_path: Path) -> None:
    raw, out = llava_raw.ucit(tmp_path / "raw"), tmp_path / "out"
    path, captions = captions_of(raw)
    for place, annotation in enumerate(captions["annotations"]):
        annotation["caption"] = ("first", "again", "again")[place % 3]
    path.write_text(json.dumps(captions))
    convert("ucit", raw, out, tasks=("flickr30k",))
    assert answers(out, "ucit_flickr30k_test") == ["first"] * 4
    assert lines(out, "ucit_flickr30k_test")[0]["answers"] == ["first", "again", "again"]


@pytest.mark.parametrize("setting", ["checked", "by_row"])
@pytest.mark.parametrize("shift", [-1, 1])
def test_captions_of_rows_that_do_not_exist_are_refused(setting: str, shift: int, tmp_path: Path) -> None:
    """Numbered from 0, every picture would get its neighbour's captions without a word."""
    raw = llava_raw.ucit(tmp_path / "raw")
    path, captions = captions_of(raw)
    for annotation in captions["annotations"]:
        annotation["image_id"] += shift
    for image in captions["images"]:
        image["id"] += shift
    path.write_text(json.dumps(captions))
    settings = {"flickr30k.captions": setting}
    with pytest.raises(DataError, match=r"`image_id` (0|5)\): it has 4 rows"):
        convert("ucit", raw, tmp_path / "out", tasks=("flickr30k",), settings=settings)
    captions["annotations"][0]["image_id"] = 1.5
    path.write_text(json.dumps(captions))
    with pytest.raises(DataError, match=r"1\.5 is no number of a row"):
        convert("ucit", raw, tmp_path / "other", tasks=("flickr30k",), settings=settings)


def captions_of(raw: Path) -> tuple[Path, dict[str, Any]]:
    path = raw / "instructions" / "Flickr30k" / "val_coco_type_3000.json"
    return path, json.loads(path.read_text())


def test_captions_of_other_pictures_are_refused(tmp_path: Path) -> None:
    """Shifted by one, every picture would get its neighbour's captions, which still look like captions."""
    raw = llava_raw.ucit(tmp_path / "raw")
    path, captions = captions_of(raw)
    for image in captions["images"]:
        image["id"] += 1
    for annotation in captions["annotations"]:
        annotation["image_id"] += 1
    # As in VizWiz, whose last picture has no captions: all numbers are those of rows.
    captions["annotations"] = [a for a in captions["annotations"] if a["image_id"] < 5]
    path.write_text(json.dumps(captions))
    with pytest.raises(DataError, match=r"3 rows differ \(row 2 is 5.png, captions 2 are of 4.png"):
        convert("ucit", raw, tmp_path / "out", tasks=("flickr30k",))
    for number, image in enumerate(captions["images"]):
        image["file_name"] = f"folder/{number + 5}.png"  # as if the pictures had been shifted with them
    path.write_text(json.dumps(captions))
    made = convert("ucit", raw, tmp_path / "out", tasks=("flickr30k",))
    assert made["ucit_flickr30k_test"]["records"] == 3


def test_captions_that_name_no_pictures_are_joined_by_row_only_if_asked(tmp_path: Path) -> None:
    raw, out = llava_raw.ucit(tmp_path / "raw"), tmp_path / "out"
    path, captions = captions_of(raw)
    path.write_text(json.dumps({**captions, "images": [{"id": 1}]}))
    with pytest.raises(DataError, match=r"does not name the pictures of 4 of its 4.*flickr30k.captions=by_row"):
        convert("ucit", raw, out, tasks=("flickr30k",))
    out = tmp_path / "by_row"
    made = convert("ucit", raw, out, tasks=("flickr30k",), settings={"flickr30k.captions": "by_row"})
    assert answers(out, "ucit_flickr30k_test") == ["a red picture"] * 4
    assert any("without comparing" in remark for remark in made["ucit_flickr30k_test"]["remarks"])


def test_a_record_without_captions_does_not_fall_back_to_its_own_answer(tmp_path: Path) -> None:
    raw, out = llava_raw.ucit(tmp_path / "raw"), tmp_path / "out"
    path, captions = captions_of(raw)
    captions["annotations"] = [a for a in captions["annotations"] if a["image_id"] != 2]
    path.write_text(json.dumps(captions))
    records = json.loads((path.parent / "test_3000.json").read_text())
    records[1]["answer"] = "Two zebras."
    llava_raw.write(path.parent / "test_3000.json", records)
    convert("ucit", raw, out, tasks=("flickr30k",))
    assert answers(out, "ucit_flickr30k_test") == ["a red picture"] * 3
    assert dropped(out, "ucit_flickr30k_test") == {"flickr30k-test-000001": "answer is missing"}


def test_answers_that_captions_replace_are_counted(tmp_path: Path) -> None:
    raw, out = llava_raw.ucit(tmp_path / "raw"), tmp_path / "out"
    path = raw / "instructions" / "Flickr30k" / "test_3000.json"
    records = json.loads(path.read_text())
    records[0]["answer"], records[1]["answer"] = "Two zebras.", "A red picture."
    llava_raw.write(path, records)
    made = convert("ucit", raw, out, tasks=("flickr30k",))
    assert [r for r in made["ucit_flickr30k_test"]["remarks"] if "none of their captions" in r] == [
        "1 records have an answer that is none of their captions; it is not used"
    ]


def textvqa(raw: Path, change: Any = None) -> None:
    """TextVQA's own annotations of the toy's pictures."""
    data = [
        {
            "question_id": 100 + n,
            "image_id": str(n),
            "question": "What colour is this picture?",
            "answers": [f"a{n}"] * 10,
        }
        for n in range(4, 8)
    ]
    if change is not None:
        change(data)
    path = raw / "cl_dataset" / "TextVQA" / "TextVQA_0.5.1_val.json"
    path.write_text(json.dumps({"dataset_type": "val", "data": data}))


def without_lists(raw: Path) -> None:
    """The test file as CoIN distributes it: one answer per question."""
    path = raw / "Instruction_Original" / "TextVQA" / "val.json"
    records = json.loads(path.read_text())
    for record in records:
        record["answer"] = "red"
        record["text"] += "\nAnswer the question using a single word or phrase."
    llava_raw.write(path, records)


def test_the_answers_of_ten_annotators_come_from_textvqas_own_file(tmp_path: Path) -> None:
    raw, out = llava_raw.coin(tmp_path / "raw"), tmp_path / "out"
    without_lists(raw)
    textvqa(raw)
    made = convert("coin", raw, out, tasks=("textvqa",))
    assert [record["answers"] for record in lines(out, "coin_textvqa_test")] == [[f"a{n}"] * 10 for n in range(4, 8)]
    assert answers(out, "coin_textvqa_test") == ["red"] * 4
    assert not any("annotators" in remark for remark in made["coin_textvqa_test"]["remarks"])
    assert any(entry["file"].endswith("TextVQA_0.5.1_val.json") for entry in made["coin_textvqa_test"]["raw"])


@pytest.mark.parametrize(
    "prompt",
    [
        "{question}\nReference OCR token: a, b\nAnswer the question using a single word or phrase.",
        "Reference OCR token: a, b\n{question}\nAnswer the question using a single word or phrase.",
        "OCR tokens: a, b. Question: {question} Short answer:",
        "{question}\nAnswer the question using a single word or phrase.",
    ],
)
def test_annotators_are_found_wherever_a_prompt_has_its_question(prompt: str, tmp_path: Path) -> None:
    raw, out = llava_raw.coin(tmp_path / "raw"), tmp_path / "out"
    without_lists(raw)
    textvqa(raw)
    path = raw / "Instruction_Original" / "TextVQA" / "val.json"
    records = json.loads(path.read_text())
    for record in records:
        record["text"] = prompt.format(question=record["text"].splitlines()[0])
    llava_raw.write(path, records)
    convert("coin", raw, out, tasks=("textvqa",))
    assert [record["answers"] for record in lines(out, "coin_textvqa_test")] == [[f"a{n}"] * 10 for n in range(4, 8)]


def test_annotators_of_another_question_are_not_taken(tmp_path: Path) -> None:
    raw, out = llava_raw.coin(tmp_path / "raw"), tmp_path / "out"
    without_lists(raw)

    def change(data: list[dict[str, Any]]) -> None:
        data[0]["question"] = "what is written here?"
        data[1]["image_id"] = "another"

    textvqa(raw, change)
    made = convert("coin", raw, out, tasks=("textvqa",))
    assert [len(record["answers"]) for record in lines(out, "coin_textvqa_test")] == [0, 0, 10, 10]
    assert any("2 of 4 items have no answers" in remark for remark in made["coin_textvqa_test"]["remarks"])
    (raw / "cl_dataset" / "TextVQA" / "TextVQA_0.5.1_val.json").unlink()
    made = convert("coin", raw, tmp_path / "other", tasks=("textvqa",))
    assert any("which is not there" in remark for remark in made["coin_textvqa_test"]["remarks"])


def test_boxes_on_pictures_that_are_not_square_are_remarked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cl_plugins.cli import main

    raw = llava_raw.coin(tmp_path / "raw")
    command = ["data", "prepare", "coin", "--raw", str(raw), "--task", "grounding", "--workers", "1", "--out"]
    assert main([*command, str(tmp_path / "plain")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Note on coin_grounding_train, coin_grounding_test: its boxes are fractions of pictures padded" in said
    assert main([*command, str(tmp_path / "square"), "--pad-square"]) == 0
    assert "--pad-square" not in capsys.readouterr().out


def test_a_file_of_another_form_says_which_keys_it_has(tmp_path: Path) -> None:
    raw = llava_raw.mslora_cr(tmp_path / "raw")
    slake = [{"img_id": 1, "img_name": "xmlab1/source.jpg", "question": "?", "answer": "MRI", "q_lang": "en"}] * 50
    llava_raw.write(raw / "Slake-VQARad" / "train.json", slake)
    with pytest.raises(DataError) as caught:
        convert("mslora_cr_8", raw, tmp_path / "out", tasks=("slake_vqarad",))
    said = str(caught.value)
    assert "names no picture: 50" in said
    assert "no `image` or `images`; the record has img_id, img_name, question, answer, q_lang" in said
    test = [{"image": "Slake_images/0.png", "question": "?", "answer": "MRI"}]
    llava_raw.write(raw / "Slake-VQARad" / "train.json", test)
    with pytest.raises(DataError, match="no `text` or `conversations`; the record has image, question, answer"):
        convert("mslora_cr_8", raw, tmp_path / "out", tasks=("slake_vqarad",))


def test_a_placeholder_in_front_of_a_test_question_is_not_doubled(tmp_path: Path) -> None:
    raw, out = llava_raw.ucit(tmp_path / "raw"), tmp_path / "out"
    path = raw / "instructions" / "IconQA" / "test_3000.json"
    records = json.loads(path.read_text())
    records[1]["text"] = "what does <image> mean here?"  # in training it would be the picture
    records[2]["text"] = "<image>\nwhat does <image> mean here?"
    llava_raw.write(path, records)
    convert("ucit", raw, out, tasks=("iconqa",))
    questions = [record["conversations"][0]["value"] for record in lines(out, "ucit_iconqa_test")]
    assert questions[0] == "<image>\nwhat colour?"
    assert questions[1] == "what does <image> mean here?"
    assert dropped(out, "ucit_iconqa_test") == {"iconqa-test-000002": "<image> does not match pictures"}


# --- wrong paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "images/4.png",
        "./images/4.png",
        "RS/images/4.png",
        "/data/somebody/RS/images/4.png",
        "somewhere\\images\\4.png",
        "4.png",
    ],
)
def test_pictures_are_found_behind_wrong_paths(name: str, tmp_path: Path) -> None:
    raw, out = llava_raw.mllm_cl(tmp_path / "raw"), tmp_path / "out"
    _first_test_picture(raw, name)
    convert("mllm_cl", raw, out, tasks=("rs",))
    record = lines(out, "mllm_cl_rs_test")[0]
    assert (out / record["images"][0]).read_bytes() == (raw / "RS" / "images" / "4.png").read_bytes()


@pytest.mark.parametrize(
    "name", ["../outside/4.png", "images/../../outside/4.png", "/etc/hostname", "train/4.png", "x" * 300 + "/4.png"]
)
def test_nothing_else_is_taken_for_the_picture(name: str, tmp_path: Path) -> None:
    raw, out = llava_raw.mllm_cl(tmp_path / "raw"), tmp_path / "out"
    llava_raw.picture(tmp_path / "outside" / "4.png")
    _first_test_picture(raw, name)
    convert("mllm_cl", raw, out, tasks=("rs",))
    assert set(dropped(out, "mllm_cl_rs_test")) == {"rs-test-000000"}
    assert len(lines(out, "mllm_cl_rs_test")) == 3


def _first_test_picture(raw: Path, name: str) -> None:
    path = raw / "RS" / "test.json"
    records = json.loads(path.read_text())
    records[0]["image"] = name
    llava_raw.write(path, records)


def test_folders_of_tasks_may_be_given_by_the_streams_names(tmp_path: Path) -> None:
    raw = llava_raw.mslora_cr(tmp_path / "raw")
    (raw / "Fitzpatrick").rename(raw / "derm")
    assert convert("mslora_cr_8", raw, tmp_path / "out", tasks=("derm",))


def test_one_tasks_files_are_never_taken_for_anothers(tmp_path: Path) -> None:
    raw = llava_raw.mllm_cl(tmp_path / "raw")
    with pytest.raises(DataError, match=r"mllm_cl\.med: these files are missing"):
        convert("mllm_cl", raw / "RS", tmp_path / "out")


# --- malformed records ------------------------------------------------------------------------------------------------

BROKEN: dict[str, Any] = {
    "not a record": "text",
    "picture field is not a name": {"image": 7, "conversations": []},
    "names no picture": {"conversations": []},
    "picture is missing": llava_raw.train_record(0, "images/none.png", "what?", "red"),
    "picture cannot be decoded": llava_raw.train_record(0, "images/broken.png", "what?", "red"),
    "picture is too large": llava_raw.train_record(0, "images/large.png", "what?", "red"),
    "<image> does not match pictures": llava_raw.train_record(0, "images/0.png", "and <image>?", "red"),
    "not a conversation": {"image": "images/0.png", "conversations": [{"from": "gpt", "value": "red"}]},
    "question is empty": {
        "image": "images/0.png",
        "conversations": [{"from": "human", "value": "  "}, {"from": "gpt", "value": "red"}],
    },
    "answer is missing": llava_raw.train_record(0, "images/0.png", "what?", float("nan")),  # type: ignore[arg-type]
    "answer is not text": llava_raw.train_record(0, "images/0.png", "what?", True),  # type: ignore[arg-type]
}


def test_malformed_records_are_dropped_with_their_reason(tmp_path: Path) -> None:
    from cl_plugins.data.prepare.images import ImageRules

    raw, out = llava_raw.mllm_cl(tmp_path / "raw"), tmp_path / "out"
    (raw / "RS" / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nand nothing else")
    llava_raw.picture(raw / "RS" / "images" / "large.png", size=(400, 300))
    whole = json.loads((raw / "RS" / "train.json").read_text())
    llava_raw.write(raw / "RS" / "train.json", [*BROKEN.values(), *whole])
    made = convert("mllm_cl", raw, out, tasks=("rs",), rules=ImageRules(max_megapixels=0.1))
    assert list(dropped(out, "mllm_cl_rs_train").values()) == list(BROKEN)
    assert made["mllm_cl_rs_train"]["dropped"]["count"] == len(BROKEN)
    assert len(lines(out, "mllm_cl_rs_train")) == len(whole)


def test_a_file_cut_short_is_an_error_and_keeps_what_is_done(tmp_path: Path) -> None:
    raw, out = llava_raw.mllm_cl(tmp_path / "raw"), tmp_path / "out"
    path = raw / "RS" / "test.json"
    text = path.read_text()
    path.write_text(text[:-40])
    with pytest.raises(DataError, match=r"test\.json: is not JSON"):
        convert("mllm_cl", raw, out, tasks=("rs",))
    assert (out / "mllm_cl_rs_train.jsonl").is_file()
    path.write_text(text)
    assert set(convert("mllm_cl", raw, out, tasks=("rs",))) == {"mllm_cl_rs_train", "mllm_cl_rs_test"}


def test_no_rows_at_all_is_an_error(tmp_path: Path) -> None:
    raw = llava_raw.mllm_cl(tmp_path / "raw")
    llava_raw.write(raw / "RS" / "test.json", [])
    with pytest.raises(DataError, match="no usable record"):
        convert("mllm_cl", raw, tmp_path / "out", tasks=("rs",))


def test_pictures_that_came_late_are_taken_when_the_data_set_is_deleted(tmp_path: Path) -> None:
    raw, out = llava_raw.mllm_cl(tmp_path / "raw"), tmp_path / "out"
    picture = raw / "RS" / "images" / "4.png"
    data = picture.read_bytes()
    picture.unlink()
    assert convert("mllm_cl", raw, out, tasks=("rs",))["mllm_cl_rs_test"]["records"] == 3
    picture.write_bytes(data)
    (out / "mllm_cl_rs_test.jsonl").unlink()
    made = convert("mllm_cl", raw, out, tasks=("rs",))["mllm_cl_rs_test"]
    assert (made["records"], made["dropped"]["count"]) == (4, 0)


def test_workers_and_the_command_line_give_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cl_plugins.cli import main

    raw = llava_raw.mslora_cr(tmp_path / "raw")
    one = convert("mslora_cr_6", raw, tmp_path / "one")
    command = ["data", "prepare", "mslora_cr_6", "--raw", str(raw), "--out", str(tmp_path / "two"), "--workers", "2"]
    assert main([*command, "--json"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert {name: entry["sha256"] for name, entry in two.items()} == {n: entry["sha256"] for n, entry in one.items()}
