"""MSLoRA-CR's published reports beside what `peer:mslora_cr` makes of its published answer files.

The repository holds, for every run and test set, the answers (``answer-file.jsonl``), the report (``metrics.txt``, six
significant digits) and the rows that its author counts as right and wrong (``hit.csv``, ``not_hit.csv``). All are compared.

    git clone https://github.com/VentusAislant/MSLoRA_CR
    python benchmarks/eval/check_mslora_cr.py MSLoRA_CR

Leaves with exit code 1 if anything differs, and with 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from cl_plugins.evaluation.answers import read_answers
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers.reference.mslora_cr import hit_files, judge, summarise


#: The names that the reports have for the metrics.
NAMES = {
    "exact match score": "exact_match",
    "f1 score": "f1",
    "precision": "precision",
    "recall": "recall",
    "bleu_score": "bleu",
    "bleu_score_1": "bleu_1",
    "bleu_score_2": "bleu_2",
    "bleu_score_3": "bleu_3",
    "close accuracy": "closed_accuracy",
}


def printed(report: str) -> dict[str, str]:
    """Metric -> its digits, from a report: a heading, a rule, and a line per metric."""
    rows = [line.rsplit(None, 1) for line in report.splitlines()[2:] if line.strip()]
    return {NAMES[name.strip()]: digits for name, digits in rows}


def differences(folder: Path) -> tuple[list[str], int]:
    """What differs between one published report and ours, and how many numbers it holds.

    Args:
        folder: Holds ``answer-file.jsonl``, ``metrics.txt`` and, maybe, the two CSV files.
    """
    items = read_answers(folder / "answer-file.jsonl")
    judged = [judge(item) for item in items]
    ours, theirs = summarise(judged), printed((folder / "metrics.txt").read_text(encoding="utf-8"))
    wrong = [f"{name} is only in one of the two" for name in sorted(ours.keys() ^ theirs.keys())]
    for name, digits in theirs.items():
        if name in ours and f"{ours[name]:g}" != digits:
            wrong.append(f"{name}: published {digits}, ours {ours[name]:.10g}")
    for name, rows in zip(("hit.csv", "not_hit.csv"), hit_files(items, judged), strict=True):
        if (folder / name).is_file() and listed(folder / name) != [row_of(items[row]) for row in rows]:
            wrong.append(f"{name} has other rows")
    return wrong, len(theirs)


def listed(path: Path) -> list[tuple[str, str]]:
    """(id, answer) of each row of ``hit.csv`` or ``not_hit.csv``."""
    with path.open(encoding="utf-8", newline="") as file:
        # One file ends with a line of nothing but a comma.
        return [(row["id"], plain(row["pred"])) for row in csv.DictReader(file) if row["id"]]


def row_of(item: Item) -> tuple[str, str]:
    """(id, answer) as the peer writes them: its own id, lower case."""
    return str(item.fields["question_id"]), plain(item.prediction.lower())


def plain(text: str) -> str:
    """Line ends are written as the machine writes them; spaces are not what is compared."""
    return " ".join(text.split())


def main(words: Sequence[str] | None = None) -> int:
    """Compare every report below ``results``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, metavar="CLONE", help="a clone of VentusAislant/MSLoRA_CR")
    args = parser.parse_args(words)
    folders = sorted(path.parent for path in (args.clone / "results").glob("*/*/metrics.txt"))
    if not folders:
        print(
            f"{args.clone / 'results'} holds no metrics.txt: is it a clone of VentusAislant/MSLoRA_CR?",
            file=sys.stderr,
        )
        return 2
    equal = numbers = 0
    contents = set()
    for folder in folders:
        wrong, count = differences(folder)
        equal += not wrong
        numbers += count
        contents.add((folder / "answer-file.jsonl").read_bytes())
        print(
            f"{folder.parent.name}/{folder.name}: {'; '.join(wrong) or f'{count} numbers and the lists of hits agree'}"
        )
    print(
        f"{equal} of {len(folders)} reports agree ({numbers} numbers); {len(contents)} of the answer files differ from one another"
    )
    return 0 if equal == len(folders) else 1


if __name__ == "__main__":
    sys.exit(main())
