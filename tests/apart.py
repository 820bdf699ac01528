"""Tasks that can be told from a question or a picture, for tests of selectors."""

from __future__ import annotations

import json

import tiny


TASKS = ("one", "two", "three")
MARKS = {"one": "red", "two": "the square", "three": "yes or no"}


def build(folder, *, mixed=False):
    """Pictures with questions that differ by task, so that a text tells the task.

    Args:
        folder: Where the data go.
        mixed: Whether every second question has no picture.
    """
    folder = tiny.build_data(folder, TASKS)
    for task in TASKS:
        for split in ("train", "test"):
            file = folder / f"{task}_{split}.json"
            records = json.loads(file.read_text())
            for number, record in enumerate(records):
                first = record["messages"][0]
                first["value"] = first["value"].replace("what colour", f"{MARKS[task]}: what colour")
                if mixed and number % 2:
                    first["value"] = first["value"].replace("<image>", "")
                    record["images"] = []
            file.write_text(json.dumps(records))
    return folder
