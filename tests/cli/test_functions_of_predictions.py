"""Matrix, metrics and report follow from the predictions and from nothing else; a change of any of them is noticed."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import sealed
from hypothesis import given, settings
from hypothesis import strategies as st

from cl_plugins.evaluation.items import predictions_to_jsonl, read_predictions
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.report import run_report, terminal_table
from cl_plugins.report.run_data import read_run
from cl_plugins.run.evaluate import build_matrix, score_items, write_matrix
from cl_plugins.run.reopen import planned, read_recipe


TASKS = ("one", "two", "three")
ROWS = ("zero_shot", *(f"after_{task}" for task in TASKS))
LETTERS = "ABCD"


def naive_score(items):
    """Share of answers whose first character is the letter of the reference, in percent."""
    return 100 * sum(item.prediction[:1] == item.reference for item in items) / len(items)


def naive_metrics(R):
    """Last, average and backward transfer of a lower triangular matrix, by their definitions."""
    T = len(R)
    last = sum(R[-1]) / T
    average = sum(sum(R[k][: k + 1]) / (k + 1) for k in range(T)) / T
    bwt = sum(R[-1][i] - R[i][i] for i in range(T - 1)) / (T - 1)
    return {"last": last, "average": average, "bwt": bwt}


def cells():
    """The cells of the run: the first row, and the tasks seen so far in each row."""
    return [(row, task) for k, row in enumerate(ROWS) for task in (TASKS if k == 0 else TASKS[:k])]


def check_numbers(scores, root):
    """Matrix and metrics on disk are those of the scores."""
    matrix = json.loads((root / "matrix.json").read_text())
    table = [matrix["zero_shot"], *matrix["scores"]]
    for (row, task), score in scores.items():
        assert table[ROWS.index(row)][TASKS.index(task)] == pytest.approx(score, abs=1e-9)
    assert sum(value is not None for line in table for value in line) == len(scores)
    R = [[scores[row, task] for task in TASKS[: k + 1]] for k, row in enumerate(ROWS[1:])]
    found = json.loads((root / "metrics.json").read_text())["metrics"]
    for name, value in naive_metrics(R).items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9), name


@settings(max_examples=30)
@given(draw=st.randoms(use_true_random=False))
def test_matrix_and_metrics_of_any_answers(inclora, draw):
    _, config = read_recipe(inclora.root)
    plan = planned(inclora.root, config)
    with tempfile.TemporaryDirectory() as name:
        root, scores = Path(name), {}
        for row, task in cells():
            given_items = read_predictions(inclora.root / "predictions" / row / f"{task}.jsonl")
            items = [replace(item, prediction=draw.choice(LETTERS)) for item in given_items]
            score = score_items(items, "choice_accuracy", None, task)
            folder = root / "predictions" / row
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{task}.jsonl").write_text(predictions_to_jsonl(items, score))
            score.write(folder / f"{task}.score.json")
            scores[row, task] = naive_score(read_predictions(folder / f"{task}.jsonl"))
        write_matrix(root, build_matrix(root, plan, config))
        check_numbers(scores, root)
        before = [(root / name).read_bytes() for name in ("matrix.json", "metrics.json")]
        write_matrix(root, build_matrix(root, plan, config))
        assert before == [(root / name).read_bytes() for name in ("matrix.json", "metrics.json")]


def test_a_report_shows_what_the_predictions_give(copied):
    scores = {}
    for row, task in cells():
        items = read_predictions(copied / "predictions" / row / f"{task}.jsonl")
        scores[row, task] = get_scorer("choice_accuracy").score(items).score
    check_numbers(scores, copied)
    run = read_run(copied)
    shown = {(row.name, task): cell.score for row in run.rows for task, cell in zip(run.tasks, row.cells, strict=True)}
    assert {key: value for key, value in shown.items() if value is not None} == pytest.approx(scores)
    table = list(csv.DictReader(io.StringIO(run_report.cells_csv(run).decode())))
    assert {(line["row"], line["task"]): float(line["score"]) for line in table} == pytest.approx(scores)
    text = terminal_table(copied, width=200)
    shutil.rmtree(copied / "tasks")  # neither weights nor logs decide what is shown
    shutil.rmtree(copied / "final")
    assert terminal_table(copied, width=200) == text


def _edit_predictions(draw, path):
    """Another answer, reference, question, score or order, or a line less or twice."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kind = draw.choice(["prediction", "reference", "prompt", "id", "score", "removed", "twice", "order"])
    place = draw.randrange(len(lines))
    if kind == "removed":
        del lines[place]
    elif kind == "twice":
        lines.append(lines[place])
    elif kind == "order":
        lines.reverse()
    elif kind == "score":
        lines[place]["score"] = 1 - float(lines[place]["score"])
    else:
        lines[place][kind] += "x"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"{path.parent.name}/{path.name}: {kind}"


def _edit_matrix(draw, path):
    """Another number in a cell, with a valid checksum or without."""
    row, column = draw.randrange(len(TASKS)), 0
    column = draw.randrange(row + 1)

    def change(content):
        content["scores"][row][column] = (content["scores"][row][column] + 37.5) % 100

    if draw.random() < 0.5:
        sealed.edit(path, change)
        return f"matrix.json: {row} {column}, believed"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return f"matrix.json: {row} {column}"


@pytest.mark.parametrize("seed", range(12))
def test_any_edit_is_noticed_before_a_number_is_printed(seed, cli, copied, tmp_path):
    draw = random.Random(seed)
    if draw.random() < 0.6:
        row, task = draw.choice(cells())
        done = _edit_predictions(draw, copied / "predictions" / row / f"{task}.jsonl")
    else:
        done = _edit_matrix(draw, copied / "matrix.json")
    for number, words in enumerate(
        (
            ("status", copied, "--verify"),
            ("report", copied),
            ("report", copied, "--scorer", "exact_match", "--out", tmp_path / "rescored"),
            ("compare", copied, "--out", tmp_path / "compared"),
            ("export", copied, "--to", "adapter", "--out", tmp_path / "exported"),
            ("evaluate", copied, "--task", "one", "--out", tmp_path / "evaluated"),
        )
    ):
        code, out, err = cli(*words)
        assert code == 1, f"{done}: {words[0]} printed {out}"
        assert number == 0 or not out.strip(), f"{done}: {words[0]} printed {out}"
        assert "predictions" in out + err or "matrix.json" in out + err
    assert not (tmp_path / "exported").exists()
