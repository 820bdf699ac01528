"""The text benchmarks as they are distributed, in miniature: O-LoRA's JSON, Zhang et al.'s CSV, LFPT5's lines, TRACE's folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from cl_plugins.data.prepare.registry import converters


KINDS = {kind.task: kind for kind in converters("standard_cl")}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def olora(raw: Path, count: int = 4) -> Path:
    """``CL_Benchmark/TC/agnews/train.json`` and so on, one record per label in turn."""
    for task, kind in KINDS.items():
        folder = raw / "CL_Benchmark" / kind.kind / task
        for split in ("train", "test"):
            records = [
                {
                    "label": kind.labels[n % len(kind.labels)],
                    "sentence": f"Title: {split} {n}\nText: some words here\n",
                }
                for n in range(count)
            ]
            write(folder / f"{split}.json", records)
        write(folder / "labels.json", list(kind.labels))
    return raw


def zhang(raw: Path, count: int = 6) -> Path:
    """CSV files without header: class from 1, title, text; Yahoo's have two cells of text."""
    for task, kind in KINDS.items():
        folder = raw / kind.csv_folder
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, quoting=csv.QUOTE_ALL)
                for n in range(count):
                    cells = [str(n % len(kind.labels) + 1), f"{split} {n}", 'a "quoted" text,\nof two lines']
                    writer.writerow([*cells, "the answer"] if task == "yahoo" else cells)
    return raw


def lfpt5(raw: Path, draw: str = "0_42") -> Path:
    """``ag_news_csv/0_42/train.txt``: text, tab, a short word for the label."""
    for kind in KINDS.values():
        folder = raw / "Classification" / "textclassificationdata" / kind.csv_folder / draw
        folder.mkdir(parents=True)
        for split in ("train", "test"):
            lines = [f"{split} text {n}\t{word}\n" for n, word in enumerate(kind.short.values())]
            (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    return raw


TRACE = {
    "C-STANCE": (
        "判断以下文本对指定对象的态度，选择一项：A.支持，B.反对，C.中立。输出A，B或者C。\n文本：好",
        ("A", "B", "C", "A"),
    ),
    "FOMC": ("What is the stance? A. dovish, B. hawkish, C. neutral.\nText: rates rise", ("A", "hawkish", "C", "B")),
    "MeetingBank": ("Write a summary of the following meeting transcripts.\n\nA long talk", ("They talked.",) * 4),
    "Py150": ("Continue writing the code.\nimport", ("os <EOL>", "<STR_LIT:sys>", "re", "json")),
    "ScienceQA": (
        "Choose an answer for the following question and give your reasons.\n\nWhich? (A) ice (B) fire",
        ("A\nBecause it is cold.", "B\nBecause it is hot.", "A\nCold.", "B"),
    ),
    "NumGLUE-cm": ("Solve the following math problem.\n1 + 1", ("2", "3", "4.5", "5")),
    "NumGLUE-ds": ("Solve the following math problem.\n2 + 1", ("2", "3", "4.5", "5")),
    "20Minuten": (
        "Provide a simplified version of the following paragraph in German.\n\nEin langer Satz.",
        ("Kurz.",) * 4,
    ),
}


def trace(raw: Path, top: str = "LLM-CL-Benchmark_5000") -> Path:
    """Eight folders with three files each."""
    for name, (prompt, answers) in TRACE.items():
        for split in ("train", "eval", "test"):
            records = [{"prompt": f"{prompt} {n}", "answer": answer} for n, answer in enumerate(answers)]
            write(raw / top / name / f"{split}.json", records)
    return raw


#: Stream -> what builds its raw folder.
RAW = {"standard_cl": olora, "trace": trace}
