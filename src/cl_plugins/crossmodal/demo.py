"""A small stream of three modalities, drawn and computed: pictures, tones and words of ten made-up things.

``python -m cl_plugins.crossmodal.demo FOLDER`` writes five class-incremental steps of two classes each. No modality is
sure: pictures have the wrong colour at times, tones are detuned and noisy, most words belong to other things, and one sample in
ten lacks a modality. The data show the pipeline and no ability.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from .media import write_wav


THINGS = ("bell", "bird", "boat", "clock", "drum", "fish", "horn", "lamp", "tree", "whale")
STEPS, MODALITIES = 5, ("picture", "sound", "words")
SIZE, RATE, SECONDS = 32, 16000, 0.35
_COLOURS = ("red", "green", "blue", "orange", "purple")
_VOCABULARY = tuple(f"{first}{last}" for first in "bdfgklmn" for last in ("ako", "emi", "ilu", "oru", "upa"))


def class_order(seed: int) -> list[str]:
    """The order in which the things are learned: a permutation that a seed decides."""
    order = list(THINGS)
    random.Random(seed).shuffle(order)
    return order


def write(folder: Path, *, seed: int = 0, train: int = 60, test: int = 30) -> None:
    """Write the data sets ``step1_train``, ``step1_test``, ... and ``classes.json``.

    Args:
        folder: A new or existing folder.
        seed: Of the order of the classes and of all samples.
        train: Training samples per class.
        test: Test items per class.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order, draw = class_order(seed), random.Random(f"{seed}/samples")
    info: dict[str, dict[str, str]] = {}
    for step in range(1, STEPS + 1):
        classes = order[2 * (step - 1) : 2 * step]
        for split, count in (("train", train), ("test", test)):
            name = f"step{step}_{split}"
            (folder / name).mkdir(exist_ok=True)
            records = [
                _sample(folder, f"{name}/{i:03d}", classes[i % 2], draw, missing=i % 10 == 9) for i in range(2 * count)
            ]
            lines = "".join(json.dumps(record) + "\n" for record in records)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
            info[name] = {"file_name": f"{name}.jsonl"}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    about = {"seed": seed, "order": order, "classes_per_step": 2}
    (folder / "classes.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _sample(folder: Path, name: str, thing: str, draw: random.Random, *, missing: bool) -> dict[str, Any]:
    number = THINGS.index(thing)
    left_out = draw.choice(MODALITIES) if missing else None
    record: dict[str, Any] = {"id": name, "label": thing}
    if left_out != "picture":
        record["picture"] = f"{name}.png"
        _picture(number, draw).save(folder / record["picture"])
    if left_out != "sound":
        record["sound"] = f"{name}.wav"
        write_wav(folder / record["sound"], _tone(number, draw), RATE)
    if left_out != "words":
        record["words"] = _words(number, draw)
    return record


def _picture(number: int, draw: random.Random) -> Any:
    """A shape in a colour; the colour is another one in a third of the pictures."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIZE, SIZE), "white")
    brush, x, y = ImageDraw.Draw(image), draw.randrange(10), draw.randrange(10)
    box = (x, y, x + 18, y + 18)
    colour = _COLOURS[number // 2] if draw.random() < 0.67 else draw.choice(_COLOURS)
    if number % 3 == 0:
        brush.ellipse(box, fill=colour)
    elif number % 3 == 1:
        brush.rectangle(box, fill=colour)
    else:
        brush.polygon([(x, y + 18), (x + 18, y + 18), (x + 9, y)], fill=colour)
    return image


def _tone(number: int, draw: random.Random) -> Any:
    """A tone, three semitones from those of the neighbours, detuned by up to one, in noise."""
    import numpy as np

    places = np.arange(round(SECONDS * RATE)) / RATE
    pitch = 220 * 2 ** (number / 4 + draw.uniform(-1 / 12, 1 / 12))
    noise = np.random.default_rng(draw.randrange(2**32)).normal(size=len(places))
    return 0.4 * np.sin(2 * np.pi * pitch * places) + 0.06 * noise


def _words(number: int, draw: random.Random) -> str:
    """Five words, of which each is one of the thing's three with probability 0.6."""
    own = [_VOCABULARY[(3 * number + i) % len(_VOCABULARY)] for i in range(3)]
    return " ".join(draw.choice(own) if draw.random() < 0.6 else draw.choice(_VOCABULARY) for _ in range(5))


def main() -> None:
    """Write the demo's data."""
    parser = argparse.ArgumentParser(
        prog="python -m cl_plugins.crossmodal.demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="order of the classes, and samples (default: 0)")
    args = parser.parse_args()
    write(args.folder, seed=args.seed)


if __name__ == "__main__":
    main()
