"""`benchmarks.data.real_files`: clones are read at a commit, every row is compared, and what differs is said."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data import real_files
from benchmarks.data.real_cases import CASES, Case
from benchmarks.data.real_files import absent_tasks, compare, main, run
from benchmarks.data.real_sources import Absent, Clone, Row
from cl_plugins.crossmodal.sources import protocols
from cl_plugins.data.prepare.registry import CONVERTERS


RESULT = Path(real_files.__file__).with_name("real_files.json")
ANSWERS = "results/finetune_lora_each-64-64_llava_med_v1.5/CXP/answer-file.jsonl"
FLICKR = "InternVL/CL-MoE/results/UCIT/each_dataset/Flickr30k/CL-MoE-task6"


def cxp(**change: Any) -> str:
    """The authors' answer file of one task, three rows."""
    rows = [
        {"question_id": str(n), "prompt": "normal or not?\n", "text": "x", "gt": gt, "answer_type": "CLOSED"} | change
        for n, gt in enumerate(("normal", "pneumonia", "pneumonia"))
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def flickr() -> dict[str, str]:
    """Three rows of captions, the last picture without one."""
    asked = [{"question_id": str(100 + n), "prompt": "What is it?\nBriefly.", "text": f"a {n}"} for n in range(3)]
    scored = [{"pred": f"a {n}", "ground_truth": [f"b {n}", f"c {n}"] if n < 2 else []} for n in range(3)]
    return {
        f"{FLICKR}/merge.jsonl": "".join(json.dumps(row) + "\n" for row in asked),
        f"{FLICKR}/ans_gt.json": json.dumps(scored),
    }


def repository(folder: Path, files: dict[str, str]) -> str:
    """A repository with these files; gives its commit."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "files", "--no-gpg-sign"]):
        subprocess.run([*git, *command], check=True)
    done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def tiny(name: str, clones: Path, files: dict[str, str]) -> Case:
    """A case on a repository of its own."""
    case = next(case for case in CASES if case.name == name)
    (owner,) = case.repositories
    return replace(case, repositories={owner: repository(clones / owner, files)})


def test_rows_that_arrive_as_their_source_pass(tmp_path: Path) -> None:
    found = run(tiny("mslora_cr_8.cxp", tmp_path / "clones", {ANSWERS: cxp()}), tmp_path / "clones", tmp_path / "work")
    assert found["passed"]
    assert [(entry["rows"], entry["records"]) for entry in found["datasets"].values()] == [(3, 3), (3, 3)]
    assert found["repositories"]["VentusAislant/MSLoRA_CR"]["files"][ANSWERS]["bytes"] == len(cxp())
    assert "pictures" in found["made"]


def test_a_row_that_is_dropped_and_should_not_be_is_a_difference(tmp_path: Path) -> None:
    files = {ANSWERS: cxp(gt="something else")}
    found = run(tiny("mslora_cr_8.cxp", tmp_path / "clones", files), tmp_path / "clones", tmp_path / "work")
    assert not found["passed"]  # no option of the task: the data set comes out empty
    assert "reference names no option" in found["refused"]


def test_files_that_do_not_fit_together_have_to_be_refused(tmp_path: Path) -> None:
    shifted = tiny("ucit.flickr30k (captions shifted)", tmp_path / "clones", flickr())
    found = run(shifted, tmp_path / "clones", tmp_path / "shifted")
    assert found["passed"]
    assert "belongs to other pictures than the test file: 1 rows differ" in found["refused"]
    right = next(case for case in CASES if case.name == "ucit.flickr30k")
    found = run(replace(right, repositories=shifted.repositories), tmp_path / "clones", tmp_path / "right")
    assert found["passed"]
    assert found["datasets"]["ucit_flickr30k_test"]["dropped"] == {"answer is missing": 1}
    assert found["agrees"] == {"answers of both files": True}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (Row([("<image>\nq", "a")], {"options": ["x"]}), ""),
        (Row([("<image>\nq", "b")]), "texts"),
        (Row([("<image>\nq", "a")], {"options": ["y"]}), "columns"),
        (Row([("<image>\nq", "a")], picture="1.jpg"), "pictures"),
        (Row([("<image>\nq", "a")], dropped="answer is empty"), "rows"),
        (Row([("<image>\nq", "a")], identity="another"), "rows"),
    ],
)
def test_every_kind_of_difference_is_seen(row: Row, kind: str, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    record = {"id": "t-test-000000", "conversations": turns, "images": [], "options": ["x"]}
    (tmp_path / "s_t_test.jsonl").write_text(json.dumps(record) + "\n")
    entry = {"task": "t", "split": "test", "file": "s_t_test.jsonl"}
    assert list(compare(entry, tmp_path, [row])) == ([kind] if kind else [])


def test_a_row_that_is_lost_without_a_word_is_a_difference(tmp_path: Path) -> None:
    (tmp_path / "s_t_test.jsonl").write_text("")
    entry = {"task": "t", "split": "test", "file": "s_t_test.jsonl"}
    (text,) = compare(entry, tmp_path, [Row([("q", "a")])])["rows"]
    assert text == "t-test-000000: dropped as None, has to be 'kept'"


def test_what_is_not_in_the_clones_is_named_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tiny("mslora_cr_8.cxp", tmp_path / "clones", {ANSWERS: cxp()})
    monkeypatch.setattr(real_files, "CASES", [here, next(case for case in CASES if case.name == "trace.fomc")])
    out = tmp_path / "result.json"
    assert main(["--clones", str(tmp_path / "clones"), "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["not_run"] == {"trace.fomc": "no clone in BeyonderXX/TRACE"}
    assert result["total"] == {
        "cases": 1,
        "passed": 1,
        "repositories": 1,
        "datasets": 2,
        "rows": 6,
        "records": 6,
        "dropped": 0,
        "refused": 0,
    }
    with pytest.raises(Absent, match=r"other\.json cannot be read"):
        Clone(tmp_path / "clones" / "VentusAislant" / "MSLoRA_CR", "HEAD").read("other.json")


def test_the_committed_result_is_of_these_cases_and_all_of_them_passed() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert set(result["cases"]) | set(result["not_run"]) == {case.name for case in CASES}
    assert all(entry["passed"] for entry in result["cases"].values())
    for case in CASES:
        found = result["cases"].get(case.name, {}).get("repositories", {})
        assert {name: entry["commit"] for name, entry in found.items()} in ({}, dict(case.repositories))
    assert result["not_found"] == absent_tasks(CASES)


def test_every_converter_has_a_case_or_is_said_to_have_none() -> None:
    def places(names):
        return {CONVERTERS[stream][task] if stream in CONVERTERS else task for stream, task in names}

    named = places((case.stream, case.task) for case in CASES)
    missing = places(name.split(".") for name in absent_tasks(CASES))
    assert named | missing == {place for tasks in CONVERTERS.values() for place in tasks.values()} | set(protocols())
    assert not named & missing
