"""Synthetic tasks whose conflict is a parameter.

A picture has one of six colours (with noise). Task k asks, with the name of its site in the question, in which drawer the
slide belongs; the answer is a letter. Every task has its own assignment of letters to colours; ``conflict`` is the share of
colours whose letter differs from the first task's. At 0 all tasks are one task under different names; at 1 no colour keeps
its letter. The site stands in the question, so one model can be right about all tasks: what is lost is forgotten, not
impossible.

With ``mark: picture`` the site is not named: a white square in one corner of the picture, another one for every site, tells
it instead, and all questions are the same. A model that chooses a part per task by the picture can then be right, and with
``mark: question`` it cannot.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image


COLOURS = ((205, 40, 40), (40, 180, 60), (50, 70, 215), (235, 215, 40), (128, 128, 128), (25, 25, 25))
LETTERS = "ABCDEF"
SITES = ("north", "south", "winter", "summer")  # words that the demo base knows
SIDE = 32
MARKS = ("question", "picture")  # where the task can be told
SQUARE = 8  # pixels of the square's side


def assignments(tasks: int, conflict: float, rng: np.random.Generator) -> list[list[int]]:
    """For each task, the letter of each colour.

    The colours that conflict are moved in a cycle, another distance for every task, so that none keeps its letter and no
    two tasks agree on one (as long as there are more of them than tasks).

    Args:
        tasks: How many.
        conflict: Share of the colours that change.
        rng: Draws the first assignment and which colours change.
    """
    first = [int(i) for i in rng.permutation(len(COLOURS))]
    moved = [int(i) for i in rng.permutation(len(COLOURS))[: round(conflict * len(COLOURS))]]
    found = []
    for task in range(tasks):
        letters = list(first)
        for place, colour in enumerate(moved):
            letters[colour] = first[moved[(place + task) % len(moved)]]
        found.append(letters)
    return found


def marked(pixels: np.ndarray, task: int) -> np.ndarray:
    """A picture with the square of a task.

    Args:
        pixels: (side, side, 3), uint8.
        task: Its number, from 0 to 3: the corner.
    """
    found = pixels.copy()
    rows = slice(0, SQUARE) if task < 2 else slice(SIDE - SQUARE, SIDE)
    columns = slice(0, SQUARE) if task % 2 == 0 else slice(SIDE - SQUARE, SIDE)
    found[rows, columns] = 255
    return found


def build(
    folder: Path,
    seed: int,
    conflict: float = 1.0,
    tasks: int = 3,
    train: int = 240,
    test: int = 120,
    mark: str = "question",
) -> Path:
    """Write the stream as a LLaMA-Factory data folder with ``stream.yaml``; the path of that file.

    Args:
        folder: Where to write.
        seed: Draws assignments, pictures and noise.
        conflict: The dial, 0 to 1.
        tasks: Number of tasks, at most 4.
        train: Training samples per task.
        test: Test items per task.
        mark: Where the task can be told, see `MARKS`.
    """
    rng = np.random.default_rng([seed, round(1000 * conflict)])
    info, described = {}, []
    for task, (site, letters) in enumerate(zip(SITES, assignments(tasks, conflict, rng), strict=False)):
        asked = f"at site {site}" if mark == "question" else "for this slide"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for part, count in (("train", train), ("test", test)):
            records = []
            for n in range(count):
                colour = n % len(COLOURS)
                noise = rng.normal(0, 12, (SIDE, SIDE, 3)) + rng.normal(0, 10, 3)
                pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
                name = f"images/{site}_{part}_{n:03d}.png"
                Image.fromarray(pixels if mark == "question" else marked(pixels, task)).save(folder / name)
                question = f"<image>\nWhich drawer {asked}?\nA. one B. two C. three D. four E. five F. six"
                answer = LETTERS[letters[colour]]
                turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
                records.append({"id": f"{site}-{part}-{n}", "conversations": turns, "images": [name]})
            order = rng.permutation(count)
            (folder / f"{site}_{part}.json").write_text(json.dumps([records[i] for i in order]), encoding="utf-8")
            columns = {"messages": "conversations", "images": "images"}
            info[f"{site}_{part}"] = {"file_name": f"{site}_{part}.json", "formatting": "sharegpt", "columns": columns}
        described.append(
            {"name": site, "train": f"{site}_train", "test": f"{site}_test", "scorer": "exact_match", "modality": site,
             "max_new_tokens": 4}
        )  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1), encoding="utf-8")
    stream = {"name": "synthetic_conflict", "title": f"Synthetic conflict, {conflict:g}", "tasks": described}
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump(stream, sort_keys=False), encoding="utf-8")
    return path
