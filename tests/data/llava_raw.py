"""The benchmarks in LLaVA's layout as their authors distribute them, in miniature and with their oddities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "grey": (128, 128, 128)}
NAMES = list(COLOURS)


def picture(path: Path, number: int = 0, size: tuple[int, int] = (20, 16)) -> None:
    """A plain picture whose colour depends on the number."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    r, g, b = COLOURS[NAMES[number % 4]]
    Image.new("RGB", size, (r, g, b + number % 16)).save(path)


def write(path: Path, records: list[Any]) -> None:
    """A JSON list, or JSON lines if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        path.write_text(json.dumps(records), encoding="utf-8")


def train_record(number: int, image: Any, question: str, answer: str, **more: Any) -> dict[str, Any]:
    """A training record of the peers."""
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"id": str(number), "image": image, "conversations": turns, **more}


def task(
    folder: Path,
    train: str,
    test: str,
    names: str,
    question: str = "what colour is this picture?",
    answers: tuple[str, ...] = ("red", "green", "blue", "grey"),
    count: int = 4,
    **more: Any,
) -> None:
    """A task: ``names`` is how records name picture number ``{n}``, relative to ``folder``."""
    key = "gt" if test.endswith(".jsonl") else "answer"
    training, testing = [], []
    for n in range(2 * count):
        name = names.format(n=n)
        picture(folder / name, n)
        right = answers[n % len(answers)]
        if n < count:
            training.append(train_record(n, name, question, right))
        else:
            testing.append({"question_id": str(n), "image": name, "text": question, key: right, **more})
    write(folder / train, training)
    write(folder / test, testing)


def mllm_cl(raw: Path) -> Path:
    """RS, Med, AD, Sci, Fin; the test file of Fin has the name that the README gives it."""
    for name in ("RS", "Med", "AD"):
        task(raw / name, "train.json", "test.json", "images/{n}.png")
    task(raw / "Fin", "train.json", "test.sjon", "images/{n}.png", "up? A. yes B. no", ("A", "Yes"))
    task(raw / "Sci", "train.json", "test.json", "images/AI2D_{n}.png", "which? A. red B. blue", ("A", "B"))
    picture(raw / "Sci" / "images" / "map_9.png", 9)
    states = json.loads((raw / "Sci" / "test.json").read_text())
    states.append({"question_id": "9", "image": "images/map_9.png", "text": "Which states?", "answer": "Texas, Ohio"})
    states.append(
        {"question_id": "10", "image": "images/map_9.png", "text": "Which states?", "answer": ["Iowa", "Ohio"]}
    )
    write(raw / "Sci" / "test.json", states)
    return raw


def mllm_cl_ability(raw: Path) -> Path:
    """OCR, Math, VP, APP: training and test data in folders of their own; answers as lists and numbers."""
    category = {"answer_type": "Regular Text Recognition"}
    folders = {"OCR": "OCR_test", "Math": "Math_test", "VP": "CV-Benchv2", "APP": "APP_test"}
    for name, test in folders.items():
        task(raw / name, "train.json", "unused.json", "images/{n}.png")
        task(raw / test, "unused.json", "test.json", "images/{n}.png", **(category if name == "OCR" else {}))
    ocr = json.loads((raw / "OCR_test" / "test.json").read_text())
    ocr[0]["answer"] = ["red", "RED", "red "]
    write(raw / "OCR_test" / "test.json", ocr)
    maths = json.loads((raw / "Math_test" / "test.json").read_text())
    maths[0]["answer"], maths[1]["answer"], maths[0]["question_id"] = 3, 0.5, "testmini_1"
    write(raw / "Math_test" / "test.json", maths)
    counts = json.loads((raw / "CV-Benchv2" / "test.json").read_text())
    for record in counts:
        record.update(answer="2", type="2D", task="Count")
    write(raw / "CV-Benchv2" / "test.json", counts)
    screens = json.loads((raw / "APP_test" / "test.json").read_text())
    del screens[-1]["answer"]  # withheld by the evaluation server
    write(raw / "APP_test" / "test.json", screens)
    return raw


def mslora_cr(raw: Path) -> Path:
    """Eight folders: colliding ids, a list of pictures, lists with commas, repeated lesion ids."""
    mixed = {"answer_type": "OPEN"}
    closed = {"answer_type": "CLOSED"}
    task(raw / "PathVQA", "train.json", "test.jsonl", "images/{n}.png", **mixed)
    task(raw / "Slake-VQARad", "train.json", "test.jsonl", "Slake_images/{n}.png", **closed)
    picture(raw / "Slake-VQARad" / "VqaRad_images" / "v.png", 3)
    with (raw / "Slake-VQARad" / "test.jsonl").open("a") as file:
        # VQA-RAD counts from the beginning again
        again = {
            "question_id": "4",
            "image": "VqaRad_images/v.png",
            "text": "what?",
            "gt": "grey",
            "answer_type": "OPEN",
        }
        file.write(json.dumps(again) + "\n")
    task(raw / "Fitzpatrick", "train.json", "test.jsonl", "images/{n}.png", answers=("red,green", "blue"), **mixed)
    task(raw / "PCam", "train.json", "test.jsonl", "test/{n}.png", "tumour?", ("Positive", "Negative"), **closed)
    task(raw / "CXP", "train.json", "test.jsonl", "test/{n}.png", "ill?", ("normal", "pneumonia"), **closed)
    for folder in ("PCam", "CXP"):
        (raw / folder / "train").mkdir()
    task(raw / "HAM", "train.json", "test.jsonl", "images/{n}.png", "which?", ("nv", "mel"), **closed)
    lines = (raw / "HAM" / "test.jsonl").read_text().replace('"question_id": "5"', '"question_id": "4"')
    (raw / "HAM" / "test.jsonl").write_text(lines)
    task(
        raw / "WSI-DX",
        "train.json",
        "test.jsonl",
        "images/{n}.png",
        "report",
        ("a red one.", "Insufficient information."),
    )
    task(raw / "IU-X-Ray", "train.json", "test.jsonl", "NLMCXR_png/{n}.png", "report", ("a red one.", "a blue one."))
    lines = [json.loads(line) for line in (raw / "IU-X-Ray" / "test.jsonl").read_text().splitlines()]
    lines[0]["image"] = ["NLMCXR_png/4.png", "NLMCXR_png/5.png"]  # two views; the peers look at the first
    write(raw / "IU-X-Ray" / "test.jsonl", lines)
    return raw


def coin(raw: Path) -> Path:
    """Instructions in one folder, pictures in another, named from below it or with the authors' own prefix."""
    pictures, texts = raw / "cl_dataset", raw / "Instruction_Original"
    places = {
        "ScienceQA": "ScienceQA/images/{n}.png",
        "TextVQA": "TextVQA/train_images/{n}.png",
        "ImageNet": "ImageNet/train/{n}.png",
        "GQA": "GQA/images/{n}.png",
        "VizWiz": "VizWiz/train/{n}.png",
        "Grounding": "COCO2014/train2014/{n}.png",
        "VQAv2": "COCO2014/train2014/{n}.png",
        "OCRVQA": "OCR-VQA/images/{n}.png",
    }
    for name, names in places.items():
        question, answers = "what colour is this picture?", ("red", "green", "blue", "grey")
        if name == "ScienceQA":
            question, answers = "which?\nA. red\nB. blue", ("A", "B")
        if name == "Grounding":
            answers = ("[0.1, 0.2, 0.5, 0.6]",)
        for n in range(8):
            picture(pictures / names.format(n=n), n)
        own = {"VQAv2": "val.json", "TextVQA": "val.json"}.get(name, "test.json")
        training = [train_record(n, names.format(n=n), question, answers[n % len(answers)]) for n in range(4)]
        testing = [
            {"question_id": n, "image": "./cl_dataset/" + names.format(n=n), "text": question, "answer": answers[n % len(answers)]}
            for n in range(4, 8)
        ]  # fmt: skip
        if name == "Grounding":
            for record in testing:
                record.update(answer_bbox=record.pop("answer"), size=[20, 16])
        if name == "TextVQA":
            for record in testing:
                record["answer"] = [record["answer"]] * 10
            testing[0]["answer"] = ["blue", *["red"] * 3, *["green"] * 6]
        if name == "ScienceQA":
            del testing[0]["image"]  # a question without picture
            testing[0]["text"] = "which one? Answer with a letter."  # options are not listed
            testing[0]["answer"] = "C"
            testing.append({**testing[1], "answer": "none of them"})
        write(texts / name / "train.json", training)
        write(texts / name / own, testing)
    return raw


def ucit(raw: Path) -> Path:
    """Instructions and pictures apart; the captions of test pictures stand in a file of their own."""
    places = {
        "ImageNet-R": ("train.json", "ImageNet-R/train/{n}.png"),
        "ArxivQA": ("train_4w.json", "ArxivQA/images/{n}.png"),
        "VizWiz": ("train.json", "VizWiz/train/{n}.png"),
        "IconQA": ("train.json", "IconQA/iconqa_data/iconqa/{n}.png"),
        "CLEVR": ("train_4w.json", "CLEVR/images/train/{n}.png"),
        "Flickr30k": ("train_brief_4w.json", "Flickr30k/train/{n}.png"),
    }
    for name, (train, names) in places.items():
        for n in range(8):
            picture(raw / "datasets" / names.format(n=n), n)
        captions = name in ("VizWiz", "Flickr30k")
        answers: tuple[Any, ...] = ("A", "B") if name == "ArxivQA" else (3, 4) if name == "CLEVR" else ("red", "blue")
        question = "<image>\nwhat colour?" if name == "IconQA" else "what colour?"
        testing: list[dict[str, Any]] = [
            {"question_id": f"q{n}", "image": "datasets/" + names.format(n=n), "text": question} for n in range(4, 8)
        ]
        for number, record in enumerate(testing):
            if not captions:
                record["answer"] = answers[number % 2]
        folder = raw / "instructions" / name
        write(folder / train, [train_record(n, f"datasets/{names.format(n=n)}", "what?", "red") for n in range(4)])
        write(folder / "test_3000.json", testing)
        if captions:
            found = [
                {"id": 10 * row + k, "image_id": row, "caption": f"a {text} picture"}
                for row in range(1, 5)
                for k, text in enumerate(("red", "plain", "small"))
            ]
            images = [{"id": row, "file_name": f"{row + 3}.png"} for row in range(1, 5)]
            (folder / "val_coco_type_3000.json").write_text(json.dumps({"images": images, "annotations": found}))
    return raw


#: Stream -> what builds its raw folder.
RAW = {
    "mllm_cl": mllm_cl,
    "mllm_cl_ability": mllm_cl_ability,
    "mslora_cr_8": mslora_cr,
    "coin": coin,
    "ucit": ucit,
}
