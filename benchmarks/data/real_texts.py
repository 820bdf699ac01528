"""Cases of texts alone, and ROCO's captions: O-LoRA, LFPT5, TRACE, ROCO."""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.data.layouts import write_csv, write_json
from benchmarks.data.real_sources import Absent, Clone, Laid, Row, ask, picture_of
from cl_plugins.data.prepare.medical_cl.rad import QUESTION
from cl_plugins.data.prepare.registry import CONVERTERS, load


OLORA = {"cmnfriend/O-LoRA": "07117e1fc4a5f5ad9308a815a42cee8f46502dc8"}
LFPT5 = {"qcwthu/Lifelong-Fewshot-Language-Learning": "cf7d17ce7de6a707d929d0542b3d5e639569855f"}
# The only commit with data: FOMC whole, and one example of seven tasks.
TRACE = {"BeyonderXX/TRACE": "4fc6233a28879f16a2f97d4cfe8970ba21e7fa77"}
_KINDS = {"dbpedia": "TC", "amazon": "SC", "yahoo": "TC", "agnews": "TC"}
_EXAMPLES = {"c_stance": "C-STANCE", "meetingbank": "MeetingBank", "py150": "Py150", "scienceqa": "ScienceQA"}


# --- the standard text benchmark


def _olora(task: str, raw: Path, clone: Clone) -> Laid:
    """O-LoRA's files; the prompt is put together from its own instruction and labels."""
    folder = f"CL_Benchmark/{_KINDS[task]}/{task}"
    labels = clone.json(f"{folder}/labels.json")
    instruction = clone.json("configs/instruction_config.json")[_KINDS[task]][0]["instruction"]
    files, made = {}, []
    files["test"] = clone.read(f"{folder}/test.json")
    try:
        files["train"] = clone.read(f"{folder}/train.json")
    except Absent:  # snapshots of repositories may leave out large files
        files["train"] = clone.read(f"{folder}/dev.json")
        made.append("training records (dev.json; train.json is not in the clone)")
    head = f"Task:{_KINDS[task]}\nDataset:{task}\n{instruction}Option: {', '.join(labels)} \n"
    rows: dict[str, list[Row]] = {}
    for split, data in files.items():
        path = raw / folder / f"{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        rows[split] = [
            ask(f"{head}{found['sentence']}\nAnswer:", found["label"], options=labels) for found in json.loads(data)
        ]
    return Laid(rows, made, settings={"form": "olora"})


def _lfpt5(task: str, raw: Path, clone: Clone) -> Laid:
    """LFPT5's few-shot files of one draw."""
    kind: Any = load(CONVERTERS["standard_cl"][task])
    labels = {short: label for label, short in kind.short.items()}
    rows: dict[str, list[Row]] = {}
    for split in ("train", "test"):
        place = f"Classification/textclassificationdata/{kind.csv_folder}/0_42/{split}.txt"
        data = clone.read(place)
        path = raw / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        rows[split] = []
        for line in data.decode().split("\n"):
            text, _, word = line.rstrip("\r").rpartition("\t")
            if line.strip():
                text = f"Text: {text.split(chr(9))[0].strip()}\n\nAnswer:"
                rows[split].append(Row([(text, labels.get(word.strip(), word))], {"options": list(kind.labels)}))
    heads = {split: [_behind_options(kind, row) for row in several] for split, several in rows.items()}
    return Laid(heads, settings={"form": "lfpt5", "prompt": "plain"})


def _behind_options(kind: Any, row: Row) -> Row:
    """The row with instruction and options in front, as O-LoRA has them."""
    what = {"TC": "topic", "SC": "sentiment"}[kind.kind]
    head = f"What is the {what} of the following paragraph? Choose one from the option.\n"
    text, label = row.turns[0]
    return Row([(f"{head}Option: {', '.join(kind.labels)} \n{text}", label)], row.columns)


# --- TRACE


def _fomc(raw: Path, clone: Clone) -> Laid:
    """FOMC in the authors' first release, whose answers are words; test.json and eval.json are one file there."""
    rows = {}
    for name, split in (("train", "train"), ("eval", "valid"), ("test", "test")):
        data = clone.read(f"LLM-CL_Benchmark/FOMC/{name}.json")
        path = raw / "LLM-CL_Benchmark" / "FOMC" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        options = ["dovish", "hawkish", "neutral"]
        rows[split] = [ask(found["prompt"], found["answer"], options=options) for found in json.loads(data)]
    same = "LLM-CL_Benchmark/FOMC/eval.json is the same file as LLM-CL_Benchmark/FOMC/test.json"
    return Laid(rows, remarked={"valid": [same]})


def _example(task: str, raw: Path, clone: Clone) -> Laid:
    """One example of a task, from the authors' file of examples."""
    text = clone.read("LLM-CL_Benchmark/dataset_examples.txt").decode()
    kind: Any = load(CONVERTERS["trace"][task])
    prompt, answer = dict(_sections(text))[_EXAMPLES[task]]
    for split in ("train", "test"):
        write_json(raw / kind.folder / f"{split}.json", [{"prompt": prompt, "answer": answer}])
    columns = {"options": list(kind.options)} if kind.options else {}
    rows = {split: [ask(prompt, answer, **columns)] for split in ("train", "test")}
    if task == "scienceqa":
        rows["test"] = [ask(prompt, answer.strip()[0], answers=[answer.strip()])]
    return Laid(rows, ["training record (the test record)"])


def _sections(text: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Task -> prompt and answer."""
    parts = re.split(r"^DATASET\d+ -> (.*):$", text, flags=re.MULTILINE)[1:]
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        prompt, line, answer = body.partition("\n---------\n")
        if line:
            yield name, (prompt.strip(), answer.strip())


# --- ROCO


def radiology(raw: Path, clone: Clone) -> Laid:
    """ROCO's captions and concepts (the release before ROCOv2) in ROCOv2's files."""
    rows: dict[str, list[Row]] = {}
    made = ["ROCOv2's file names"]
    for split, short in (("train", "train"), ("validation", "valid"), ("test", "test")):
        folder = f"data/{split}/radiology"
        try:
            captions, concepts = (clone.read(f"{folder}/{name}.txt") for name in ("captions", "cuis"))
        except Absent:  # snapshots of repositories may leave out large files
            folder = f"data/{split}/non-radiology"
            captions, concepts = (clone.read(f"{folder}/{name}.txt") for name in ("captions", "cuis"))
            made.append(f"{split}: the figures that are not radiological, since the larger files are not in the clone")
        known = {cells[0]: [cell for cell in cells[1:] if cell] for cells in _tabs(concepts)}
        found = [(cells[0], " ".join(cells[1:])) for cells in _tabs(captions)]
        write_csv(raw / f"{short}_captions.csv", ("ID", "Caption"), found)
        write_csv(raw / f"{short}_concepts.csv", ("ID", "CUIs"), ((name, ";".join(c)) for name, c in known.items()))
        with zipfile.ZipFile(raw / f"{short}_images.zip", "w") as archive:
            for name, _ in found:
                archive.writestr(f"{short}/{name}.jpg", picture_of(f"{name}.jpg"))
        rows[split] = [_figure(name, caption, ";".join(known.get(name, ()))) for name, caption in found]
        twice = sum(count - 1 for count in Counter(name for name, _ in found).values())
        if twice:
            made.append(f"{split}: {twice} ids occur twice")
    return Laid(rows, made)


def _figure(name: str, caption: str, cuis: str) -> Row:
    """What one figure has to become."""
    if not caption.strip():
        return Row(identity=name, dropped="answer is empty")
    return Row([(f"<image>\n{QUESTION}", caption.strip())], {"cuis": cuis}, f"{name}.jpg", identity=name)


def _tabs(data: bytes) -> list[list[str]]:
    """The lines of a tab-separated file."""
    return [line.rstrip("\r").split("\t") for line in data.decode().split("\n") if line.strip()]


#: (stream, task, what is special, repositories, how it is laid out)
TEXTS: list[tuple[str, str, str, dict[str, str], Callable[..., Laid]]] = [
    *(("standard_cl", task, "", OLORA, partial(_olora, task)) for task in ("dbpedia", "amazon", "agnews")),
    *(("standard_cl", task, "LFPT5", LFPT5, partial(_lfpt5, task)) for task in _KINDS),
    ("trace", "fomc", "", TRACE, _fomc),
    *(("trace", task, "one example", TRACE, partial(_example, task)) for task in _EXAMPLES),
]
