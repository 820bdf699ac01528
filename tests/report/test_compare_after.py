"""Comparisons at an earlier point: every run as if its stream had ended after the row of one task."""

from __future__ import annotations

import json

import pytest
from made_runs import DEMO_SCORES, DEMO_TASKS, DEMO_ZERO, demo_run, dump, make_run

from cl_plugins.base.errors import RunStateError
from cl_plugins.report import compare, compare_table
from cl_plugins.report.comparison_json import as_json
from cl_plugins.report.earlier import up_to
from cl_plugins.report.groups import read_comparison
from cl_plugins.report.run_data import read_run


EMPTY = [None] * 4
FIRST_THREE = [row[:3] for row in DEMO_SCORES[:3]]


def means(group):
    return {key: summary.mean for key, summary in group.metrics.items()}


def told(comparison):
    return " ".join(comparison.remarks)


def test_metrics_are_those_of_the_smaller_matrix(tmp_path):
    run = demo_run(tmp_path / "run")
    comparison = read_comparison([run], after="cell")
    assert comparison.tasks == ("path", "neuro", "cell")
    assert comparison.after == "cell"
    values = means(comparison.groups[0])
    # By hand, of [[98.33], [63.33, 75.83], [55.83, 52.5, 70.0]].
    assert values["last"] == pytest.approx((55.83 + 52.5 + 70.0) / 3)
    assert values["average"] == pytest.approx((98.33 + (63.33 + 75.83) / 2 + (55.83 + 52.5 + 70.0) / 3) / 3)
    assert values["mft"] == pytest.approx((98.33 + 75.83 + 70.0) / 3)
    assert values["bwt"] == pytest.approx((55.83 - 98.33 + 52.5 - 75.83) / 2)
    assert values["forgetting"] == pytest.approx((98.33 - 55.83 + 75.83 - 52.5) / 2)
    assert [summary.mean for summary in comparison.groups[0].final.values()] == [55.83, 52.5, 70.0]
    assert told(comparison) == "Every run is taken as it stood after 'cell'; the later tasks are left out."


def test_the_best_earlier_score_is_one_before_the_point(tmp_path):
    """Forgetting after b is 60 - 50; with the row after c it would be 80 - 70."""
    run = make_run(tmp_path / "run", ["a", "b", "c"], [[60.0, None, None], [50.0, 90.0, None], [80.0, 85.0, 70.0]])
    values = means(read_comparison([run], after="b").groups[0])
    assert (values["forgetting"], values["bwt"], values["last"]) == (10.0, -10.0, 70.0)


def test_a_run_of_one_task_has_no_transfer(tmp_path):
    values = means(read_comparison([demo_run(tmp_path / "run")], after="path").groups[0])
    assert (values["last"], values["average"], values["mft"]) == (98.33, 98.33, 98.33)
    assert values["bwt"] is values["forgetting"] is None


@pytest.mark.parametrize(
    "rows",
    [DEMO_SCORES, DEMO_SCORES[:3], [*DEMO_SCORES[:3], EMPTY], [*DEMO_SCORES[:3], [12.0, None, None, None]]],
    ids=["finished", "stopped", "rows to come", "within the last row"],
)
def test_what_came_later_changes_no_number(tmp_path, rows):
    """Finished, stopped and running: one and the same group, which is that of a stream of three tasks."""
    whole = demo_run(tmp_path / "run", scores=rows)
    short = demo_run(tmp_path / "short", tasks=DEMO_TASKS[:3], scores=FIRST_THREE, zero_shot=DEMO_ZERO[:3], bleu=())
    found, expected = read_comparison([whole], after="cell"), read_comparison([short])
    assert found.groups[0].finished == 1
    for part in ("metrics", "final", "trivial"):
        ours, theirs = getattr(found.groups[0], part), getattr(expected.groups[0], part)
        assert ours.keys() == theirs.keys()
        for key, one in ours.items():
            assert getattr(one, "values", one) == pytest.approx(getattr(theirs[key], "values", theirs[key])), key
    assert "†" not in told(found)
    assert (found.unlike, expected.unlike) == (False, False), "the task with BLEU is not there yet"


def test_stopped_and_finished_runs_form_one_mean(tmp_path):
    runs = [
        demo_run(tmp_path / "a", seed=0),
        demo_run(tmp_path / "b", seed=1, scores=[*DEMO_SCORES[:2], [61.83, 52.5, 70.0, None], EMPTY]),
    ]
    (group,) = read_comparison(runs, after="cell").groups
    assert group.finished == 2
    assert group.final["path"].values == (55.83, 61.83)
    assert group.metrics["bwt"].values == pytest.approx((-32.915, -29.915))
    assert group.metrics["bwt"].half_width == pytest.approx(12.7062 * 1.5, rel=1e-4)


def test_runs_that_have_not_measured_the_row_are_left_out_of_the_means(tmp_path):
    runs = [
        demo_run(tmp_path / "a", seed=0),
        demo_run(tmp_path / "b", seed=1, scores=[*DEMO_SCORES[:2], [55.0, None, None, None], EMPTY]),
        demo_run(tmp_path / "c", seed=2, scores=[*DEMO_SCORES[:1], EMPTY, EMPTY, EMPTY]),
    ]
    matrix = json.loads((runs[2] / "matrix.json").read_text())
    matrix["n"] |= {"neuro": 0, "cell": 0, "rad": 0}  # as a run writes it before it has measured a task
    dump(runs[2] / "matrix.json", matrix)
    comparison = read_comparison(runs, after="cell")
    (group,) = comparison.groups
    assert (group.finished, len(group.members)) == (1, 3)
    assert group.final["path"].values == (55.83,)
    assert "† b is not complete: 2 cells not measured; left out of the means." in comparison.remarks
    assert "† c is not complete: measured after 1 of 3 tasks; left out of the means." in comparison.remarks
    assert "different numbers of items" not in told(comparison)
    shown = compare_table(runs, width=100, after="cell")
    assert [line.split()[-3:] for line in shown.splitlines() if line.startswith(("b †", "c †"))] == [
        ["55.00", "75.83", "–"],
        ["98.33", "–", "–"],
    ]


def test_joint_and_independent_runs_keep_the_columns(tmp_path):
    joint = make_run(tmp_path / "joint", ["a", "b", "c"], [[90.0, 80.0, 10.0]], rows=["joint"], method="multitask")
    alone = make_run(
        tmp_path / "alone", ["a", "b", "c"], [[70.0, 1.0, 1.0], [2.0, 60.0, 2.0], [None] * 3], method="alone", independent=True
    )  # fmt: skip
    chain = make_run(tmp_path / "chain", ["a", "b", "c"], [[90.0, None, None], [50.0, 60.0, None]])
    comparison = read_comparison([joint, alone, chain], after="b")
    assert comparison.tasks == ("a", "b")
    assert [group.finished for group in comparison.groups] == [1, 1, 1]
    first, second, third = comparison.groups
    assert (first.metrics["last"].mean, first.metrics["bwt"].mean, first.final["b"].mean) == (85.0, None, 80.0)
    assert (second.metrics["mft"].mean, second.metrics["last"].mean) == (65.0, None)
    assert [second.final[task].mean for task in ("a", "b")] == [70.0, 60.0]
    assert third.metrics["bwt"].mean == -40.0
    assert comparison.remarks[:2] == (
        "Every run is taken as it stood after 'b'; the later tasks are left out.",
        "Joint models learned all tasks at once, and so c too: joint.",
    )
    with pytest.raises(RunStateError, match="after b: every run learned all of its tasks at once"):
        read_comparison([joint], after="b")


def test_the_order_in_which_a_joint_model_names_its_tasks_does_not_count(tmp_path):
    chain = make_run(tmp_path / "chain", ["a", "b", "c"], [[90.0, None, None], [50.0, 60.0, None]])
    joint = make_run(tmp_path / "joint", ["c", "b", "a"], [[10.0, 80.0, 90.0]], rows=["joint"], method="multitask")
    comparison = read_comparison([chain, joint], after="b")
    assert comparison.tasks == ("a", "b")
    assert comparison.groups[1].metrics["last"].mean == 85.0


def test_other_orders_have_learned_other_tasks_by_then(tmp_path):
    runs = [
        make_run(tmp_path / "abc", ["a", "b", "c"], [[90.0, None, None], [80.0, 70.0, None], [1.0, 1.0, 1.0]]),
        make_run(tmp_path / "bac", ["b", "a", "c"], [[66.0, None, None], [55.0, 88.0, None], [1.0, 1.0, 1.0]]),
        make_run(tmp_path / "cba", ["c", "b", "a"], [[50.0, None, None], [40.0, 60.0, None], [1.0, 1.0, 1.0]]),
    ]
    first = read_comparison(runs[:2], after="a")
    assert first.tasks == ("a",)
    assert [group.label for group in first.groups] == ["inclora (tasks=a)", "inclora (tasks=b+a)"]
    assert [group.final["a"].mean for group in first.groups] == [90.0, 88.0], "the row after a, not that after b"
    assert "Only the tasks that all runs have learned by then are compared: a. Left out: b." in told(first)
    assert "b was also learned before the scores were taken: bac." in first.remarks

    second = read_comparison([runs[0], runs[2]], after="b")
    assert second.tasks == ("b",)
    assert [group.metrics["last"].mean for group in second.groups] == [70.0, 60.0]

    (group,) = read_comparison(runs, after="c").groups[:1]
    assert group.metrics["last"].mean == 1.0


def test_the_same_tasks_in_another_order_by_then_are_repetitions(tmp_path):
    runs = [
        make_run(tmp_path / "abcd", ["a", "b", "c", "d"], [[9.0, *EMPTY[1:]], [8.0, 7.0, None, None], [6.0, 5.0, 4.0, None]]),
        make_run(tmp_path / "bacd", ["b", "a", "c", "d"], [[3.0, *EMPTY[1:]], [2.0, 9.0, None, None], [1.0, 3.0, 6.0, None]]),
    ]  # fmt: skip
    (group,) = read_comparison(runs, after="c").groups
    assert group.final["a"].values == (6.0, 3.0)
    assert group.metrics["last"].values == pytest.approx((5.0, 10 / 3))


def test_the_last_task_is_the_end(tmp_path):
    run = demo_run(tmp_path / "run")
    assert up_to(read_run(run), "rad") == read_run(run)
    at_end, whole = read_comparison([run], after="rad"), read_comparison([run])
    assert at_end.groups == whole.groups
    assert at_end.remarks[0] == "Every run is taken as it stood after 'rad'."


def test_tasks_that_are_only_tested_stay(tmp_path):
    rows = [[80.0, None, 30.0], [60.0, 90.0, 20.0]]
    run = make_run(tmp_path / "run", ["a", "b", "held_out"], rows, rows=["after_a", "after_b"])
    matrix = json.loads((run / "matrix.json").read_text())
    dump(run / "matrix.json", matrix | {"test_only": ["held_out"]})
    comparison = read_comparison([run], after="a")
    assert comparison.tasks == ("a", "held_out")
    assert (comparison.groups[0].final["held_out"].mean, comparison.groups[0].metrics["last"].mean) == (30.0, 80.0)
    with pytest.raises(RunStateError, match="is only tested on 'held_out'; it learns a and b"):
        read_comparison([run], after="held_out")


def test_unknown_tasks_are_one_error_with_all_that_cannot_be_read(tmp_path):
    runs = [
        make_run(tmp_path / "ab", ["a", "b"], [[1.0, None], [2.0, 3.0]]),
        make_run(tmp_path / "cd", ["c", "d"], [[1.0, None], [2.0, 3.0]]),
        make_run(tmp_path / "x", ["x"], [[1.0]]),
        tmp_path / "nothing",
    ]
    with pytest.raises(RunStateError) as caught:
        read_comparison(runs, after="x")
    assert [problem.where for problem in caught.value.problems] == [
        *map(str, runs[:2]),
        str(tmp_path / "nothing" / "matrix.json"),
    ]
    assert "has no task 'x'; it learns a and b. Choose a task that every run learns" in str(caught.value)
    assert "has no task 'x'; it learns c and d." in str(caught.value)


def part(score, change=None):
    ends = None if change is None else [change - 1, change + 1]
    return {"score": score, "interval": [score - 5, score + 5], "difference": change, "difference_interval": ends}


def test_probes_are_those_of_the_row(tmp_path):
    def one(name, changes, **settings):
        run = demo_run(tmp_path / name, **settings)
        rows = {f"after_{task}": part(50 + change, change) for task, change in zip(DEMO_TASKS, changes, strict=False)}
        probe = {"scorer": "contains@1", "n": 20, "rows": {"zero_shot": part(50.0)} | rows}
        dump(run / "metrics.json", json.loads((run / "metrics.json").read_text()) | {"probes": {"general": probe}})
        return run

    runs = [one("a", (-1.0, -2.0, -4.0, -8.0), seed=0), one("b", (0.0, -1.0, -2.0), seed=1, scores=DEMO_SCORES[:3])]
    comparison = read_comparison(runs, after="cell")
    assert comparison.groups[0].drift["general"].values == (-4.0, -2.0)
    shown = compare_table(runs, width=100, after="cell")
    assert "Probes: change against zero-shot after cell" in shown
    assert "Score after cell minus zero-shot score" in shown
    sparse = [runs[0], one("c", (0.0, -1.0), seed=2)]  # measured at other rows only
    assert read_comparison(sparse, after="cell").probes == ()


def test_every_form_says_after_which_task(tmp_path):
    runs = [demo_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    compare(runs, tmp_path / "out", after="cell")
    for name in ("compare.md", "compare.html"):
        page = (tmp_path / "out" / name).read_text()
        assert "Comparison on demo after cell" in page
        assert "scores at this point" in page
        assert "final scores" not in page
        assert "as it stood after" in page
    assert "One panel per metric, after cell:" in (tmp_path / "out/compare.html").read_text()
    tex = (tmp_path / "out/compare.tex").read_text()
    assert "Continual metrics and scores (0--100) on demo after cell." in tex
    assert "compare-demo-after-cell" in tex
    content = json.loads((tmp_path / "out/compare.json").read_text())
    assert (content["format"], content["after"], content["tasks"]) == (1, "cell", DEMO_TASKS[:3])
    assert {run["seconds"] for run in content["runs"]} == {None}, "the seconds are those of the whole run"
    shown = compare_table(runs, width=80, after="cell")
    assert shown.startswith("Comparison on demo after cell\n")
    assert max(map(len, shown.splitlines())) <= 80
    assert compare_table(runs, width=80, after="cell", ascii=True).isascii()

    whole = as_json(read_comparison(runs))
    assert whole["after"] is None
    assert whole["runs"][0]["seconds"] == 214.6
    assert not compare_table(runs, width=80).startswith("Comparison")
