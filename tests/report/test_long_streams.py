"""What a report and a comparison say of a stream of many tasks: nothing has a column per task."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from made_runs import dump, make_run

from cl_plugins.evaluation.matrix import AccuracyMatrix
from cl_plugins.evaluation.metrics import continual_metrics, metrics_to_json
from cl_plugins.report import coarse_picture, compare, compare_table, content, long_stream, read_run, write_report
from cl_plugins.report.choices import Confusion, confusion, oracle_table
from cl_plugins.report.confusion_picture import confusion_picture
from cl_plugins.report.run_data import METRIC_LABELS
from cl_plugins.report.run_report import cells_csv, matrix_tex


COUNT = coarse_picture.NUMBERED + 5
WIDEST = 12  # columns that a page has room for


def names(count):
    return [f"task_{number:02d}" for number in range(count)]


def triangle(count):
    return [[90.0 - row + task if task <= row else None for task in range(count)] for row in range(count)]


def change(file, **more):
    value = json.loads(file.read_text())
    value["extra"] |= more.pop("extra", {})
    dump(file, value | more)


def routed(folder, count, **settings):
    """A run whose model chooses: of 120 items 90 for their own part, 20 for the next one, 10 for the one after it."""
    tasks = names(count)
    run = make_run(folder, tasks, triangle(count), zero_shot=[5.0] * count, **settings)
    for row, after in enumerate(tasks):
        for place, task in enumerate(tasks[: row + 1]):
            others = [tasks[(place + step) % count] for step in (1, 2)]
            found = {"routes": {task: 90, others[0]: 20, others[1]: 10}, "selected": 75.0 - row}
            found["invalid_rate"] = 3.0 + row
            change(run / "predictions" / f"after_{after}" / f"{task}.score.json", extra=found)
    for place, task in enumerate(tasks):
        value = json.loads((run / "predictions" / f"after_{tasks[-1]}" / f"{task}.score.json").read_text())
        score = 90.0 + place / 10
        told = {"score": score, "interval": [score - 5, score + 5]}
        dump(run / "predictions" / "oracle" / f"{task}.score.json", value | told)
    return run


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    return routed(tmp_path_factory.mktemp("long") / "run", COUNT, max_items=120, method="hide")


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    return routed(tmp_path_factory.mktemp("short") / "run", 4, method="hide")


def texts(table):
    return [[entry.text for entry in row] for row in table.rows]


def widths(page):
    """Columns of each table of a page, in HTML or Markdown."""
    found = [len(re.findall(r"<th[ >]", head)) for head in re.findall(r"<thead>.*?</thead>", page, re.DOTALL)]
    return found + [line.count("|") - 1 for line in page.splitlines() if re.fullmatch(r"\|( :?---:? \|)+", line)]


def widest_tex(source):
    return max(line.count("&") + 1 for line in source.splitlines() if line.endswith(r"\\"))


def test_no_table_of_a_long_run_has_a_column_per_task(long_run, short_run):
    write_report(long_run)
    for name in ("report.html", "report.md"):
        found = widths((long_run / name).read_text())
        assert len(found) >= 6
        assert max(found) <= WIDEST
    assert widest_tex((long_run / "matrix.tex").read_text()) <= WIDEST
    write_report(short_run)
    assert widths((short_run / "report.md").read_text())[0] == 6  # the matrix: row, four tasks, A_k


def test_invalid_answers_stand_one_task_per_line(long_run):
    table = long_stream.invalid_table(read_run(long_run))
    assert table.head == ("task", "zero-shot", "just trained", "at the end")
    assert texts(table)[2] == ["task_02", "1.7", "5.0", "27.0"]
    assert len(table.rows) == COUNT
    assert "`invalid_rate` in `cells.csv`" in table.note


def test_selection_stands_one_task_per_line_and_in_the_cells(long_run, short_run):
    run = read_run(long_run)
    table = long_stream.selection_table(run)
    assert table.head == ("task", "just trained", "at the end")  # zero-shot, there is nothing to choose
    assert texts(table)[2] == ["task_02", "73.0", "51.0"]
    for each in (run, read_run(short_run)):
        cells = list(csv.DictReader(io.StringIO(cells_csv(each).decode())))
        assert {c["row"] for c in cells if c["selected"] == ""} == {"zero_shot"}
        assert [c["selected"] for c in cells if (c["row"], c["task"]) == ("after_task_02", "task_01")] == ["73.0"]


def test_a_model_that_chooses_nothing_has_no_column_for_it(tmp_path):
    run = make_run(tmp_path / "run", names(COUNT), triangle(COUNT))
    assert b"selected" not in cells_csv(read_run(run))
    assert long_stream.selection_table(read_run(run)) is None
    assert long_stream.confusion_table(read_run(run)) is None
    assert long_stream.oracle_table(read_run(run)) is None


def test_choices_stand_one_task_per_line(long_run):
    table = long_stream.confusion_table(read_run(long_run))
    assert table.head == ("items of", "other part", "by its own part", "by the other part")
    assert texts(table)[3] == ["task_03", "task_04", "75.0", "16.7"]
    assert texts(table)[-1] == [f"task_{COUNT - 1}", "task_00", "75.0", "16.7"]
    assert table.left == 2


def test_where_no_other_part_answered_none_is_named(long_run, tmp_path):
    run = routed(tmp_path / "run", COUNT)
    change(run / "predictions" / f"after_task_{COUNT - 1}" / "task_00.score.json", extra={"routes": {"task_00": 120}})
    assert texts(long_stream.confusion_table(read_run(run)))[0] == ["task_00", "–", "100.0", "0.0"]


def test_the_told_task_stands_one_task_per_line_with_the_means_last(long_run, short_run):
    run = read_run(long_run)
    table = long_stream.oracle_table(run)
    assert table.head == ("task", "chosen by the model", "true task given", "lost by the choice")
    assert texts(table)[1] == ["task_01", "67.00", "90.10", "23.10"]
    assert texts(table)[-1][0] == "mean"
    assert [row[1:] for row in texts(table)] == [
        list(column) for column in zip(*texts(oracle_table(run)), strict=True)
    ][1:]
    assert table.rules == {COUNT - 1}
    assert long_stream.oracle_table(read_run(short_run)) == oracle_table(read_run(short_run))


def test_tables_of_short_streams_are_those_of_their_own(short_run):
    run = read_run(short_run)
    assert long_stream.invalid_table(run) == content.invalid_table(run)
    assert long_stream.selection_table(run) == content.selection_table(run)
    assert len(long_stream.confusion_table(run).head) == 5


@pytest.mark.usefixtures("pictures_drawn")
def test_choices_of_many_tasks_are_colours_without_numbers(long_run, monkeypatch):
    drawn = []
    squares = coarse_picture.squares
    monkeypatch.setattr(coarse_picture, "squares", lambda *given: drawn.append(squares(*given)) or drawn[-1])
    run = read_run(long_run)
    confusion_picture(run, confusion(run))
    axes = drawn[0].axes[0]
    shares = axes.images[0].get_array()
    assert shares.shape == (COUNT, COUNT)
    assert shares[3, 3] == pytest.approx(75.0)
    assert shares.mask[3, 7]  # never chosen
    assert not axes.texts
    assert len(axes.get_xticklabels()) <= coarse_picture.LABELS


def test_the_sentences_fit_the_tables(long_run, short_run):
    for run, told in ((long_run, True), (short_run, False)):
        write_report(run)
        for name in ("report.html", "report.md"):
            page = (run / name).read_text()
            assert ("in %, one task per row" in page) == told
            assert ("the other part that answered most" in page) == told
        assert ("Framed: the part" in (run / "report.html").read_text()) != told


def test_latex_has_one_line_per_task_and_says_what_the_columns_are(long_run):
    source = matrix_tex(read_run(long_run))
    assert r"task & scorer & items & zero-shot & just trained & at the end & $A_k$ \\" in source
    assert re.search(r"^task\\_02 & accuracy & 120 & .*5\.00 & 90\.00 & .*68\.00 & 89\.00 \\\\$", source, re.MULTILINE)
    caption = next(line for line in source.splitlines() if line.startswith(r"\caption"))
    for words in ("one task per row", "zero-shot", "just trained", "at the end", "$A_k$"):
        assert words in caption
    assert "longtable" not in source
    assert "`" not in source


def test_limits_of_many_tasks_are_counted(long_run):
    found = content.remarks(read_run(long_run))
    assert f"Tests limited by cl.eval.max_items: {COUNT} tasks, 120 items each." in found
    assert not any("task_03" in remark for remark in found)


def test_notes_on_many_trainings_and_answers_are_counted(tmp_path):
    tasks = names(COUNT)
    record = {
        "training_data": {task: {"records": 10, "dropped_records": 1, "cut_samples": 2} for task in tasks},
        "validation": {task: {"valid_loss": 0.5, "valid_step": 3, "optimizer_steps": 3} for task in tasks},
    }
    run = make_run(tmp_path / "run", tasks, triangle(COUNT), bleu=tuple(tasks[:22]), record=record)
    for task in tasks:
        change(run / "predictions" / f"after_{tasks[-1]}" / f"{task}.score.json", cut=4)
    found = content.remarks(read_run(run))
    assert (
        "Answers truncated at max_new_tokens: 100 of 3000 in 25 cells of the matrix (`cut` in `cells.csv`)." in found
    )
    assert "Training data of 25 tasks: LLaMA-Factory dropped 25 of 250 records." in found
    assert "Training data of 25 tasks: cutoff_len truncates the end of 50 samples." in found
    assert any("validation" in remark and "25 tasks" in remark for remark in found)
    assert any("BLEU (22 tasks) and accuracy (task_22, task_23, task_24)" in remark for remark in found)
    assert max(map(len, found)) < 250


def test_the_model_card_has_no_column_per_task(long_run):
    from cl_plugins.run import card_scores

    matrix = AccuracyMatrix.read(long_run / "matrix.json")
    sentence, shown = card_scores.table(matrix, [f"after_{task}" for task in names(10)])
    assert sentence == "Scores from 0 to 100, one task per row."
    lines = shown.splitlines()
    assert lines[0] == "| task | scorer | zero-shot | just trained | with this model |"
    assert lines[4] == "| task_02 | choice_accuracy@2 | 5.00 | 90.00 | 83.00 |"
    assert lines[-1] == f"| task_{COUNT - 1} | choice_accuracy@2 | 5.00 |  |  |"


def test_a_model_card_says_where_its_model_was_not_measured():
    from cl_plugins.run import card_scores

    tasks = names(COUNT)
    matrix = AccuracyMatrix("s", "inclora", tasks, dict.fromkeys(tasks, "accuracy@1"), dict.fromkeys(tasks, 9))
    matrix.set(f"after_{tasks[0]}", tasks[0], 50.0)
    for count, column in ((1, "50.00 | 50.00"), (2, "50.00 | ")):
        shown = card_scores.table(matrix, [f"after_{task}" for task in tasks[:count]])[1]
        assert "| task | scorer | just trained | with this model |" in shown
        assert f"| {tasks[0]} | accuracy@1 | {column}" in shown
    matrix.set(f"after_{tasks[0]}", tasks[0], None)
    matrix.set(f"after_{tasks[0]}", tasks[1], 50.0)
    shown = card_scores.table(matrix, [f"after_{task}" for task in tasks[:2]])[1]
    assert shown == "Nothing was measured with this model."


@pytest.mark.parametrize("kind", ["independent", "joint"])
def test_no_metric_points_to_a_column_that_is_not_there(tmp_path, kind):
    tasks = names(COUNT)
    joint = kind == "joint"
    scores = [[50.0] * COUNT] if joint else triangle(COUNT)
    run = make_run(
        tmp_path / "run", tasks, scores, rows=["joint"] if joint else None, independent=not joint, metrics=False
    )
    (run / "metrics.json").write_text(metrics_to_json(continual_metrics(AccuracyMatrix.read(run / "matrix.json"))))
    found = read_run(run)
    assert "A_k" not in long_stream.matrix_table(found).head
    shown = {row[0].text: row[1].text for row in content.metric_table(found).rows}
    assert shown[METRIC_LABELS["a_k"]] == "–"


@pytest.mark.usefixtures("pictures_drawn")
def test_picture_and_caption_of_the_choices_follow_one_rule(tmp_path, monkeypatch):
    run = routed(tmp_path / "run", COUNT, method="hide")
    found = read_run(run)
    few = Confusion(tuple(found.tasks[:5]), tuple(found.tasks[:5]), tuple((20.0,) * 5 for _ in range(5)))
    drawn = []
    squares = coarse_picture.squares
    monkeypatch.setattr(coarse_picture, "squares", lambda *given: drawn.append(squares(*given)) or drawn[-1])
    confusion_picture(found, few)
    assert drawn


def test_a_plan_counts_the_tests_of_a_long_row():
    from cl_plugins.cli.output import tested

    assert tested(names(20)) == ", ".join(names(20))
    assert tested(names(COUNT)) == f"{COUNT} tests, task_00 to task_{COUNT - 1}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of many tasks in two orders, and one that has not finished."""
    root = tmp_path_factory.mktemp("several")
    tasks = names(COUNT)
    return [
        make_run(root / "a", tasks, triangle(COUNT), seed=1),
        make_run(root / "b", tasks[::-1], triangle(COUNT), seed=2),
        make_run(root / "c", tasks, triangle(COUNT)[:7], seed=3, method="seqlora"),
    ]


def test_a_comparison_of_long_runs_has_no_column_per_task(runs, tmp_path):
    compare(runs, tmp_path)
    for name in ("compare.html", "compare.md"):
        page = (tmp_path / name).read_text()
        assert max(widths(page)) <= WIDEST
        assert "The final score of each of the 25 tasks is in <code>compare.csv</code>" in page.replace(
            "`compare.csv`", "<code>compare.csv</code>"
        )
        assert "the columns of the tasks" not in page
        assert "order 2" in page
    source = (tmp_path / "compare.tex").read_text()
    assert widest_tex(source) <= WIDEST
    assert "final scores" not in source
    assert "compare.csv" not in source
    head = (tmp_path / "compare.csv").read_text().splitlines()[0]
    assert all(f"final:{task}:mean" in head for task in names(COUNT))
    shown = compare_table(runs, width=100)
    assert "task_03" not in shown.split("The runs learn")[0]
    assert "`compare.csv`" in shown
    assert re.search(r"MFT *\n─+\n", shown)  # no line for units that no column has
    assert " &  & " not in source


@pytest.mark.usefixtures("pictures_drawn")
def test_a_comparison_without_metrics_draws_no_panel_per_task(tmp_path):
    run = make_run(tmp_path / "run", names(COUNT), triangle(COUNT), metrics=False)
    compare([run], tmp_path / "out")
    data = (tmp_path / "out" / "compare.png").read_bytes()
    assert int.from_bytes(data[16:20], "big") < 4000
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "One panel per task" not in page
