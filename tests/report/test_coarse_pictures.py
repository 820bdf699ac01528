"""Streams of more tasks than a picture has room for."""

from __future__ import annotations

import math

import pytest

from cl_plugins.evaluation.matrix import AccuracyMatrix
from cl_plugins.report import coarse_picture, read_run, write_report
from cl_plugins.run.evaluate import write_matrix


COUNT = coarse_picture.NUMBERED + 5


def score(row, task):
    return 90.0 - 2 * (row - task) if task <= row else None


@pytest.fixture
def folder(tmp_path):
    """A run that has measured the first rows, where one cell is missing."""
    tasks = [f"task_{number:02d}" for number in range(COUNT)]
    scores = [[score(row, task) if row < 10 else None for task in range(COUNT)] for row in range(COUNT)]
    scores[4][1] = None
    matrix = AccuracyMatrix(
        stream="long", method="inclora", tasks=tasks, scorers=dict.fromkeys(tasks, "exact_match@1"), n=dict.fromkeys(tasks, 9),
        zero_shot=[5.0] * COUNT, scores=scores, rows=None,
    )  # fmt: skip
    write_matrix(tmp_path, matrix)
    return tmp_path


def test_every_cell_is_a_colour(folder):
    run = read_run(folder)
    axes = coarse_picture.matrix(run).axes[0]
    drawn = axes.images[0].get_array().filled(math.nan).tolist()
    wanted = [[math.nan if cell.score is None else cell.score for cell in row.cells] for row in run.rows]
    assert [[repr(float(x)) for x in row] for row in drawn] == [[repr(float(x)) for x in row] for row in wanted]
    assert len(axes.get_xticklabels()) <= coarse_picture.LABELS
    assert not axes.texts


def test_the_mean_is_that_of_the_learned_tasks_that_were_measured(folder):
    axes = coarse_picture.lines(read_run(folder)).axes[0]
    named = {line.get_label(): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")}
    means = named["mean of the tasks learned so far"]
    assert len(means) == 10
    assert means[2] == pytest.approx((86 + 88 + 90) / 3)
    assert means[4] == pytest.approx((82 + 86 + 88 + 90) / 4)  # without the cell that is missing
    assert named["the task just trained"] == [90.0] * 10


@pytest.mark.usefixtures("pictures_drawn")
def test_the_report_uses_them(folder, monkeypatch):
    drawn = []
    for name in ("matrix", "lines"):
        original = getattr(coarse_picture, name)
        monkeypatch.setattr(coarse_picture, name, lambda run, n=name, o=original: drawn.append(n) or o(run))
    write_report(folder)
    assert set(drawn) == {"matrix", "lines"}
    assert (folder / "matrix.png").read_bytes()[:4] == b"\x89PNG"


def test_the_words_of_the_report_are_those_of_a_long_stream(folder):
    write_report(folder)
    for name in ("report.html", "report.md"):
        page = (folder / name).read_text()
        assert "One task per row; scores from 0 to 100." in page
        assert not [
            words for words in ("Bold:", "In small print: 95", "In brackets: 95", "Hatched", "Framed") if words in page
        ]
        assert "matrix.csv" in page
