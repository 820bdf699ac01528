"""A small stream of computed sounds: count the beeps, then tell their pitch, each answered with a letter.

The sounds are those that the projector of `benchmarks.real.sounds` is trained on, with other seeds and other questions: the letters are new,
and mean something else in the second task.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.real.sounds import NUMBERS, PITCHES, RATE, examples
from cl_plugins.base.errors import DataError, Problem
from cl_plugins.base.files import write_json
from cl_plugins.crossmodal.media import write_wav


#: Task -> its question and its labels, in the order of the letters.
TASKS = {"count": ("How many beeps?", NUMBERS), "pitch": ("How high is it?", tuple(PITCHES))}
TRAIN, TEST = 64, 40


def build(out: Path, seed: int = 0) -> dict[str, Any]:
    """Write the data sets of the stream.

    Args:
        out: Data folder to write.
        seed: Seed of the sounds.

    Returns:
        Sizes and seed.

    Raises:
        DataError: Too few of the sounds fit a task.
    """
    info: dict[str, Any] = {}
    for number, (task, (question, labels)) in enumerate(TASKS.items()):
        for part, (split, count) in enumerate((("train", TRAIN), ("test", TEST))):
            name = f"{task}_{split}"
            records = _records(out, name, question, labels, count, 1000 * (seed + 1) + 10 * number + part)
            write_json(out / f"{name}.json", records)
            info[name] = {
                "file_name": f"{name}.json",
                "formatting": "sharegpt",
                "columns": {"messages": "conversations", "audios": "audios"},
            }
    write_json(out / "dataset_info.json", info)
    facts = {"train": TRAIN, "test": TEST, "seed": seed}
    write_json(out / "facts.json", facts)
    return facts


def _records(
    out: Path, name: str, question: str, labels: tuple[str, ...], count: int, seed: int
) -> list[dict[str, Any]]:
    """Records of one data set, whose sounds are written next to it."""
    letters = "ABCDE"[: len(labels)]
    listed = " ".join(f"{letter}. {label}" for letter, label in zip(letters, labels, strict=True))
    waves = [(sound, answer) for sound, _, answer in examples(8 * count, seed) if answer in labels][:count]
    if len(waves) < count:
        raise DataError(Problem(name, f"has {len(waves)} sounds, not {count}.", "Use another seed."))
    (out / "sounds").mkdir(parents=True, exist_ok=True)
    records = []
    for number, (sound, answer) in enumerate(waves):
        place = f"sounds/{name}_{number:03d}.wav"
        write_wav(out / place, sound, RATE)
        turns = [
            {"from": "human", "value": f"<audio>{question} {listed}"},
            {"from": "gpt", "value": letters[labels.index(answer)]},
        ]
        records.append({"id": f"{name}-{number}", "conversations": turns, "audios": [place], "options": list(letters)})
    return records


def facts_of(out: Path) -> dict[str, Any]:
    """What `build` has written there; it is written now if it is not there.

    Args:
        out: Data folder.
    """
    if not (out / "facts.json").is_file():
        return build(out)
    found: dict[str, Any] = json.loads((out / "facts.json").read_text(encoding="utf-8"))
    return found
