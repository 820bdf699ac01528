"""A matrix of another program becomes a directory that report, compare, status and board take."""

from __future__ import annotations

import json

import pytest
from report.made_runs import demo_run

from cl_plugins.base.errors import DataError
from cl_plugins.cli import main
from cl_plugins.evaluation.matrix import AccuracyMatrix
from cl_plugins.run.importing import import_matrix, read_table


TABLE = """after_training_on,path,neuro,rad
zero-shot,48.33,33.33,4.2
path,98.33,,-
after_neuro,63.33,75.83,
rad,51.67,46.67,31.4
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "their.csv"
    path.write_text(TABLE, encoding="utf-8-sig")
    return path


def test_import_report_compare_and_status(file, tmp_path, capsys):
    words = ["--method", "theirs", "--stream", "demo", "--scorer", "choice_accuracy", "rad=bleu", "--items", "120"]
    out = tmp_path / "theirs"
    assert main(["matrix", "import", str(file), *words, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "theirs on demo" in shown
    assert "imported from their.csv" in shown.replace("\n", " ")
    matrix = AccuracyMatrix.read(out / "matrix.json")
    assert matrix.tasks == ["path", "neuro", "rad"]
    assert matrix.scores[1] == [63.33, 75.83, None]
    assert matrix.zero_shot == [48.33, 33.33, 4.2]
    assert (matrix.scorers["path"].split("@")[0], matrix.scorers["rad"].split("@")[0]) == ("choice_accuracy", "bleu")
    assert matrix.n == dict.fromkeys(matrix.tasks, 120)
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    assert metrics["last"]["value"] == pytest.approx((51.67 + 46.67 + 31.4) / 3)
    assert metrics["bwt"]["value"] == pytest.approx((51.67 - 98.33 + 46.67 - 75.83) / 2)
    assert "their.csv" in (out / "report.html").read_text()

    assert main(["status", str(out), "--verify"]) == 0
    ours = demo_run(
        tmp_path / "ours", tasks=["path", "neuro", "rad"], scores=matrix.scores, zero_shot=matrix.zero_shot
    )
    capsys.readouterr()
    assert main(["compare", str(ours), str(out), "--out", str(tmp_path / "compared")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "inclora" in text
    assert "theirs" in text
    assert "imported from their.csv" in text
    assert main(["matrix", "import", str(file), *words, "--out", str(out)]) != 0  # replaces nothing


def test_what_a_run_writes_can_be_imported(tmp_path):
    from cl_plugins.report import read_run, write_report

    run = demo_run(tmp_path / "run")
    write_report(run)
    found = import_matrix(
        run / "matrix.csv", tmp_path / "again", method="inclora", stream="demo", scorers={None: "accuracy"}
    )
    again = read_run(tmp_path / "again")
    assert [[cell.score for cell in row.cells] for row in again.rows] == [
        [cell.score for cell in row.cells] for row in read_run(run).rows
    ]
    assert found.scorers == dict.fromkeys(found.tasks, "accuracy")
    assert "Scored by rules of another program: accuracy." in again.notes


def test_two_imports_of_one_method_are_not_taken_for_repetitions(file, tmp_path):
    from cl_plugins.report.groups import read_comparison

    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    other.write_text(TABLE.replace("31.4", "30"))
    for name, path in (("a", file), ("b", other)):
        import_matrix(path, tmp_path / name, method="theirs", stream="demo", scorers={None: "accuracy"})
    assert len(read_comparison([tmp_path / "a", tmp_path / "b"]).groups) == 2


def test_tasks_without_a_row_are_only_tested_and_joint_rows_stand_alone(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,a,b,general\na,50,,60\nb,40,70,55\n")
    matrix = import_matrix(path, tmp_path / "one", method="m", stream="s", scorers={None: "accuracy"})
    assert (matrix.test_only, matrix.rows) == (["general"], ["after_a", "after_b"])
    path.write_text("x,a,b\njoint,50,60\n")
    matrix = import_matrix(path, tmp_path / "two", method="m", stream="s", scorers={None: "accuracy"})
    assert (matrix.test_only, matrix.rows) == ([], ["joint"])


def test_fractions_are_not_taken_for_percentages(file, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,a,b\na,0.5,\nb,0.25,1\n")
    given = {"method": "m", "stream": "s", "scorers": {None: "accuracy"}}
    with pytest.raises(DataError, match="--scale 100"):
        import_matrix(path, tmp_path / "no", **given)
    assert import_matrix(path, tmp_path / "x100", **given, scale=100).scores == [[50.0, None], [25.0, 100.0]]
    assert import_matrix(path, tmp_path / "x1", **given, scale=1).scores == [[0.5, None], [0.25, 1.0]]
    with pytest.raises(DataError, match="Leave `--scale` out"):
        import_matrix(file, tmp_path / "no", **given, scale=100)
    assert not (tmp_path / "no").exists()


def test_every_fault_of_a_table_is_named_at_once(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("x,a,b\na,101,\nb,x,1\nb,1,2\nc,1,2\na,1\nzero_shot,nan,inf\n")
    with pytest.raises(DataError) as error:
        read_table(path)
    text = str(error.value)
    for part in (
        ":2, a: '101'",
        ":3, a: 'x'",
        ":4: is the row 'b' again",
        ":5: begins with 'c'",
        ":6: ",
        ":7, b: 'inf'",
    ):
        assert part in text, text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no table"),
        ("x,a\n", "holds no table"),
        ("x\na\n", "names no task"),
        ("x,a,a\na,1,2\n", "twice"),
        ("x,../a\n../a,1\n", "'../a'"),
        ("x,a,joint\na,1,2\n", "'joint'"),
        ("x,a,after_a\na,1,2\n", "'after_a'"),
        ("x,a,b\nb,1,2\na,1,2\n", "another order"),
        ("x,a\nzero_shot,1\n", "no row after a training"),
        ("x,a\njoint,50\na,50\n", "beside others"),
        ('x,"a\n', "cannot be read as CSV"),
        (b"\xff\xfe", "UTF-8"),
        (None, "does not exist"),
    ],
)
def test_tables_that_are_none(tmp_path, content, message):
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_options_that_do_not_fit(file, tmp_path, capsys):
    words = ["matrix", "import", str(file), "--method", "m", "--stream", "s", "--out", str(tmp_path / "o")]
    assert main([*words, "--scorer", "path=bleu", "x=bleu", "--items", "y=3"]) == 2
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("'x'", "'y'", "neuro, rad"))
    assert main([*words, "--scorer", "accuracy", "--items", "many"]) == 2
    assert main([*words, "--scorer", "bleu@99"]) == 2
    assert not (tmp_path / "o").exists()
