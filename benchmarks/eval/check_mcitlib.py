"""Reports of a run of MCITlib beside what the reference scorers make of its answers.

A copy of MCITlib holds, in two of its older commits, the answers of several methods on UCIT, RS, VP and OCR
(``merge.jsonl``), the references (``ans_gt.json``, ``Result.json``) and what MCITlib's scripts printed (``Result.text``, two
digits). Captions are compared where pycocoevalcap and a Java runtime are there. Med, AD, Math and APP have no references in
these files.

    git clone https://github.com/es2ilver/MCITlib
    python -m benchmarks.eval.check_mcitlib MCITlib

Leaves with exit code 1 if anything differs, and with 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data.real_sources import Absent, Clone
from cl_plugins.base.errors import CompatibilityError
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer


COMMITS = ("f4fb35701a11f87b49c0b4f2872acec646a17d5f", "4295bc58ce059fb5dc0df663544499597d11d9fe")
#: Folder of a test set -> the scorer with MCITlib's rule.
SCORERS = {
    "ImageNet-R": "peer:ucit:imagenet_r",
    "ArxivQA": "peer:ucit:arxivqa",
    "VizWiz": "peer:ucit:vizwiz",
    "IconQA": "peer:ucit:iconqa",
    "CLEVR-Math": "peer:ucit:clevr_math",
    "Flickr30k": "peer:ucit:flickr30k",
    "RS": "peer:mcitlib:rs",
    "VP": "peer:mcitlib:vp",
    "OCR": "peer:mcitlib:ocr",
}
_PRINTED = re.compile(r"(?:^Accuracy|^Average|'Final Score Norm'): ([\d.]+)", re.MULTILINE)


def reports(clone: Clone) -> Iterator[tuple[str, str]]:
    """(folder, name of the test set) of every report that a scorer is known for."""
    for path in clone.names("/Result.text"):
        folder = path.removesuffix("/Result.text")
        task = folder.split("/")[-2]
        if task in SCORERS:
            yield folder, task


def items(clone: Clone, folder: str) -> list[Item]:
    """The answers of a report with their references.

    Args:
        clone: The clone.
        folder: Of the report.

    Raises:
        Absent: A file is missing.
        ValueError: The files are of two runs.
    """
    answers = clone.lines(f"{folder}/merge.jsonl")
    try:
        found: list[Any] = clone.json(f"{folder}/ans_gt.json")
    except Absent:
        found = clone.lines(f"{folder}/Result.json")
    if len(answers) != len(found):
        raise ValueError(f"{len(answers)} answers and {len(found)} references")
    if any(
        "image" not in score and answer["text"] != score["pred"] for answer, score in zip(answers, found, strict=True)
    ):
        raise ValueError("answers and references are of two runs")
    return [_item(answer, score) for answer, score in zip(answers, found, strict=True)]


def _item(answer: dict[str, Any], score: dict[str, Any]) -> Item:
    right = score["ground_truth"]
    several = right if isinstance(right, list) else []
    known = {"answer_type": score.get("category"), "type": score.get("dimension"), "task": score.get("task")}
    fields = {name: value for name, value in known.items() if value} | {"answers": several}
    reference = right if isinstance(right, str) else (right[0] if right else "")
    return Item(str(answer["question_id"]), answer["prompt"], answer["text"], reference, fields=fields)


def printed(report: str) -> str:
    """The score that a report gives, with its digits."""
    found = _PRINTED.search(report)
    if found is None:
        raise ValueError("the report names no score")
    return found[1]


def main(words: Sequence[str] | None = None) -> int:
    """Compare every report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, metavar="CLONE", help="a clone of es2ilver/MCITlib")
    parser.add_argument("--commits", nargs="+", default=COMMITS, help="which commits are read")
    args = parser.parse_args(words)
    seen: dict[bytes, str] = {}
    equal = differ = 0
    for commit in args.commits:
        clone = Clone(args.clone, commit)
        for folder, task in reports(clone):
            try:
                theirs = printed(clone.read(f"{folder}/Result.text").decode())
                content = clone.read(f"{folder}/merge.jsonl") + theirs.encode()
                if content in seen:
                    continue
                seen[content] = folder
                ours = (
                    f"{get_scorer(SCORERS[task]).score(items(clone, folder)).score:.{len(theirs.partition('.')[2])}f}"
                )
            except (Absent, ValueError, CompatibilityError) as error:
                print(f"{folder}: not compared, {error}")
                continue
            equal += ours == theirs
            differ += ours != theirs
            print(f"{folder}: {theirs}" + ("" if ours == theirs else f", ours {ours}"))
    print(f"{equal} of {equal + differ} reports agree")
    return 2 if not equal + differ else int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
