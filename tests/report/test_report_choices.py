"""What a report says of a model that finds out the task: its choices, and what the wrong ones cost."""

from __future__ import annotations

import json

import pytest
from made_runs import DEMO_TASKS, demo_run, dump, make_run

from cl_plugins.report import choices, write_report
from cl_plugins.report.run_data import read_run


ROUTES = {
    "path": {"path": 101, "cell": 19},
    "neuro": {"neuro": 88, "rad": 30, "path": 2},
    "cell": {"cell": 120},
    "rad": {"rad": 117, "neuro": 3},
}
TOLD = {"path": 60.0, "neuro": 72.5, "cell": 58.33, "rad": 31.9}


def change(file, **more):
    value = json.loads(file.read_text())
    value["extra"] |= more.pop("extra", {})
    dump(file, value | more)


@pytest.fixture
def routed(tmp_path):
    """A run whose model has chosen, with an oracle row."""
    run = demo_run(tmp_path / "run", method="hide")
    for number, row in enumerate(DEMO_TASKS):
        for task in DEMO_TASKS[: number + 1]:
            found = {"routes": ROUTES[task], "selected": 100 * ROUTES[task][task] / 120}
            change(run / "predictions" / f"after_{row}" / f"{task}.score.json", extra=found)
    for task, score in TOLD.items():
        value = json.loads((run / "predictions" / "after_rad" / f"{task}.score.json").read_text())
        ends = {"interval": [score - 5, score + 5], "extra": {"routes": {task: 120}, "selected": 100.0}}
        dump(run / "predictions" / "oracle" / f"{task}.score.json", value | {"score": score} | ends)
    return run


def test_the_confusion_is_the_share_of_each_choice(routed):
    found = choices.confusion(read_run(routed))
    assert found.tasks == found.chosen == tuple(DEMO_TASKS)
    assert [sum(shares) for shares in found.shares] == pytest.approx([100.0] * 4)
    assert found.shares[1] == pytest.approx((100 * 2 / 120, 100 * 88 / 120, 0.0, 25.0))


def test_the_oracle_row_is_beside_the_chosen_one_and_not_in_the_matrix(routed):
    run = read_run(routed)
    assert [row.name for row in run.rows] == ["zero_shot", *(f"after_{task}" for task in DEMO_TASKS)]
    rows = [[entry.text for entry in row] for row in choices.oracle_table(run).rows]
    assert (rows[0][0], rows[1][0]) == ("chosen by the model", "true task given")
    assert rows[1][1:5] == ["60.00", "72.50", "58.33", "31.90"]
    assert rows[2] == ["lost by the choice", "8.33", "25.83", "0.00", "0.50", "8.66"]


@pytest.mark.usefixtures("pictures_drawn")
def test_pages_have_tables_and_picture(routed):
    names = {path.name for path in write_report(routed)}
    assert "confusion.png" in names
    page, html = (routed / "report.md").read_text(), (routed / "report.html").read_text()
    for text in (page, html):
        assert "The same items answered with the part of their own task" in text
        assert "confusion.png" in text
    assert html.count("data:image/png;base64,") == 6  # on white, and for dark pages
    again = (routed / "confusion.png").read_bytes()
    write_report(routed)
    assert (routed / "confusion.png").read_bytes() == again


def test_an_oracle_row_of_another_scorer_is_left_out(routed):
    for task in TOLD:
        change(routed / "predictions" / "oracle" / f"{task}.score.json", scorer="contains@3")
    assert choices.oracle_table(read_run(routed)) is None


def test_a_model_that_chooses_nothing_has_no_picture(tmp_path):
    run = demo_run(tmp_path / "run")
    assert "confusion.png" not in {path.name for path in write_report(run)}
    assert "own task" not in (run / "report.md").read_text()


@pytest.mark.usefixtures("pictures_drawn")
def test_choices_of_many_tasks_with_long_names(tmp_path):
    tasks = [f"a_task_with_a_long_name_{i}" for i in range(12)]
    run = make_run(tmp_path / "run", tasks, [[50.0] * 12 for _ in tasks])
    for number, task in enumerate(tasks):
        routes = {task: 100, tasks[number - 1]: 20}
        change(run / "predictions" / f"after_{tasks[-1]}" / f"{task}.score.json", extra={"routes": routes})
    write_report(run)
    assert (run / "confusion.png").stat().st_size > 10_000
