"""Tasks whose every training sample can be told from all others by its bytes, and runs on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tiny
from PIL import Image
from running import go


TASKS = ("one", "two", "three")


def mark(task: str, i: int) -> str:
    """A word that stands in this one sample."""
    return f"{task}{i * 7919 % 10007:05d}zq"


def build(folder: Path, tasks=TASKS, train=12, pictures=False, shared_picture=False) -> Path:
    """Text tasks in Alpaca's form with a system prompt, or picture tasks in ShareGPT's; some records are unusable."""
    folder.mkdir(parents=True)
    (folder / "images").mkdir()
    info, rng = {}, np.random.default_rng(1)
    for number, task in enumerate(tasks):
        for split, count in (("train", train), ("test", 2)):
            records = []
            for i in range(count):
                word = mark(task, i) if split == "train" else f"{task} test {i}"
                answer, name = "ABCD"[(i + number) % 4], f"{task}-{split}-{i}"
                if pictures:
                    path = folder / "images" / f"{task}_{split}_{0 if shared_picture else i}.png"
                    if not path.exists():
                        Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype("uint8")).save(path)
                    turns = [{"from": "human", "value": f"<image>what is {word}?"}, {"from": "gpt", "value": answer}]
                    records.append({"id": name, "messages": turns, "images": [f"images/{path.name}"]})
                else:
                    records.append(
                        {"id": name, "instruction": f"what is {word}?", "output": answer, "system": "answer in one"}
                    )
            if split == "train" and not pictures:
                for place in (0, 3):  # the host drops records without an answer
                    records.insert(place, {"id": "bad", "instruction": "no answer", "output": None, "system": ""})
            set_name = f"{task}_{split}"
            (folder / f"{set_name}.json").write_text(json.dumps(records))
            if pictures:
                about = {"formatting": "sharegpt", "columns": {"messages": "messages", "images": "images"}}
            else:
                about = {"columns": {"prompt": "instruction", "response": "output", "system": "system"}}
            info[set_name] = {"file_name": f"{set_name}.json", **about}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def recipe(model, data, out, method="seqlora", tasks=TASKS, *, replay=None, pictures=False, **more):
    """A short run without tests."""
    stream = tiny.stream(tasks)
    for task in stream["tasks"]:
        task |= {"scorer": "exact_match", "licence": f"terms of {task['name']}"}
        task.pop("options_column")
    block = {"stream": stream, "eval": {"scope": "none"}, **more.pop("cl", {})}
    if replay:
        block["replay"] = replay
    keys = {"max_steps": 2, **more}
    return tiny.recipe(model, data, out, method, tasks, text_only=not pictures, cl=block, **keys)


def run(*args, **kwargs):
    """Carry out `recipe`; gives the output directory."""
    go(recipe(*args, **kwargs))
    return args[2]


def manifest(out: Path) -> list[dict]:
    """The samples of a run's buffer."""
    return json.loads((out / "carry" / "replay" / "manifest.json").read_text())["samples"]


def holding(root: Path, pattern: bytes) -> list[str]:
    """Names of files below a folder that hold some bytes, in their content or their name."""
    return [
        str(p.relative_to(root))
        for p in sorted(root.rglob("*"))
        if p.is_file() and (pattern in p.read_bytes() or pattern in str(p.relative_to(root)).encode())
    ]
