"""Several runs in one table: grouping, intervals over runs, and what keeps runs from being compared."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics

import pytest
from made_runs import DEMO_SCORES, DEMO_TASKS, DEMO_ZERO, demo_run, dump, make_run

from cl_plugins.base.errors import RunStateError
from cl_plugins.report import compare, compare_table
from cl_plugins.report.groups import read_comparison, summarise, t_quantile


FILES = ["compare.png", "compare.csv", "compare.tex", "compare.json", "compare.md", "compare.html"]


def shifted(amount: float):
    """The demo's scores, moved; the last row alone, so that forgetting moves and MFT's first terms do not."""
    return [*DEMO_SCORES[:3], [score + amount for score in DEMO_SCORES[3]]]


def recipe(**changes):
    """A recipe with a seed and places of its own."""
    return {"learning_rate": 1e-3, "cl": {"method": {"name": "inclora"}, "eval": {"scope": "seen"}}} | changes


def seeds(tmp_path, method="inclora", moves=(0.0, 1.0, 5.0), **settings):
    return [
        demo_run(tmp_path / method / f"seed{seed}", method=method, seed=seed, scores=shifted(move), **settings)
        for seed, move in enumerate(moves)
    ]


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062047), (2, 4.3026527), (5, 2.5705818), (10, 2.2281389), (30, 2.0422725), (120, 1.9799304)],
)
def test_t_quantiles_against_a_printed_table(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=1e-6)


def test_a_summary_is_mean_and_half_the_t_interval():
    summary = summarise([1.0, None, 2.0, 6.0])
    assert summary.values == (1.0, 2.0, 6.0)
    assert summary.mean == pytest.approx(3.0)
    assert summary.half_width == pytest.approx(4.302653 * statistics.stdev([1, 2, 6]) / math.sqrt(3), rel=1e-6)
    assert summarise([4.0]).half_width is None
    assert summarise([None]).mean is None


def test_seeds_of_a_method_become_one_row_with_an_interval(tmp_path):
    runs = [*seeds(tmp_path, "inclora"), *seeds(tmp_path, "seqlora", moves=(-3.0,))]
    written = compare(runs, tmp_path / "out")
    assert [path.name for path in written] == FILES
    content = json.loads((tmp_path / "out/compare.json").read_text())
    assert [(group["label"], group["finished"]) for group in content["groups"]] == [("inclora", 3), ("seqlora", 1)]
    last = content["groups"][0]["metrics"]["last"]
    base = statistics.mean(DEMO_SCORES[3])
    assert last["values"] == pytest.approx([base, base + 1, base + 5])
    assert last["mean"] == pytest.approx(base + 2)
    half = 4.302653 * statistics.stdev([0, 1, 5]) / math.sqrt(3)
    assert last["half_width"] == pytest.approx(half, rel=1e-6)
    assert content["groups"][1]["metrics"]["last"]["half_width"] is None
    path = content["groups"][0]["final"]["path"]
    assert path["mean"] == pytest.approx(DEMO_SCORES[3][0] + 2)
    markdown = (tmp_path / "out/compare.md").read_text()
    assert f"| inclora | 3 | {base + 2:.2f} ± {half:.2f} |" in markdown
    assert f"| seqlora | 1 | {base - 3:.2f} |" in markdown
    row = next(csv.DictReader(io.StringIO((tmp_path / "out/compare.csv").read_text())))
    assert float(row["last:mean"]) == pytest.approx(base + 2)
    assert (row["method"], row["last:n"], row["final:rad:n"]) == ("inclora", "3", "3")
    tex = (tmp_path / "out/compare.tex").read_text()
    assert f"inclora & 3 & {base + 2:.1f} $\\pm$ {half:.1f} &" in tex
    assert (tmp_path / "out/compare.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out/compare.html").read_text().count("data:image/png;base64,") == 1


def test_the_same_runs_give_the_same_bytes_and_the_callers_writing_is_used(tmp_path):
    runs = seeds(tmp_path)
    first, second = {}, {}
    compare(runs, tmp_path / "out", write=first.__setitem__)
    compare(runs, tmp_path / "out", write=second.__setitem__)
    assert [path.name for path in first] == FILES
    assert first == second
    assert not (tmp_path / "out").exists()


def test_recipes_that_differ_are_told_apart_and_seeds_and_places_are_not(tmp_path):
    def one(name, **changes):
        return demo_run(tmp_path / name, recipe=recipe(output_dir=name, **changes), seed=len(name))

    runs = [one("a", seed=1), one("bb", seed=2, logging_steps=7, lora_rank=None), one("ccc", learning_rate=1e-4)]
    labels = [member.label for member in read_comparison(runs).members]
    assert labels == ["inclora (learning_rate=0.001)"] * 2 + ["inclora (learning_rate=0.0001)"]

    options = {"method": {"name": "inclora", "alpha": 2}, "eval": {"scope": "seen"}, "order_seed": 5}
    runs = [one("a"), one("dddd", cl=options)]
    assert [group.label for group in read_comparison(runs).groups] == [
        "inclora (method.alpha=None)",
        "inclora (method.alpha=2)",
    ]


def test_labels_stay_short_and_different_recipes_never_share_one(tmp_path):
    runs = [
        demo_run(tmp_path / f"run{index}", seed=0, recipe=recipe(a=index, b=index, c=index, d=index, e=index % 2))
        for index in range(2)
    ]
    runs.append(demo_run(tmp_path / "run2", seed=0, recipe=recipe(a=0, b=0, c=0, d=9, e=0)))
    labels = [group.label for group in read_comparison(runs).groups]
    assert labels == [
        "inclora (a=0, b=0, c=0, 2 more)",
        "inclora (a=1, b=1, c=1, 2 more)",
        "inclora (a=0, b=0, c=0, 2 more) #2",
    ]


def test_no_label_shows_a_secret(tmp_path):
    runs = [
        demo_run(tmp_path / name, seed=index, recipe=recipe(hf_hub_token=f"hf_secret{index}"))
        for index, name in enumerate("ab")
    ]
    compare(runs, tmp_path / "out")
    assert all(b"hf_secret" not in (tmp_path / "out" / name).read_bytes() for name in FILES)
    assert [group.label for group in read_comparison(runs).groups] == ["inclora"]


def test_a_run_without_a_recorded_recipe_is_not_mixed_with_others(tmp_path):
    runs = [demo_run(tmp_path / "a"), demo_run(tmp_path / "b", seed=None)]
    assert [group.label for group in read_comparison(runs).groups] == ["inclora", "inclora (recipe not recorded)"]
    assert [group.label for group in read_comparison(runs[1:]).groups] == ["inclora"]


def test_names_decide_the_groups(tmp_path):
    runs = [*seeds(tmp_path, "inclora", (0.0, 1.0)), *seeds(tmp_path, "seqlora", (0.0,))]
    comparison = read_comparison(runs, ["ours", "ours", "theirs"])
    assert [(group.label, len(group.members)) for group in comparison.groups] == [("ours", 2), ("theirs", 1)]
    mixed = read_comparison(runs, ["ours", "theirs", "ours"])
    assert "ours: one name for runs of several methods (inclora and seqlora)." in mixed.remarks
    with pytest.raises(ValueError, match="2 names for 3 runs"):
        read_comparison(runs, ["a", "b"])


def test_orders_of_the_same_tasks_are_averaged_task_by_task(tmp_path):
    turned = [["b", "a"], [[30.0, None], [20.0, 80.0]]]
    runs = [
        make_run(tmp_path / "ab", ["a", "b"], [[90.0, None], [40.0, 60.0]], seed=0),
        make_run(tmp_path / "ba", *turned, seed=0),
    ]
    comparison = read_comparison(runs)
    assert comparison.groups[0].final["a"].values == (40.0, 80.0)
    assert comparison.groups[0].final["b"].values == (60.0, 20.0)
    assert comparison.remarks == ("The runs learn the tasks in 2 orders; means are taken over them.",)
    compare(runs, tmp_path / "out")
    assert "| ba | inclora | b → a | 0 |" in (tmp_path / "out/compare.md").read_text()


def test_an_unfinished_run_is_shown_and_kept_out_of_the_means(tmp_path):
    runs = [*seeds(tmp_path, moves=(0.0, 2.0)), demo_run(tmp_path / "inclora/seed9", seed=9, scores=DEMO_SCORES[:2])]
    comparison = read_comparison(runs)
    assert comparison.groups[0].finished == 2
    assert comparison.groups[0].final["path"].values == (51.67, 53.67)
    assert "† seed9 is not complete: 2 of 4 tasks trained; left out of the means." in comparison.remarks
    shown = compare_table(runs, width=100)
    assert [line.split() for line in shown.splitlines() if line.startswith("seed9 †")] == [
        ["seed9", "†", "inclora", "9", "–", "–", "–", "–", "–", "63.33", "75.83", "–", "–"]
    ]
    compare(runs, tmp_path / "out")
    assert "| inclora | 2 + 1 † |" in (tmp_path / "out/compare.md").read_text()


def test_metrics_of_a_stream_cut_short_are_not_averaged_with_others(tmp_path):
    runs = [*seeds(tmp_path, moves=(0.0, 2.0)), demo_run(tmp_path / "inclora/seed9", seed=9, scores=DEMO_SCORES[:2])]
    metrics = json.loads((runs[2] / "metrics.json").read_text())
    metrics["metrics"]["mft"]["value"] = 87.0
    dump(runs[2] / "metrics.json", metrics)
    assert 87.0 not in read_comparison(runs).groups[0].metrics["mft"].values


def test_only_unfinished_runs_can_be_compared_too(tmp_path):
    runs = [demo_run(tmp_path / name, scores=DEMO_SCORES[:1]) for name in "ab"]
    compare(runs, tmp_path / "out")
    assert "| inclora | 0 + 2 † | – |" in (tmp_path / "out/compare.md").read_text()


def test_joint_models_have_final_scores_and_no_forgetting(tmp_path):
    joint = make_run(
        tmp_path / "joint", DEMO_TASKS, [[90.0, 80.0, 70.0, 40.0]], zero_shot=DEMO_ZERO, rows=["joint"], method="multitask", bleu=("rad",)
    )  # fmt: skip
    group = read_comparison([*seeds(tmp_path), joint]).groups[1]
    assert group.metrics["last"].values == (70.0,)
    assert group.metrics["forgetting"].mean is None
    assert group.final["rad"].mean == 40.0
    compare([joint], tmp_path / "out")


def test_other_tasks_or_scorers_are_refused_all_at_once(tmp_path):
    first = make_run(tmp_path / "first", ["a", "b"], [[1.0, None], [2.0, 3.0]])
    fewer = make_run(tmp_path / "fewer", ["a", "c"], [[1.0, None], [2.0, 3.0]])
    scored = make_run(tmp_path / "scored", ["a", "b"], [[1.0, None], [2.0, 3.0]], bleu=("b",))
    with pytest.raises(RunStateError) as caught:
        read_comparison([first, fewer, scored])
    message = str(caught.value)
    assert "it lacks b, adds c." in message
    assert "scores b with bleu@1" in message
    assert len(caught.value.problems) == 2


def test_runs_that_cannot_be_read_are_named_all_at_once(tmp_path):
    with pytest.raises(RunStateError) as caught:
        compare_table([tmp_path / "one", tmp_path / "two"])
    assert len(caught.value.problems) == 2
    with pytest.raises(RunStateError, match="no runs were given"):
        compare_table([])


def test_repetitions_that_are_none_are_named(tmp_path):
    runs = seeds(tmp_path, moves=(0.0, 1.0))
    twin = demo_run(tmp_path / "twin", seed=0, scores=shifted(0.0))
    remarks = read_comparison([*runs, runs[0], twin]).remarks
    assert "seed0 was given more than once and counts once." in remarks
    assert any("runs of equal seed and task order are not independent" in remark for remark in remarks)


def test_differences_in_tests_and_data_are_named(tmp_path):
    runs = seeds(tmp_path, moves=(0.0, 1.0))
    matrix = json.loads((runs[1] / "matrix.json").read_text())
    matrix["n"]["rad"] = 7
    dump(runs[1] / "matrix.json", matrix | {"stream": "other"})
    record = json.loads((runs[1] / "run.json").read_text())
    dump(runs[1] / "run.json", record | {"data": {"x": "another hash"}, "notes": ["Only a demo."]})
    comparison = read_comparison(runs)
    assert set(comparison.remarks) == {
        "The streams have different names: demo and other.",
        "The runs were tested on different numbers of items.",
        "The runs recorded different data hashes.",
    }
    assert comparison.notes == ("Only a demo.",)


def test_data_that_only_moved_is_the_same_data(tmp_path):
    runs = seeds(tmp_path, moves=(0.0, 1.0))
    for place, run in zip(("here", "there"), runs, strict=True):
        record = json.loads((run / "run.json").read_text())
        dump(run / "run.json", record | {"data": {f"/{place}/train.json": "12", f"/{place}/test.json": "34"}})
    assert read_comparison(runs).remarks == ()


@pytest.mark.parametrize("ascii", [False, True])
def test_the_terminal_table_fits(tmp_path, ascii):
    runs = [*seeds(tmp_path, "inclora"), *seeds(tmp_path, "seqlora")]
    shown = compare_table(runs, width=80, ascii=ascii)
    assert shown.isascii() == ascii
    assert max(map(len, shown.splitlines())) <= 80
    sign = "+-" if ascii else "±"
    assert f"{sign} is half the 95 % t-interval over runs." in shown
    assert shown.count(f" {sign} ") == 2 * (len(DEMO_TASKS) + 5)


def test_the_comparison_says_with_what_it_was_made(tmp_path):
    runs = seeds(tmp_path, "inclora", moves=(0.0, 1.0))
    other = json.loads((runs[1] / "run.json").read_text())
    other["versions"]["torch"] = "2.15.0"
    other["hardware"] = {"machine": "x86_64", "platform": "Linux-6", "gpus": ["NVIDIA A100"], "processes": 4}
    compare(runs[:1], tmp_path / "one")
    assert "cl-plugins 0.1.0, llamafactory 0.9.5, torch 2.14.1" in (tmp_path / "one/compare.md").read_text()

    dump(runs[1] / "run.json", other)
    compare(runs, tmp_path / "two")
    made = json.loads((tmp_path / "two/compare.json").read_text())["environments"]
    assert [(entry["versions"]["torch"], entry["runs"]) for entry in made] == [
        ("2.14.1", ["seed0"]),
        ("2.15.0", ["seed1"]),
    ]
    for page in ("compare.md", "compare.html"):
        told = (tmp_path / "two" / page).read_text().replace("\\", "")
        assert "torch 2.15.0; Linux x86_64, NVIDIA A100, 4 processes: seed1" in told


def test_runs_that_recorded_nothing_are_compared_all_the_same(tmp_path):
    runs = seeds(tmp_path, "inclora", moves=(0.0,))
    (runs[0] / "run.json").unlink()
    compare(runs, tmp_path / "out")
    assert "not recorded" in (tmp_path / "out/compare.md").read_text()
