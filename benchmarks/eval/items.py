"""The test set of the benchmark: the demo's pictures and questions, with introductions of zero to twelve sentences."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any


LETTERS = ("path", "neuro", "cell")  # questions that are answered with a letter
CAPTIONS = "rad"
SENTENCES = (
    "This picture was taken with care.",
    "Look at the whole picture before you answer.",
    "Colours may differ a little from one picture to the next.",
    "The picture is small, so look closely.",
    "Some pictures are bright and some are dark.",
    "There is one picture for every question.",
    "Parts at the edge count as well.",
    "Take the answer that fits best.",
    "It does not matter who took the picture.",
    "The red box, if there is one, was drawn later.",
)


def build(demo: Path, folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Write ``bench.json`` and ``dataset_info.json``.

    Half of the questions ask for a caption, the others for a letter; the order is shuffled, as in a test set that mixes
    kinds of questions.

    Args:
        demo: The demo's data, with ``base/``.
        folder: Where the data set goes; pictures stay where they are.
        count: Number of items.
        seed: Seed of the draw.

    Returns:
        ``{"items", "captions", "prompt_words": [shortest, median, longest]}``.
    """
    rng = random.Random(seed)
    pools = {
        task: [r for split in ("test", "train") for r in json.loads((demo / f"{task}_{split}.json").read_text())]
        for task in (*LETTERS, CAPTIONS)
    }
    records = []
    for number in range(count):
        task = CAPTIONS if number % 2 else LETTERS[number // 2 % len(LETTERS)]
        source = pools[task][number // 2 % len(pools[task])]
        question = source["conversations"][0]["value"].removeprefix("<image>\n")
        introduction = " ".join(rng.choice(SENTENCES) for _ in range(rng.randrange(13)))
        asked = "<image>\n" + (f"{introduction}\n{question}" if introduction else question)
        answer = source["conversations"][1]["value"]
        records.append(
            {
                "id": f"bench-{number:05d}",
                "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
                "images": [str((demo / name).resolve()) for name in source["images"]],
                "kind": "caption" if task == CAPTIONS else "letter",
            }
        )
    rng.shuffle(records)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(records))
    columns = {"messages": "conversations", "images": "images"}
    entry = {"file_name": "bench.json", "formatting": "sharegpt", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"bench": entry}))
    words = sorted(len(record["conversations"][0]["value"].split()) for record in records)
    return {
        "items": count,
        "captions": sum(record["kind"] == "caption" for record in records),
        "prompt_words": [words[0], words[len(words) // 2], words[-1]],
    }
