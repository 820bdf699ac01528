"""Files of a finished run that were changed: every command that would use them says so, and prints no number."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import sealed
import torch
from safetensors.torch import load_file, save_file

from cl_plugins.evaluation.metrics import continual_metrics, metrics_to_json
from cl_plugins.evaluation.results import read_results


def zeroed(path):
    """The tensors of a file as zeros; the inode is new, since the carry has a link to the old one."""
    tensors = {name: torch.zeros_like(value) for name, value in load_file(path).items()}
    path.unlink()
    save_file(tensors, path)


def plain(text):
    """The words of a message; the terminal has a line break for the colon."""
    return " ".join(text.replace(": ", " ").split())


def everywhere(root, tmp_path, *commands):
    """The commands that print or use results of a run."""
    found = {
        "report": ("report", root),
        "rescore": ("report", root, "--scorer", "exact_match", "--out", tmp_path / "rescored"),
        "compare": ("compare", root, "--out", tmp_path / "compared"),
        "evaluate": ("evaluate", root, "--task", "one", "--out", tmp_path / "evaluated"),
        "export": ("export", root, "--to", "adapter", "--out", tmp_path / "exported"),
        "status": ("status", root, "--verify"),
    }
    return {name: words for name, words in found.items() if not commands or name in commands}


def refused(cli, root, tmp_path, *said, commands=()):
    for name, words in everywhere(root, tmp_path, *commands).items():
        code, out, err = cli(*words)
        text = plain(out + err)
        assert code == 1, f"{name}: {text}"
        assert "99.5" not in (out if name != "status" else ""), name
        for part in said:
            assert plain(part) in text, f"{name}: {text}"
    assert not [p for p in tmp_path.glob("*ed") if p != root and any(p.iterdir())]


def test_the_matrix(cli, copied, tmp_path):
    text = (copied / "matrix.json").read_text()
    content = json.loads(text)
    content["scores"][-1][0] = 99.5
    (copied / "matrix.json").write_text(json.dumps(content))
    refused(cli, copied, tmp_path, "matrix.json: was changed after it was written")
    sealed.edit(copied / "matrix.json", lambda _: content)
    refused(cli, copied, tmp_path, "[after_three][one]: is 99.5, but the score file has")


def test_a_score_file(cli, copied, tmp_path):
    path = copied / "predictions/after_three/one.score.json"
    sealed.edit(path, lambda content: content.update(score=99.5))
    sealed.edit(copied / "matrix.json", lambda content: content["scores"][-1].__setitem__(0, 99.5))
    refused(cli, copied, tmp_path, "one.score.json: differs from its hash in journal.jsonl")


def test_predictions(cli, copied, tmp_path):
    path = copied / "predictions/after_three/one.jsonl"
    path.write_text(path.read_text().replace('"prediction": "', '"prediction": "x', 1))
    refused(cli, copied, tmp_path, "one.jsonl: differs from its hash in journal.jsonl")


def test_the_metrics(cli, copied, tmp_path):
    sealed.edit(copied / "metrics.json", lambda content: content["metrics"]["last"].update(value=99.5))
    refused(cli, copied, tmp_path, "metrics.json: does not follow from matrix.json")


def test_a_cell_that_was_never_measured(cli, copied, tmp_path):
    sealed.edit(copied / "matrix.json", lambda content: content["scores"][0].__setitem__(2, 50.0))
    (copied / "metrics.json").unlink()
    refused(cli, copied, tmp_path, "[after_one][three]: was not measured", commands=("report", "status"))


def test_a_matrix_that_is_one_cell_behind_is_shown_with_a_remark(cli, copied):
    """A kill between the line of the journal and the matrix."""
    sealed.edit(copied / "matrix.json", lambda content: content["scores"][-1].__setitem__(2, None))
    (copied / "metrics.json").unlink()
    code, _, err = cli("report", copied)
    assert code == 0, err
    assert "is not in the matrix yet" in (copied / "report.md").read_text()


def behind(root, *cells):
    """The matrix as it was before cells (row, column) of it were measured, and no metrics."""

    def change(content):
        for row, column in cells:
            content["scores"][row][column] = None

    sealed.edit(root / "matrix.json", change)


def test_a_matrix_that_is_a_part_of_a_row_behind_is_completed_from_the_score_files(cli, copied):
    """A run at work, or one that was killed in the middle of a row."""
    whole = json.loads((copied / "matrix.json").read_text())
    metrics = json.loads((copied / "metrics.json").read_text())["metrics"]
    behind(copied, (2, 0), (2, 1), (2, 2))
    (copied / "metrics.json").unlink()
    found = read_results(copied)
    assert (found.matrix.scores, found.matrix.n) == (whole["scores"], whole["n"])
    assert {name: metric.value for name, metric in found.metrics.items()} == {
        name: metric.get("value") for name, metric in metrics.items()
    }
    assert ("after_three", "two") in found.scores
    assert len(found.remarks) == 1
    assert "last 3 measurements (after_three: one" in found.remarks[0]
    assert cli("report", copied)[0] == 0
    assert "are not in the matrix yet" in (copied / "report.md").read_text()
    assert cli("status", copied, "--verify")[0] == 0


def test_metrics_that_are_a_part_of_a_row_behind(copied):
    """A kill between the matrix and the metrics."""
    whole = read_results(copied)
    for last in (("two", "three"), ("three",)):
        matrix = replace(whole.matrix)
        for task in last:
            matrix.set("after_three", task, None)
        (copied / "metrics.json").write_text(metrics_to_json(continual_metrics(matrix)))
        found = read_results(copied)
        assert found.metrics == whole.metrics
        assert found.remarks == ()


def test_a_cell_that_is_missing_in_front_of_others_is_refused(cli, copied, tmp_path):
    behind(copied, (1, 0))
    refused(cli, copied, tmp_path, "[after_two][one]: is None, but the score file has", commands=("report", "status"))


def test_a_cell_that_is_behind_must_fit_the_others_of_its_task(cli, copied, tmp_path):
    def change(content):
        content["scores"][2][2] = None
        content["n"]["one"] += 1

    sealed.edit(copied / "matrix.json", change)
    refused(cli, copied, tmp_path, "items, but the score file has", commands=("report", "status"))


def test_scores_of_answers_scored_anew(cli, copied, tmp_path):
    out = tmp_path / "anew"
    assert cli("report", copied, "--scorer", "exact_match", "--out", out)[0] == 0
    assert cli("compare", out, "--out", tmp_path / "fine")[0] == 0
    path = out / "predictions/after_three/one.score.json"
    sealed.edit(path, lambda content: content.update(score=99.5))
    sealed.edit(out / "matrix.json", lambda content: content["scores"][-1].__setitem__(0, 99.5))
    code, _, err = cli("compare", out, "--out", tmp_path / "not")
    assert code == 1
    assert "one.score.json differs from its hash in run.json" in plain(err)


@pytest.mark.parametrize("task", ["one", "two"])
def test_the_update_of_a_task(cli, copied, tmp_path, task):
    number = {"one": 1, "two": 2}[task]
    zeroed(copied / f"tasks/{number:02d}_{task}/update.safetensors")
    said = "update.safetensors differs from its hash"
    for words in (
        ("evaluate", copied, "--task", "one", "--after", "two", "--out", tmp_path / "evaluated"),
        ("export", copied, "--to", "adapter", "--task", "two", "--out", tmp_path / "exported"),
        ("status", copied, "--verify"),
    ):
        code, out, err = cli(*words)
        assert code == 1, words
        assert said in plain(out + err), words
    assert not (tmp_path / "exported").exists()


def test_without_its_journal_no_file_of_a_run_is_believed(cli, copied, tmp_path):
    (copied / "journal.jsonl").unlink()
    sealed.edit(copied / "predictions/after_three/one.score.json", lambda content: content.update(score=99.5))
    sealed.edit(copied / "matrix.json", lambda content: content["scores"][-1].__setitem__(0, 99.5))
    (copied / "metrics.json").unlink()
    refused(cli, copied, tmp_path, "journal.jsonl: is missing")


def test_results_that_were_copied_without_a_journal_are_shown_with_a_remark(cli, copied, tmp_path):
    place = tmp_path / "results"
    place.mkdir()
    for name in ("run.json", "matrix.json", "predictions"):
        (copied / name).rename(place / name)
    code, _, err = cli("report", place)
    assert code == 0, err
    assert "There is no journal with hashes here" in (place / "report.md").read_text()


def test_links_out_of_a_run_are_not_followed(cli, copied, tmp_path):
    outside = shutil.copy(copied / "matrix.json", tmp_path / "outside.json")
    (copied / "matrix.json").unlink()
    (copied / "matrix.json").symlink_to(outside)
    code, _, err = cli("report", copied)
    assert code == 1
    assert "is a symbolic link, which is not followed" in plain(err)
