"""What the card of a classifier on frozen encoders says, where that of a language model would speak of prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .base_card import base_licence, is_local, plain


Modalities = Mapping[str, Mapping[str, Any]]
_SAMPLES = {"vision": "sample.png", "audio": "sample.wav", "text": "a text", "signal": "sample.csv"}
_READS = {
    "vision": "a picture or its file, a list of them, or the file of a video",
    "audio": "a wave or the file of a sound",
    "text": "a text",
    "signal": "numbers (samples, channels), or a file (.csv, .npy)",
}


def pretrained(modalities: Modalities) -> list[str]:
    """Names of the encoders on a hub.

    Args:
        modalities: Name of a modality -> its entry in the recipe; the same below.
    """
    named = (str(entry["model"]) for _, entry in sorted(modalities.items()) if entry.get("model"))
    return [name for name in named if not is_local(name)]


def use(modalities: Modalities) -> str:
    """Code that opens a classifier and its processor; a test runs it."""
    sample = {name: _SAMPLES[str(entry["kind"])] for name, entry in sorted(modalities.items())}
    code = [
        "from cl_plugins.crossmodal.inputs import CrossModalProcessor",
        "from cl_plugins.crossmodal.model import CrossModalClassifier",
        "",
        'folder = "."  # the folder of this file',
        "model = CrossModalClassifier.from_pretrained(folder).eval()",
        "processor = CrossModalProcessor.from_pretrained(folder, model.config)",
        f"sample = {json.dumps(sample)}",
        "logits = model(**processor([sample])).logits",
        "print(model.config.labels[int(logits.argmax())])",
    ]
    told = "`cl_plugins.load(folder)` opens it as well, and compares every file with the recorded hashes first."
    return "```python\n" + "\n".join(code) + "\n```\n\n" + told


def inputs(modalities: Modalities) -> str:
    """What a sample has for each modality, and what an answer is."""
    lines = ["| modality | takes |", "| --- | --- |"]
    lines += [f"| {plain(name)} | {_READS[str(entry['kind'])]} |" for name, entry in sorted(modalities.items())]
    missing = (
        "A modality that is left out of a sample is masked. The answer is one of the classes `model.config.labels`."
    )
    return "\n".join(lines) + "\n\n" + missing


def licence(modalities: Modalities) -> str:
    """What the cards of pretrained encoders say of their licences."""
    found = []
    for name in pretrained(modalities):
        about = base_licence(name)
        found.append(
            f"`{plain(name)}`: {plain(about.get('license_name') or about.get('license') or 'not stated here')}"
        )
    told = f"Licences of the encoders: {'; '.join(found)}." if found else "No encoder is from a hub."
    return f"{told} The terms of the encoders and of the training data apply."
