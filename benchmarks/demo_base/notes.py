"""README and NOTICE that lie beside the weights of the demo base."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.demo_base.photographs import PHOTOGRAPHS


_README = """# The demo base

A LLaVA-shaped model ({parameters:,} parameters, fp32): a CLIP-ViT that reads pictures of 32x32 pixels as 16 patches, and a
LLaMA of four layers. It was pretrained from scratch, on everyday photographs only, to answer with a letter, to caption, and
to stop. It exists so that a whole continual-learning run fits into minutes on a CPU. It is of no use for anything else; in
particular it has no medical ability.

Made with `python -m benchmarks.demo_base --out DIR --seed {seed} --threads {threads}` in {seconds} s on {machine}.
The same versions, threads and kind of processor give the same bytes; others give a model that behaves alike.

Versions: {versions}.

Right letters on held-out random crops of the same photographs, in per cent:

{accuracy}

sha256:

{hashes}

Licence: Apache-2.0. The photographs are listed in NOTICE; none of them is contained in the weights' folder.
"""

_NOTICE = """The demo base was trained on crops of these photographs, which lie inside the wheels of scikit-image and
scikit-learn. They are not redistributed here.

{pictures}

CC BY 2.0: https://creativecommons.org/licenses/by/2.0/ (the pictures were cropped, turned, shrunken and recoloured).
"""


def write_notes(folder: Path, facts: dict[str, Any]) -> None:
    """Write README.md, NOTICE and facts.json into the folder of the base.

    Args:
        folder: Holds the saved model, tokenizer and processor.
        facts: What ``python -m benchmarks.demo_base`` noted: parameters, seed, threads, seconds, machine, versions, held_out_accuracy.
    """
    pictures = "\n".join(
        f"- {photo.source.file} ({photo.source.distribution}): {photo.source.origin}; {photo.source.licence}"
        for photo in PHOTOGRAPHS
    )
    (folder / "NOTICE").write_text(_NOTICE.format(pictures=pictures), encoding="utf-8")
    (folder / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    files = sorted(
        file for file in folder.iterdir() if file.is_file() and file.name not in ("README.md", "facts.json")
    )
    shown = {
        **facts,
        "versions": ", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        "accuracy": "\n".join(f"- {question} {share}" for question, share in facts["held_out_accuracy"].items()),
        "hashes": "\n".join(f"- `{file.name}` {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files),
    }
    (folder / "README.md").write_text(_README.format(**shown), encoding="utf-8")
