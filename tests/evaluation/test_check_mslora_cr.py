"""The script that sets MSLoRA-CR's published reports beside ours: it must see what differs."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


FILE = Path(__file__).parents[2] / "benchmarks" / "eval" / "check_mslora_cr.py"
ANSWERS = [("1", "Yes", "yes"), ("2", "abnormal", "normal"), ("2", "no", "yes")]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_mslora_cr", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "run" / "CXP"
    folder.mkdir(parents=True)
    records = [
        {"question_id": key, "prompt": "q", "text": text, "gt": right, "answer_type": "CLOSED"}
        for key, text, right in ANSWERS
    ]
    (folder / "answer-file.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = ["Metric  Performance", "------  -----------", "exact match score  33.3333", "close accuracy  66.6667"]
    (folder / "metrics.txt").write_text("\n".join(rows))
    head = "id,question,pred,answer,answer_type,image\n"
    (folder / "hit.csv").write_text(head + "1,q,yes,yes,CLOSED,\n2,q,abnormal,normal,CLOSED,\n2,q,no,yes,CLOSED,\n,\n")
    (folder / "not_hit.csv").write_text(head + "2,q,abnormal,normal,CLOSED,\n2,q,no,yes,CLOSED,\n")
    return tmp_path


def test_a_report_that_agrees(script, clone, capsys):
    assert script.main([str(clone)]) == 0
    assert "1 of 1 reports agree (2 numbers)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("metrics.txt", "66.6667", "66.6668", "closed_accuracy: published 66.6668, ours 66.66666667"),
        ("metrics.txt", "\nclose accuracy  66.6667", "", "closed_accuracy is only in one of the two"),
        ("hit.csv", "2,q,no,yes,CLOSED,\n", "", "hit.csv has other rows"),
        ("not_hit.csv", "2,q,no", "3,q,no", "not_hit.csv has other rows"),
    ],
)
def test_what_differs_is_named(script, clone, capsys, name, old, new, said):
    path = clone / "results" / "run" / "CXP" / name
    path.write_text(path.read_text().replace(old, new))
    assert script.main([str(clone)]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert "0 of 1 reports agree" in out


def test_another_folder_is_no_success(script, tmp_path, capsys):
    assert script.main([str(tmp_path)]) == 2
    assert "is it a clone" in capsys.readouterr().err
