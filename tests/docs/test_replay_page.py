"""What a carry could reveal is the generated table of `docs/methods.md`; the keys of `docs/replay.md` are those of the recipe."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from cl_plugins.cli.docs import reveals_table
from cl_plugins.config import ReplayConfig


DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "replay.md").read_text(encoding="utf-8")
METHODS = (DOCS / "methods.md").read_text(encoding="utf-8")


def test_what_each_carry_could_reveal():
    shown = METHODS.split("<!-- reveals -->\n")[1].split("<!-- /reveals -->")[0]
    assert shown.strip() == reveals_table().strip(), "paste the output of `cl-plugins docs reveals`"
    assert "training samples" in next(line for line in shown.splitlines() if line.startswith("| `der`"))


def test_every_key_is_explained():
    named = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert {field.name for field in dataclasses.fields(ReplayConfig)} <= named
