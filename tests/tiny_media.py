"""What the tiny models that see videos or hear sounds have in common, and their streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def save(model: Any, folder: Path, end: int) -> None:
    """Save a model with weights that are large enough for its answers to depend on what it is shown.

    Args:
        model: The model.
        folder: Where.
        end: Token that ends an answer.
    """
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    model.generation_config.eos_token_id = end
    model.generation_config.pad_token_id = 3
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)


def build_stream(
    folder: Path, tasks: tuple[str, ...], train: int, test: int, column: str, place: str, suffix: str, question: str,
    write: Callable[[Path, int, int, int, str], None],
) -> Path:  # fmt: skip
    """Data sets of questions with four answers; the letter of the same medium is another one in every task.

    Args:
        folder: Where.
        tasks: Names of the tasks.
        train: Training samples of a task.
        test: Test items of a task.
        column: Column of the media.
        place: Folder of their files.
        suffix: Of these files.
        question: Of every record.
        write: Makes a file: its path, the number of its kind, that of the task, that of the record, and the split.
    """
    (folder / place).mkdir(parents=True)
    info = {}
    for number, task in enumerate(tasks):
        for split, count in (("train", train), ("test", test)):
            records = []
            for i in range(count):
                kind = i % 4
                path = folder / place / f"{task}_{split}_{i}.{suffix}"
                write(path, kind, number, i, split)
                records.append(
                    {
                        "id": f"{task}-{split}-{i}", "options": ["one", "two", "three", "four"],
                        column: [f"{place}/{path.name}"],
                        "messages": [
                            {"from": "human", "value": question},
                            {"from": "gpt", "value": "ABCD"[(kind + number) % 4]},
                        ],
                    }
                )  # fmt: skip
            name = f"{task}_{split}"
            (folder / f"{name}.json").write_text(json.dumps(records))
            columns = {"messages": "messages", column: column}
            info[name] = {"file_name": f"{name}.json", "formatting": "sharegpt", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder
