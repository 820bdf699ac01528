"""Differences of methods to one of them, within pairs of runs of equal seed and task order."""

from __future__ import annotations

import json

import pytest
from made_runs import dump, make_run

from cl_plugins.base.errors import RunStateError
from cl_plugins.report import compare, compare_table
from cl_plugins.report.comparison_json import as_json
from cl_plugins.report.groups import read_comparison, summarise
from cl_plugins.report.paired import differences, without_zero
from cl_plugins.report.text import signed


T2 = 4.302653  # 97.5 % quantiles of Student's t with two degrees of freedom and with one
T1 = 12.706205


def stream(directory, first, last, method="inclora", tasks=("a", "b"), seed=0, **settings):
    """A run of two tasks: its first score, and its last row."""
    return make_run(directory, list(tasks), [[first, None], list(last)], method=method, seed=seed, **settings)


def two_methods(tmp_path):
    """Three seeds: both start from the same first task, and one forgets less of it."""
    return [
        stream(tmp_path / "s0", 90.0, (10.0, 70.0), "seqlora", seed=0),
        stream(tmp_path / "s1", 80.0, (40.0, 60.0), "seqlora", seed=1),
        stream(tmp_path / "s2", 85.0, (25.0, 80.0), "seqlora", seed=2),
        # The order of the runs does not pair them.
        stream(tmp_path / "i2", 85.0, (29.0, 84.0), seed=2),
        stream(tmp_path / "i0", 90.0, (20.0, 70.0), seed=0),
        stream(tmp_path / "i1", 80.0, (46.0, 56.0), seed=1),
    ]


def names_of(group):
    return [(mine.name, theirs.name) for mine, theirs in group.pairs]


def by_hand(values, quantile):
    """Mean and half width, in the plainest words."""
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return mean, quantile * deviation / len(values) ** 0.5


def test_runs_pair_by_seed(tmp_path):
    comparison = read_comparison(two_methods(tmp_path))
    found = differences(comparison, "seqlora")
    (group,) = found.groups
    assert (found.baseline, group.label, found.remarks) == ("seqlora", "inclora", ())
    assert names_of(group) == [("i2", "s2"), ("i0", "s0"), ("i1", "s1")]
    # Task a: 29 - 25, 20 - 10, 46 - 40; task b: 84 - 80, 70 - 70, 56 - 60; Last is their mean.
    assert group.tasks["a"].values == (4.0, 10.0, 6.0)
    assert (group.tasks["a"].mean, group.tasks["a"].half_width) == pytest.approx((20 / 3, 7.5893), rel=1e-4)
    assert group.tasks["b"].values == (4.0, 0.0, -4.0)
    assert (group.tasks["b"].mean, group.tasks["b"].half_width) == pytest.approx((0.0, 9.9365), rel=1e-4)
    assert group.metrics["last"].values == (4.0, 5.0, 1.0)
    assert (group.metrics["last"].mean, group.metrics["last"].half_width) == pytest.approx(by_hand((4, 5, 1), T2))
    # The first task is the same, so that what is forgotten of it differs as its last score does.
    assert group.metrics["bwt"].values == (4.0, 10.0, 6.0)
    assert group.metrics["forgetting"].values == (-4.0, -10.0, -6.0)
    assert group.metrics["mft"].values == (2.0, 0.0, -2.0)
    # Without pairs the intervals of task a overlap by far.
    apart = [each.final["a"].half_width for each in comparison.groups]
    assert min(apart) > 30 > group.tasks["a"].half_width


def test_the_other_way_round_only_the_signs_change(tmp_path):
    (group,) = differences(read_comparison(two_methods(tmp_path)), "inclora").groups
    assert (group.label, group.tasks["a"].values) == ("seqlora", (-10.0, -6.0, -4.0))
    assert group.tasks["a"].half_width == pytest.approx(7.5893, rel=1e-4)


def test_orders_pair_with_their_own(tmp_path):
    runs = [
        stream(tmp_path / "s_ab", 90.0, (10.0, 70.0), "seqlora"),
        stream(tmp_path / "s_ba", 60.0, (30.0, 80.0), "seqlora", ("b", "a")),
        stream(tmp_path / "i_ba", 60.0, (34.0, 90.0), "inclora", ("b", "a")),
        stream(tmp_path / "i_ab", 90.0, (11.0, 72.0), "inclora"),
    ]
    (group,) = differences(read_comparison(runs), "seqlora").groups
    assert names_of(group) == [("i_ba", "s_ba"), ("i_ab", "s_ab")]
    assert (group.tasks["a"].values, group.tasks["b"].values) == ((10.0, 1.0), (4.0, 2.0))
    assert group.tasks["b"].half_width == pytest.approx(T1 * 1.0)

    found = differences(read_comparison([runs[0], runs[2]]), "seqlora")
    assert found.groups[0].pairs == ()
    assert found.groups[0].metrics["last"] == summarise([])
    assert found.remarks == (
        "Differences to seqlora: inclora has no pair, because its runs learn other tasks, or in other orders, than those "
        "of equal seed.",
    )


@pytest.mark.parametrize("after", [None, "b"])
def test_an_order_counts_with_the_tasks_that_only_one_run_has(after, tmp_path):
    """Both end with b, but one has learned x before it and the other c: nothing else tells them apart in the table."""
    runs = [
        make_run(
            tmp_path / method,
            [first, "b", *rest],
            [
                [80.0, *[None] * (1 + len(rest))],
                [50.0, 60.0, *[None] * len(rest)],
                *([[40.0, 50.0, 60.0]] * len(rest)),
            ],
            method=method,
            seed=0,
        )
        for method, first, rest in (("seqlora", "x", ["c"] * (after is not None)), ("olora", "c", []))
    ]
    (group,) = differences(read_comparison(runs, after=after), "seqlora").groups
    assert group.pairs == ()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seed": 3}, "no seed is common to both"),
        ({"seed": None}, "no run of inclora has recorded its seed"),
        ({"seed": 0, "last": (20.0, None)}, "no run of inclora is finished"),
    ],
    ids=["other seed", "no seed", "unfinished"],
)
def test_a_group_without_a_pair_says_why(tmp_path, given, told):
    runs = [
        stream(tmp_path / "s", 90.0, (10.0, 70.0), "seqlora"),
        stream(tmp_path / "e", 90.0, (12.0, 70.0), "ewc"),
        stream(tmp_path / "i", 90.0, given.get("last", (20.0, 70.0)), seed=given["seed"]),
    ]
    found = differences(read_comparison(runs), "seqlora")
    assert [(group.label, len(group.pairs)) for group in found.groups] == [("ewc", 1), ("inclora", 0)]
    assert found.remarks == (f"Differences to seqlora: inclora has no pair, because {told}.",)
    shown = compare_table(runs, width=120, baseline="seqlora")
    rows = [line.split() for line in shown.partition("Differences to seqlora\n")[2].splitlines()]
    assert ["inclora", "0", *["–"] * 7] in rows
    assert ["ewc", "1", "+1.0", "+0.5", "+2.0", "−2.0", "0.0", "+2.0", "0.0"] in rows
    assert told in " ".join(shown.split())


def test_runs_without_a_seed_pair_with_nothing(tmp_path):
    runs = [stream(tmp_path / name, 90.0, (10.0, 70.0), name, seed=None) for name in ("seqlora", "inclora")]
    found = differences(read_comparison(runs), "seqlora")
    assert found.groups[0].pairs == ()
    assert "no run of seqlora has recorded its seed" in found.remarks[0]


def test_an_unfinished_run_is_in_no_pair(tmp_path):
    runs = two_methods(tmp_path)
    stream(tmp_path / "s1", 80.0, (40.0, None), "seqlora", seed=1)
    (group,) = differences(read_comparison(runs), "seqlora").groups
    assert names_of(group) == [("i2", "s2"), ("i0", "s0")]
    assert group.tasks["a"].values == (4.0, 10.0)
    assert group.tasks["a"].half_width == pytest.approx(T1 * 3.0)


def test_joint_and_independent_models_pair_by_seed_alone(tmp_path):
    runs = [
        stream(tmp_path / "s0", 90.0, (10.0, 70.0), "seqlora", seed=0),
        stream(tmp_path / "s1", 80.0, (40.0, 60.0), "seqlora", seed=1),
        make_run(tmp_path / "j1", ["b", "a"], [[80.0, 90.0]], rows=["joint"], method="multitask", seed=1),
        make_run(tmp_path / "j0", ["a", "b"], [[85.0, 75.0]], rows=["joint"], method="multitask", seed=0),
        make_run(
            tmp_path / "x1", ["b", "a"], [[66.0, 1.0], [1.0, 88.0]], method="single_task", seed=1, independent=True
        ),
    ]
    found = differences(read_comparison(runs), "seqlora")
    joint, alone = found.groups
    assert names_of(joint) == [("j1", "s1"), ("j0", "s0")]
    assert (joint.tasks["a"].values, joint.tasks["b"].values) == ((50.0, 75.0), (20.0, 5.0))
    assert joint.metrics["last"].values == (35.0, 40.0)
    assert joint.metrics["bwt"] == summarise([]), "a joint model forgets nothing and learns nothing first"
    assert names_of(alone) == [("x1", "s1")]
    assert (alone.tasks["a"].values, alone.tasks["b"].values) == ((48.0,), (6.0,))
    assert found.remarks == ()
    (pairs, *_) = differences(read_comparison(runs), "multitask").groups
    assert names_of(pairs) == [("s0", "j0"), ("s1", "j1")]
    flat = " ".join(compare_table(runs, width=80, baseline="seqlora").split())
    assert "of equal seed and task order (joint and independent models: of equal seed)." in flat


def test_a_joint_model_of_the_same_order_comes_first_and_one_of_another_cannot_choose(tmp_path):
    orders = [
        stream(tmp_path / "s_ab", 90.0, (10.0, 70.0), "seqlora"),
        stream(tmp_path / "s_ba", 60.0, (30.0, 80.0), "seqlora", ("b", "a")),
    ]

    def joint(name, *tasks):
        return make_run(
            tmp_path / name, list(tasks), [[85.0] * len(tasks)], rows=["joint"], method="multitask", seed=0
        )

    both = differences(read_comparison([*orders, joint("j_ba", "b", "a"), joint("j_ab", "a", "b")]), "seqlora")
    assert names_of(both.groups[0]) == [("j_ba", "s_ba"), ("j_ab", "s_ab")]
    one = differences(read_comparison([*orders, joint("j_ab", "a", "b")]), "seqlora")
    assert names_of(one.groups[0]) == [("j_ab", "s_ab")]

    more = [
        make_run(tmp_path / "abc", ["a", "b", "c"], [[9.0, None, None], [9.0] * 2 + [None], [9.0] * 3], method="seqlora", seed=0),
        make_run(tmp_path / "bac", ["b", "a", "c"], [[9.0, None, None], [9.0] * 2 + [None], [9.0] * 3], method="seqlora", seed=0),
        joint("cba", "c", "b", "a"),
    ]  # fmt: skip
    found = differences(read_comparison(more), "seqlora")
    assert found.groups[0].pairs == ()
    assert found.remarks == (
        "Differences to seqlora: multitask: runs that could form more than one pair are left out, and no pair remains: "
        "abc, bac and cba.",
    )


def test_runs_that_could_form_several_pairs_are_left_out(tmp_path):
    runs = [*two_methods(tmp_path), stream(tmp_path / "again", 90.0, (50.0, 50.0), seed=0)]
    found = differences(read_comparison(runs), "seqlora")
    (group,) = found.groups
    assert names_of(group) == [("i2", "s2"), ("i1", "s1")]
    assert found.remarks == (
        "Differences to seqlora: inclora: runs that could form more than one pair are left out: s0, i0 and again.",
    )
    pooled = read_comparison(runs, names=["one", "one", "one", "one", "two", "two", "two"])
    found = differences(pooled, "one")
    assert names_of(found.groups[0]) == [("i1", "s1")]
    assert "s0, i0 and again" in found.remarks[0]


def test_a_method_names_its_only_group_and_a_label_comes_first(tmp_path):
    def ewc(name, weight, seed):
        recipe = {"cl": {"method": {"name": "ewc", "weight": weight}}}
        return stream(
            tmp_path / name, 90.0, (10.0, 70.0), "ewc", seed=seed, recipe=recipe,
            record={"method_options": {"weight": weight}, "method_defaults": {"weight": 1.0}},
        )  # fmt: skip

    runs = [stream(tmp_path / "s", 90.0, (10.0, 70.0), "seqlora"), ewc("e", 10.0, 0), ewc("f", 20.0, 0)]
    one = read_comparison(runs[:2])
    labels = [group.label for group in one.groups]
    assert labels[1].startswith("ewc (")
    assert differences(one, "ewc").baseline == differences(one, labels[1]).baseline == labels[1]

    both = read_comparison(runs)
    with pytest.raises(RunStateError) as caught:
        differences(both, "ewc")
    (problem,) = caught.value.problems
    assert problem.where == "baseline ewc"
    assert problem.what.startswith("2 groups are of this method; the labels are: seqlora; ewc (")
    with pytest.raises(RunStateError, match="baseline Seqlora: no group has this label; the labels are: seqlora; ewc"):
        differences(both, "Seqlora")
    # A label wins over a method of the same name; a method in a mixed group names nothing.
    named = read_comparison(runs, names=["other", "seqlora", "seqlora"])
    assert differences(named, "seqlora").groups[0].label == "other"
    mixed = read_comparison(runs, names=["x", "x", "y"])
    with pytest.raises(RunStateError, match="no group has this label"):
        differences(mixed, "seqlora")
    assert differences(mixed, "ewc").baseline == "y"


def test_one_group_alone_has_no_differences(tmp_path):
    with pytest.raises(RunStateError, match="all runs belong to this group"):
        differences(read_comparison([stream(tmp_path / "s", 90.0, (10.0, 70.0))]), "inclora")


def test_whether_the_interval_contains_zero():
    assert without_zero(summarise([4.0, 10.0, 6.0])) is False  # 6.67 ± 7.59
    assert without_zero(summarise([8.0, 10.0, 6.0])) is True  # 8 ± 4.97
    assert without_zero(summarise([-8.0, -10.0, -6.0])) is True
    assert without_zero(summarise([5.0, 5.0])) is True
    assert without_zero(summarise([5.0])) is without_zero(summarise([])) is False
    assert without_zero(summarise([0.1 + 0.2 - 0.3] * 3)) is False, "5.6e-17 is 0"


@pytest.mark.parametrize(
    ("value", "shown"), [(10.888, "+10.9"), (-4.44, "−4.4"), (0.04, "0.0"), (-0.04, "0.0"), (0.0, "0.0"), (None, "–")]
)
def test_a_difference_has_its_sign(value, shown):
    assert signed(value, 1) == shown


def test_every_form_has_the_differences(tmp_path):
    runs = two_methods(tmp_path)
    stream(tmp_path / "i2", 85.0, (33.0, 84.0), seed=2)  # task a: 8, 10, 6
    compare(runs, tmp_path / "out", baseline="seqlora")
    page = (tmp_path / "out/compare.md").read_text()
    assert "## Differences to seqlora" in page
    assert "\\*+8.00 ± 4.97 |" in page
    assert "| 0.00 ± 9.94 |" in page
    assert (
        "not corrected for the number of comparisons. \\* The interval does not contain 0. Forgetting: lower" in page
    )
    html = (tmp_path / "out/compare.html").read_text()
    assert "<h2>Differences to seqlora</h2>" in html
    assert '<span class="mark">*</span>−8.00 <small>± 4.97</small>' in html
    shown = compare_table(runs, width=80, baseline="seqlora")
    assert "*+8.0 ± 5.0" in shown
    assert "*−8.0 ± 5.0" in shown
    assert max(map(len, shown.splitlines())) <= 80
    ascii = compare_table(runs, width=80, baseline="seqlora", ascii=True)
    assert ascii.isascii()
    assert "*-8.0 +- 5.0" in ascii

    content = json.loads((tmp_path / "out/compare.json").read_text())["paired"]
    assert (content["baseline"], content["remarks"]) == ("seqlora", [])
    (group,) = content["groups"]
    assert group["label"] == "inclora"
    assert group["pairs"] == [{"run": f"i{seed}", "baseline": f"s{seed}"} for seed in (2, 0, 1)]
    assert group["tasks"]["a"] | {"half_width": 0} == {
        "n": 3,
        "mean": 8.0,
        "half_width": 0,
        "values": [8.0, 10.0, 6.0],
    }
    assert group["tasks"]["a"]["half_width"] == pytest.approx(T2 * 2 / 3**0.5)
    assert set(group["metrics"]) == {"last", "average", "bwt", "forgetting", "mft"}

    compare(runs, tmp_path / "without")
    assert json.loads((tmp_path / "without/compare.json").read_text())["paired"] is None
    assert as_json(read_comparison(runs))["paired"] is None
    for name in ("compare.md", "compare.html"):
        assert "Differences" not in (tmp_path / "without" / name).read_text()
    for name in ("compare.csv", "compare.tex"):
        assert (tmp_path / "without" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_no_legend_without_what_it_explains(tmp_path):
    runs = [make_run(tmp_path / name, ["a"], [[50.0]], method=name, seed=0) for name in ("seqlora", "inclora")]
    shown = compare_table(runs, width=120, baseline="seqlora").partition("Differences to seqlora")[2]
    for words in ("±", "*", "Forgetting: lower", "joint"):
        assert words not in shown


def test_differences_at_an_earlier_point(tmp_path):
    """One run was stopped in the third task, and another goes another way after the second."""
    runs = [
        make_run(tmp_path / "s", ["a", "b", "c"], [[90.0, None, None], [50.0, 60.0, None]], method="seqlora", seed=0),
        make_run(tmp_path / "i", ["a", "b", "c"], [[90.0, None, None], [70.0, 65.0, None], [1.0] * 3], seed=0),
        make_run(tmp_path / "j", ["c", "b", "a"], [[10.0, 80.0, 90.0]], rows=["joint"], method="multitask", seed=0),
        make_run(tmp_path / "e", ["a", "b", "c"], [[90.0, None, None], [50.0, None, None]], method="ewc", seed=0),
    ]
    found = differences(read_comparison(runs, after="b"), "seqlora")
    inclora, joint, ewc = found.groups
    assert (inclora.tasks["a"].values, inclora.tasks["b"].values) == ((20.0,), (5.0,))
    assert inclora.metrics["bwt"].values == (20.0,)
    assert (joint.tasks["a"].values, joint.metrics["last"].values) == ((40.0,), (30.0,))
    assert ewc.pairs == ()
    assert found.remarks == ("Differences to seqlora: ewc has no pair, because no run of ewc is complete after b.",)
    shown = compare_table(runs, width=120, after="b", baseline="seqlora")
    assert shown.startswith("Comparison on demo after b\n")
    assert "+12.5" in shown  # Last of inclora: (20 + 5) / 2
    assert "no run of seqlora is finished" in " ".join(differences(read_comparison(runs), "seqlora").remarks)


def test_tasks_that_are_only_tested_have_no_order(tmp_path):
    rows = ["after_a", "after_b"]
    runs = [
        make_run(tmp_path / "s", ["a", "b", "t"], [[9.0, None, 3.0], [9.0, 9.0, 2.0]], method="seqlora", seed=0, rows=rows),
        make_run(tmp_path / "i", ["t", "a", "b"], [[4.0, 9.0, None], [7.0, 9.0, 9.0]], seed=0, rows=rows),
    ]  # fmt: skip
    for run in runs:
        dump(run / "matrix.json", json.loads((run / "matrix.json").read_text()) | {"test_only": ["t"]})
    (group,) = differences(read_comparison(runs), "seqlora").groups
    assert names_of(group) == [("i", "s")]
    assert group.tasks["t"].values == (5.0,)


def test_many_tasks_stand_in_the_file_for_programs_only(tmp_path):
    tasks = [f"task_{number:02}" for number in range(25)]

    def run(name, last, **settings):
        rows = [[50.0] * (k + 1) + [None] * (24 - k) for k in range(24)]
        return make_run(tmp_path / name, tasks, [*rows, [last] * 25], seed=0, **settings)

    runs = [run("s", 40.0, method="seqlora"), run("i", 43.0)]
    compare(runs, tmp_path / "out", baseline="seqlora")
    shown = compare_table(runs, width=100, baseline="seqlora")
    assert "+3.0" in shown
    assert "task_03" not in shown
    assert "The differences of the tasks are in `compare.json`." in shown
    (group,) = json.loads((tmp_path / "out/compare.json").read_text())["paired"]["groups"]
    assert list(group["tasks"]) == tasks
    assert {entry["mean"] for entry in group["tasks"].values()} == {3.0}
    table = (tmp_path / "out/compare.md").read_text().partition("## Differences to seqlora")[2].partition("##")[0]
    assert "| method | pairs | Last | Average | BWT | Forgetting | MFT |\n" in table


def test_pairs_without_a_metric_are_not_counted_in_it(tmp_path):
    """One name for a stream and a joint model, which has no MFT."""
    runs = [
        stream(tmp_path / "s0", 90.0, (10.0, 70.0), "seqlora", seed=0),
        make_run(tmp_path / "j1", ["a", "b"], [[85.0, 75.0]], rows=["joint"], method="multitask", seed=1),
        stream(tmp_path / "i0", 90.0, (20.0, 74.0), seed=0),
        stream(tmp_path / "i1", 80.0, (46.0, 56.0), seed=1),
    ]
    names = ["one", "one", "two", "two"]
    (group,) = differences(read_comparison(runs, names), "one").groups
    assert group.metrics["last"].values == (7.0, -29.0)
    assert group.metrics["mft"].values == (2.0,)
    compare(runs, tmp_path / "out", names, baseline="one")
    assert "| two | 2 | −11.00 ± 228.71 | " in (tmp_path / "out/compare.md").read_text()
    assert "| +2.00 (n = 1) |" in (tmp_path / "out/compare.md").read_text()
