"""The real files that converters are tried on: repositories, commits, and how their content is laid out as raw files.

What the authors distribute elsewhere (training files, pictures) is not in these repositories. Test records come from
files of answers and scores, which hold the authors' questions, ids and references; training records are then made of
the first of them. Every case says what was made. Repositories are data here: nothing in them is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.data.layouts import write_json
from benchmarks.data.real_protocols import AVE, ave, convert_ave
from benchmarks.data.real_sources import Clone, Laid, Row, ask, put
from benchmarks.data.real_texts import TEXTS, radiology
from cl_plugins.data.prepare.contract import Context
from cl_plugins.data.prepare.llava.base import LlavaTask
from cl_plugins.data.prepare.registry import CONVERTERS, load


MSLORA_CR = {"VentusAislant/MSLoRA_CR": "d606bc6f383473e7b9f682805c09169d585e8645"}
SLAKE = {"xiaoman-zhang/PMC-VQA": "1678ec2c97f0b2bf84591ddccd2e84932630e450"}
# A copy of MCITlib with the authors' questions in its results; the newest commit has deleted them.
MCITLIB = {"es2ilver/MCITlib": "f4fb35701a11f87b49c0b4f2872acec646a17d5f"}
# A thousand records of LLaVA-1.5's instruction data, from the collections that CoIN's tasks are made of.
LLAVA_MIX = {"CyberSculptor96/VisionTrim": "a41765472c89b62392a74d22243db13614daae1b"}
ROCO = {"razorx89/roco-dataset": "a1f0ad6c578ca8801e5a6eccc90af051aee1c326"}

TRAIN = "training records (the first test records)"
ANSWERS = "references (a model's answers; the repository has the questions alone)"
_SOME = 200  # training records that are made of test records
_TURNS = ("human", "gpt")

#: A record without its picture, and what it has to become.
Pair = tuple[dict[str, Any], Row]


@dataclass(frozen=True)
class Case:
    """One converter on the files of one or more repositories.

    Attributes:
        name: Stream and task, and what is special about the case.
        stream: The stream.
        task: The task.
        repositories: ``owner/name`` -> commit.
        lay: Writes the raw files; takes the raw folder and a clone per repository.
        pad_square: Whether pictures are padded.
        texts_only: Whether the task has no pictures.
        convert: Another converter than `cl-plugins data prepare`: raw folder, output, what has to come -> data sets.
    """

    name: str
    stream: str
    task: str
    repositories: Mapping[str, str]
    lay: Callable[..., Laid]
    pad_square: bool = False
    texts_only: bool = False
    convert: Callable[[Path, Path, Laid], dict[str, Any]] | None = None


# --- LLaVA's layout


def lay_out(kind: type[LlavaTask], raw: Path, train: Iterable[Pair], test: Iterable[Pair]) -> dict[str, list[Row]]:
    """Write annotation files and pictures of a task, by the names that its converter prefers.

    Args:
        kind: The converter.
        raw: The raw folder.
        train: Training records.
        test: Test records.

    Returns:
        Split -> what has to come of its rows.
    """
    made = kind(Context(raw))
    rows: dict[str, list[Row]] = {}
    for folder in made.missing():
        if folder.suffix not in (".json", ".jsonl"):
            folder.mkdir(parents=True, exist_ok=True)
    for split, pairs in (("train", train), ("test", test)):
        folder = made.picture_folder(split) or raw
        collections: Sequence[str] = getattr(kind, "collections", ())
        folder = folder / collections[0] if collections else folder
        records: list[Any] = []
        rows[split] = []
        for record, row in pairs:
            if row.picture:
                put(folder, row.picture)
                record = {**record, "image": f"{folder.name}/{row.picture}"}
            records.append(record)
            rows[split].append(row)
        write_json(raw / made.names(split)[0], records)
    return rows


def conversation(row: Row) -> dict[str, Any]:
    """A training record with the turns of a row."""
    texts = [text for turn in row.turns for text in turn]
    return {"conversations": [{"from": _TURNS[n % 2], "value": text} for n, text in enumerate(texts)]}


def training(test: Sequence[Pair]) -> list[Pair]:
    """Training records out of the first test records that have an answer."""
    kept = [row for _, row in test[:_SOME] if not row.dropped]
    return [({"id": str(n), **conversation(row)}, replace(row, columns={})) for n, row in enumerate(kept)]


def _from_tests(kind: type[LlavaTask], raw: Path, test: Sequence[Pair], *made: str, **remarked: Sequence[str]) -> Laid:
    """Raw files of a task of which test records are known."""
    return Laid(lay_out(kind, raw, training(test), test), [TRAIN, *made], remarked=remarked)


# --- MSLoRA-CR


def _mslora_cr(task: str, folder: str, repeated: int, raw: Path, clone: Clone, *slake: Clone) -> Laid:
    """The authors' file of answers, which holds question, id, reference and type of all test records."""
    answers = clone.lines(f"results/finetune_lora_each-64-64_llava_med_v1.5/{folder}/answer-file.jsonl")
    kind: Any = load(CONVERTERS["mslora_cr_8"][task])
    columns = {"options": list(kind.options)} if hasattr(kind, "options") else {}
    test = []
    for place, found in enumerate(answers):
        record = {"question_id": found["question_id"], "text": found["prompt"], "gt": found["gt"]}
        record["answer_type"] = found["answer_type"]
        extra = {"question_id": found["question_id"], "answer_type": found["answer_type"], **columns}
        test.append((record, ask(found["prompt"], found["gt"], f"{place}.jpg", **extra)))
    remark = [f"repeated question_ids in test.jsonl: {repeated};"] if repeated else []
    laid = _from_tests(kind, raw, test, test=remark)
    if not slake:
        return laid
    # The data set's own file: the authors have put its English questions first.
    own = [row for row in slake[0].json("Slake1.0/test.json") if row["q_lang"] == "en"]
    texts = [(row["question"].strip(), row["answer"].strip(), row["answer_type"]) for row in own]
    theirs = [(row["prompt"].strip(), row["gt"].strip(), row["answer_type"]) for row in answers[: len(own)]]
    return replace(laid, agrees={f"the first {len(own)} rows are SLAKE's English test questions": texts == theirs})


def _another_form(raw: Path, slake: Clone) -> Laid:
    """SLAKE's own files in the place of the authors': the converter has to say which keys it found instead."""
    kind: Any = load(CONVERTERS["mslora_cr_8"]["slake_vqarad"])
    lay_out(kind, raw, [], [])
    (raw / kind(Context(raw)).names("train")[0]).write_bytes(slake.read("Slake1.0/train.json"))
    (raw / kind(Context(raw)).names("test")[0]).write_bytes(slake.read("Slake1.0/test.json"))
    return Laid(refused=["no usable record", "9835 dropped", "img_name", "mslora_cr_slake_vqarad_train"])


# --- MLLM-CL and UCIT


def _domain(task: str, folder: str, raw: Path, clone: Clone) -> Laid:
    """Questions and ids of a domain; RS also has references and names of pictures."""
    place = f"InternVL/CL-MoE/results/DCL/each_dataset/{folder}"
    files = [f"4_{part}.jsonl" for part in range(4)] if folder.startswith("AD") else ["merge.jsonl"]
    asked = [found for name in files for found in clone.lines(f"{place}/{name}")]
    scored = clone.lines(f"{place}/Result.json") if folder.startswith("RS") else []
    kind: Any = load(CONVERTERS["mllm_cl"][task])
    test = []
    for number, found in enumerate(asked):
        answer = scored[number]["ground_truth"] if scored else found["text"]
        name = scored[number]["image"].removeprefix("images/") if scored else f"{number}.jpg"
        record = {"question_id": found["question_id"], "text": found["prompt"], "answer": answer}
        row = ask(found["prompt"], answer, name, question_id=str(found["question_id"]))
        test.append((record, row if answer.strip() else replace(row, dropped="answer is empty")))
    laid = _from_tests(kind, raw, test, *([] if scored else [ANSWERS]))
    same = all(one["prompt"] == other["question"] for one, other in zip(asked, scored, strict=False))
    return replace(laid, agrees={"questions of both files": same} if scored else {})


def _pathology(raw: Path, clone: Clone) -> Laid:
    """Medical-CL's Path in the form of the paper, which is MLLM-CL's Med."""
    asked = clone.lines("InternVL/CL-MoE/results/DCL/each_dataset/Med/CL-MoE-task2/merge.jsonl")
    rows: list[Row] = []
    records = []
    for number, found in enumerate(asked):
        put(raw / "Med" / "images", f"{number}.jpg")
        record = {"question_id": found["question_id"], "text": found["prompt"], "answer": found["text"]}
        records.append({**record, "image": f"images/{number}.jpg"})
        yes = found["text"].strip().rstrip(".").lower() in ("yes", "no")
        row = ask(found["prompt"], found["text"], f"{number}.jpg", answer_type="yes/no" if yes else "other")
        rows.append(row if found["text"].strip() else replace(row, dropped="answer is empty"))
    kept = [row for row in rows[:_SOME] if not row.dropped]
    write_json(raw / "Med" / "train.json", ({**conversation(row), "image": f"images/{row.picture}"} for row in kept))
    write_json(raw / "Med" / "test.json", records)
    return Laid({"train": kept, "test": rows}, [TRAIN, ANSWERS])


def _ability(task: str, folder: str, raw: Path, clone: Clone) -> Laid:
    """Questions and ids of an ability's test set; OCR and VP also have references and names of pictures."""
    place = f"InternVL/LoRA-FT/results/ACL/each_dataset/{folder}/zero-shot"
    asked = clone.lines(f"{place}/merge.jsonl")
    scored = clone.lines(f"{place}/Result.json") if task in ("ocr", "vp") else []
    kind: Any = load(CONVERTERS["mllm_cl_ability"][task])
    test = []
    for number, found in enumerate(asked):
        more = scored[number] if scored else {}
        answer = more["ground_truth"] if scored else found["text"]
        name = more["image"].removeprefix("images/") if scored else f"{number}.jpg"
        known = {"answer_type": more.get("category"), "type": more.get("dimension"), "task": more.get("task")}
        known = {key: value for key, value in known.items() if value is not None}
        record = {"question_id": found["question_id"], "text": found["prompt"], "answer": answer, **known}
        several = {"answers": answer} if isinstance(answer, list) else {}
        first = max(answer, key=answer.count) if isinstance(answer, list) else answer
        row = ask(found["prompt"], first, name, question_id=found["question_id"], **several, **known)
        test.append((record, row if str(first).strip() else replace(row, dropped="answer is empty")))
    return _from_tests(kind, raw, test, *([] if scored else [ANSWERS]))


def _ucit(task: str, folder: str, raw: Path, clone: Clone, shift: int = 0) -> Laid:
    """Questions, ids and references; captions become the authors' file in COCO's layout, shifted if requested."""
    place = f"InternVL/CL-MoE/results/UCIT/each_dataset/{folder}/CL-MoE-task6"
    asked, scored = clone.lines(f"{place}/merge.jsonl"), clone.json(f"{place}/ans_gt.json")
    kind: Any = load(CONVERTERS["ucit"][task])
    test: list[Pair] = []
    for found, score in zip(asked, scored, strict=True):
        right = score["ground_truth"]
        record = {"question_id": found["question_id"], "text": found["prompt"]}
        name = f"{found['question_id']}.jpg"
        if not isinstance(right, list):
            row = ask(found["prompt"], right, name, question_id=found["question_id"])
            test.append((record | {"answer": right}, row))
        elif right:
            first = max(right, key=right.count)
            test.append((record, ask(found["prompt"], first, name, question_id=found["question_id"], answers=right)))
        else:
            test.append((record, Row(picture=name, dropped="answer is missing")))
    laid = _from_tests(kind, raw, test)
    aligned = {"answers of both files": [one["text"] for one in asked] == [one["pred"] for one in scored]}
    for path in getattr(kind, "captions", ())[:1]:
        images = [{"id": n + shift, "file_name": row.picture} for n, (_, row) in enumerate(test, start=1)]
        texts = enumerate((score["ground_truth"] for score in scored), start=1)
        captions = [{"image_id": n + shift, "caption": text} for n, several in texts for text in several]
        coco = {"images": images, "annotations": captions}
        (raw / path).write_text(json.dumps(coco, ensure_ascii=False), encoding="utf-8")
    if shift:
        return Laid(refused=["belongs to other pictures than the test file", "rows differ", kind.task])
    return replace(laid, agrees=aligned)


# --- CoIN


def _mixed(task: str, wanted: Callable[[dict[str, Any]], bool], raw: Path, clone: Clone) -> Laid:
    """Records of LLaVA-1.5's instruction data as training records; their first questions as test records."""
    kind: Any = load(CONVERTERS["coin"][task])
    records = [r for r in clone.lines("playground/data/analysis/llava_v1_5_mix1k.jsonl") if wanted(r)]
    train: list[Pair] = []
    test: list[Pair] = []
    for number, found in enumerate(records):
        texts = [turn["value"].strip() for turn in found["conversations"]]
        picture = f"{number:03d}/{found['image']}"  # some pictures have several records
        train.append((found, Row(list(zip(texts[::2], texts[1::2], strict=True)), {}, picture)))
        questions = zip(texts[::2], texts[1::2], strict=True)
        for place, (text, answer) in enumerate(questions if task == "grounding" else list(questions)[:1]):
            question = text.replace("<image>", "").strip()
            if task == "grounding" and "bounding box coordinate" not in question:
                continue
            record = {"question_id": f"{found['id']}_{place}", "text": question, "answer": answer}
            row = ask(question, answer, picture, question_id=record["question_id"])
            if task == "grounding":
                box = [float(number) for number in re.findall(r"[\d.]+", answer)]
                record = {key: value for key, value in record.items() if key != "answer"}
                record |= {"answer_bbox": box, "size": [320, 240]}
                columns = {**row.columns, "answer_bbox": answer, "size": ["320", "240"]}
                row = replace(row, columns=columns)
            if task == "scienceqa":
                options = re.findall(r"^[A-Z]\. (.*)$", question, re.MULTILINE)
                row = replace(row, columns={**row.columns, "options": options})
            test.append((record, row))
    rows = lay_out(kind, raw, train, test)
    return Laid(
        rows,
        ["test records (the first questions of the training records)", "sizes of pictures"][
            : 1 + (task == "grounding")
        ],
    )


def _annotators_missing(raw: Path, clone: Clone) -> Laid:
    """TextVQA without the file of its ten annotators: the manifest has to say so."""
    laid = _mixed("textvqa", lambda record: record["image"].startswith("textvqa"), raw, clone)
    count = len(laid.rows["test"])
    return replace(laid, remarked={"test": [f"{count} of {count} items have no answers of the ten annotators"]})


def _not_padded(raw: Path, clone: Clone) -> Laid:
    """Boxes of padded pictures on pictures as they are: the manifest has to say so."""
    laid = _mixed("grounding", _has_boxes, raw, clone)
    return replace(laid, remarked={split: ["prepare it with --pad-square"] for split in ("train", "test")})


def _has_boxes(record: Mapping[str, Any]) -> bool:
    return any("bounding box coordinate" in turn["value"] for turn in record["conversations"])


def _first_question(record: Mapping[str, Any], start: str, text: str = "") -> bool:
    return record["image"].startswith(start) and text in record["conversations"][0]["value"]


_MSLORA_CR = {
    "pathvqa": ("pathvqa", 0),
    "slake_vqarad": ("slake-vqarad", 451),
    "derm": ("derm", 0),
    "pcam": ("PCAM", 0),
    "cxp": ("CXP", 0),
    "ham": ("HAM", 123),
    "nmi": ("nmi", 0),
    "iu_x_ray": ("iu-x-ray", 0),
}
_UCIT = {
    "imagenet_r": "ImageNet-R",
    "arxivqa": "ArxivQA",
    "vizwiz_caption": "VizWiz",
    "iconqa": "IconQA",
    "clevr_math": "CLEVR-Math",
    "flickr30k": "Flickr30k",
}
_DOMAINS = {"rs": "RS/CL-MoE-task1", "med": "Med/CL-MoE-task2", "ad": "AD/CL-MoE-task3"}
_ABILITIES = {"ocr": "OCR", "math": "Math", "vp": "VP", "app": "APP"}
_MIXED = {
    "scienceqa": partial(_first_question, start="coco", text="Answer with the option's letter"),
    "gqa": partial(_first_question, start="gqa"),
    "vqav2": partial(_first_question, start="coco", text="single word or phrase"),
    "ocrvqa": partial(_first_question, start="ocr_vqa"),
}


def _case(stream: str, task: str, repositories: Mapping[str, str], lay: Callable[..., Laid], **more: Any) -> Case:
    special = more.pop("special", "")
    return Case(f"{stream}.{task}" + (f" ({special})" if special else ""), stream, task, repositories, lay, **more)


#: All cases, in the order of the streams.
CASES: list[Case] = [
    _case("medical_cl", "path", MCITLIB, _pathology),
    _case("medical_cl", "rad", ROCO, radiology),
    *(_case("mllm_cl", task, MCITLIB, partial(_domain, task, folder)) for task, folder in _DOMAINS.items()),
    *(_case("mllm_cl_ability", task, MCITLIB, partial(_ability, task, name)) for task, name in _ABILITIES.items()),
    *(
        _case(
            "mslora_cr_8",
            task,
            {**MSLORA_CR, **(SLAKE if task == "slake_vqarad" else {})},
            partial(_mslora_cr, task, folder, repeated),
        )
        for task, (folder, repeated) in _MSLORA_CR.items()
    ),
    _case("mslora_cr_8", "slake_vqarad", SLAKE, _another_form, special="SLAKE's own files in its place"),
    *(_case("coin", task, LLAVA_MIX, partial(_mixed, task, wanted)) for task, wanted in _MIXED.items()),
    _case("coin", "textvqa", LLAVA_MIX, _annotators_missing, special="without the file of annotators"),
    _case("coin", "grounding", LLAVA_MIX, partial(_mixed, "grounding", _has_boxes), pad_square=True),
    _case("coin", "grounding", LLAVA_MIX, _not_padded, special="not padded"),
    *(_case("ucit", task, MCITLIB, partial(_ucit, task, folder)) for task, folder in _UCIT.items()),
    _case("ucit", "flickr30k", MCITLIB, partial(_ucit, "flickr30k", "Flickr30k", shift=1), special="captions shifted"),
    *(
        _case(stream, task, where, lay, special=special, texts_only=True)
        for stream, task, special, where, lay in TEXTS
    ),
    Case("crossmodal.ave", "crossmodal", "ave", AVE, ave, convert=convert_ave),
]
