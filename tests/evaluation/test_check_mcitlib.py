"""The script that sets reports of MCITlib beside ours: it must see what differs, and say what it cannot compare."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks.eval.check_mcitlib import main, printed


PLACE = "InternVL/X/results/UCIT/each_dataset"


def repository(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "files", "--no-gpg-sign"]):
        subprocess.run([*git, *command], check=True)


def run(task: str, right: list[str], answers: list[str], report: str) -> dict[str, str]:
    """The files of one report."""
    asked = [
        {"question_id": str(n), "prompt": "how many?", "text": text, "metadata": {}} for n, text in enumerate(answers)
    ]
    scored = [{"pred": pred, "ground_truth": gt} for pred, gt in zip(answers, right, strict=False)]
    return {
        f"{PLACE}/{task}/X-task1/merge.jsonl": "".join(json.dumps(row) + "\n" for row in asked),
        f"{PLACE}/{task}/X-task1/ans_gt.json": json.dumps(scored),
        f"{PLACE}/{task}/X-task1/Result.text": report,
    }


def check(folder: Path) -> int:
    return main([str(folder), "--commits", "HEAD"])


def test_reports_that_agree(tmp_path, capsys):
    files = run("IconQA", ["1", "2", "3"], ["1", "2", "4"], "Samples: 3\nAccuracy: 66.67%\n")
    files |= {name.replace("X-task1", "X-copy"): text for name, text in files.items()}  # the same once more
    repository(tmp_path, files | run("Unknown", ["1"], ["1"], "Samples: 1\nAccuracy: 100.00%\n"))
    assert check(tmp_path) == 0
    assert capsys.readouterr().out.endswith("1 of 1 reports agree\n")


def test_a_score_that_differs_is_shown_with_as_many_digits(tmp_path, capsys):
    repository(tmp_path, run("IconQA", ["1", "2", "3"], ["1", "2", "4"], "Samples: 3\nAccuracy: 33.33%\n"))
    assert check(tmp_path) == 1
    assert "IconQA/X-task1: 33.33, ours 66.67" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("right", "report", "said"),
    [
        (["1"], "Accuracy: 50.00%", "2 answers and 1 references"),
        (["1", "2"], "Samples: 2", "the report names no score"),
    ],
)
def test_what_cannot_be_compared_is_said(right, report, said, tmp_path, capsys):
    repository(tmp_path, run("IconQA", right, ["1", "2"], report))
    assert check(tmp_path) == 2
    assert f"not compared, {said}" in capsys.readouterr().out


def test_answers_of_another_run_are_not_scored(tmp_path, capsys):
    files = run("IconQA", ["1", "2"], ["1", "2"], "Accuracy: 100.00%")
    name = f"{PLACE}/IconQA/X-task1/merge.jsonl"
    files[name] = files[name].replace('"text": "2"', '"text": "3"')
    repository(tmp_path, files)
    assert check(tmp_path) == 2
    assert "answers and references are of two runs" in capsys.readouterr().out


def test_a_folder_that_is_no_clone(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert "0 of 0 reports agree" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("report", "score"),
    [
        ("Samples: 3000\nAccuracy: 93.57%\n", "93.57"),
        ("Samples: 788\nAccuracy: 56.09%\nCount Accuracy: 56.09%\n", "56.09"),
        ("Samples: 3\nBleu_1: 76.25\nCIDEr: 131.10\nAverage: 61.60\n", "61.60"),
        ("Samples: 1000\nFinal_score_dict: {'Final Score': 300, 'Final Score Norm': 30.0}\n", "30.0"),
    ],
)
def test_the_score_of_every_kind_of_report(report, score):
    assert printed(report) == score
