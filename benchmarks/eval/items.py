"""The test set of the benchmark: questions with introductions of zero to twelve sentences.

Letters are asked for with the demo's pictures and questions. Captions are asked for with pictures and questions of the kind
that the demo's base was pretrained on, drawn anew: it describes these in hundreds of ways, while it says nearly the same
of all the demo's own slices of a brain, and "equal texts" would prove little.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any


LETTERS = ("path", "neuro", "cell")  # questions that are answered with a letter
CAPTIONS_SEED = 1000  # the base was pretrained on the pictures of seed 0 and tried on those of seed 1
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
        folder: Where the data set goes, with the pictures of the captions; those of the demo stay where they are.
        count: Number of items.
        seed: Seed of the draw.

    Returns:
        ``{"items", "captions", "prompt_words": [shortest, median, longest]}``.
    """
    rng = random.Random(seed)
    pools = {
        task: [r for split in ("test", "train") for r in json.loads((demo / f"{task}_{split}.json").read_text())]
        for task in LETTERS
    }
    described = captions(folder, count // 2, seed + CAPTIONS_SEED)
    records = []
    for number in range(count):
        if number % 2:
            picture, question, answer = next(described)
        else:
            pool = pools[LETTERS[number // 2 % len(LETTERS)]]
            source = pool[number // 2 % len(pool)]
            question, answer = (turn["value"] for turn in source["conversations"])
            picture = demo / source["images"][0]
        question = question.removeprefix("<image>\n")
        introduction = " ".join(rng.choice(SENTENCES) for _ in range(rng.randrange(13)))
        asked = "<image>\n" + (f"{introduction}\n{question}" if introduction else question)
        records.append(
            {
                "id": f"bench-{number:05d}",
                "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
                "images": [str(picture.resolve())],
                "kind": "caption" if number % 2 else "letter",
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


def captions(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, str, str]]:
    """(picture, question, caption) of pictures made of everyday photographs, each written as PNG.

    Args:
        folder: Where ``pictures/`` goes.
        count: How many.
        seed: Seed of the pictures and of the choice among the questions that fit one.
    """
    from PIL import Image

    from benchmarks.demo_base.corpus import make_pictures, questions, scale_of

    rng = random.Random(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures = make_pictures(count, seed)
    scale = scale_of(pictures)
    for number, picture in enumerate(pictures):
        path = folder / "pictures" / f"{number:05d}.png"
        Image.fromarray(picture.image).save(path)
        question, answer = rng.choice([pair for pair in questions(picture, scale) if len(pair[1]) > 1])
        yield path, question, answer
