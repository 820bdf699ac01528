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
from cl_plugins.report.groups import latest_cell, read_comparison, summarise, t_quantile


FILES = ["compare.png", "compare.pdf", "compare.csv", "compare.tex", "compare.json", "compare.md", "compare.html"]


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


@pytest.mark.usefixtures("pictures_drawn")
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
    assert (tmp_path / "out/compare.html").read_text().count("data:image/png;base64,") == 2


@pytest.mark.usefixtures("pictures_drawn")
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
    assert [group.label for group in read_comparison(runs).groups] == ["inclora", "inclora (alpha=2)"]


def stream(*names, shared=None, **overrides):
    """A stream as ``run.json`` holds it, with the host's keys of single tasks."""
    return {
        "name": "demo",
        "tasks": [
            {
                "name": name,
                "train": [f"{name}_train"],
                "test": [f"{name}_test"],
                "overrides": overrides.get(name, shared or {}),
            }
            for name in names
        ],
    }


def test_lengths_that_the_stream_sets_are_no_repetitions(tmp_path):
    """Two lengths of training in the stream's overrides were once printed as two runs with a vast interval."""
    runs = [
        demo_run(tmp_path / name, seed=seed, recipe=recipe(), record={"stream": stream(*DEMO_TASKS, shared={"max_steps": steps})}, scores=shifted(move))
        for name, seed, steps, move in (("a", 0, 60, 0.0), ("b", 1, 60, 1.0), ("c", 0, 600, 39.0))
    ]  # fmt: skip
    comparison = read_comparison(runs)
    assert [(group.label, len(group.members)) for group in comparison.groups] == [
        ("inclora (max_steps=60)", 2),
        ("inclora (max_steps=600)", 1),
    ]
    assert "Training is not equal: max_steps 60 (inclora (max_steps=60)) and 600 (inclora (max_steps=600))." in (
        comparison.remarks
    )
    assert comparison.groups[1].metrics["last"].half_width is None


def test_overrides_count_wherever_they_are_written_and_whatever_the_order(tmp_path):
    def one(name, tasks, block=None, **changes):
        cl = {"method": {"name": "inclora"}, **(block or {})}
        scores = [[50.0 if j <= i else None for j in range(2)] for i in range(2)]
        names = [task["name"] for task in tasks["tasks"]]
        return make_run(
            tmp_path / name, names, scores, seed=len(name), recipe=recipe(cl=cl, **changes), record={"stream": tasks}
        )

    runs = [
        one("x", stream("a", "b"), max_steps=5, num_train_epochs=3),
        one("xx", stream("b", "a", shared={"max_steps": 5})),
        one("xxx", stream("a", "b"), block={"task_overrides": {"a": {"max_steps": 5}, "b": {"max_steps": "5"}}}),
        one("xxxx", stream("a", "b", shared={"max_steps": 5}, a={"max_steps": 9})),
        one("xxxxx", stream("a", "b", shared={"max_steps": 5}), block={"eval": {"max_new_tokens": 9}}),
    ]  # fmt: skip
    labels = [member.label for member in read_comparison(runs).members]
    assert labels[0] == labels[1] == labels[2] != labels[3]
    assert len(set(labels)) == 3
    two = [member.label for member in read_comparison([runs[0], runs[3]]).members]
    assert two == ["inclora (a.max_steps=5)", "inclora (a.max_steps=9)"]


def test_base_and_data_count_by_their_content(tmp_path):
    def one(name, base, data, model):
        record = {
            "stream": stream(*DEMO_TASKS),
            "base": {"sha256": base * 32},
            "data": {f"{task}_train": {"files": {f"{name}.json": data}} for task in DEMO_TASKS},
        }
        return demo_run(tmp_path / name, seed=len(name), recipe=recipe(model_name_or_path=model), record=record)

    runs = [one("x", "ab", "1", "here/m7b"), one("xx", "ab", "1", "there/m"), one("xxx", "cd", "1", "m13b")]
    labels = [member.label for member in read_comparison(runs).members]
    assert labels == ["inclora (model_name_or_path=m7b)"] * 2 + ["inclora (model_name_or_path=m13b)"]
    comparison = read_comparison([runs[0], one("xxxx", "ab", "2", "m7b")])
    assert len(comparison.groups) == 2
    assert all(group.label.startswith("inclora (training data=") for group in comparison.groups)
    one, other = (group.label for group in comparison.groups)
    assert f"The training data of path, neuro, cell and rad differ ({one}; {other})." in comparison.remarks
    assert comparison.apart == (), "the tests have no record of their content, and as many items"


def options(**method):
    """A recipe's ``cl`` block with options of its method, and what the run resolved them to."""
    replay = method.pop("replay", {})
    given = {"name": method.pop("name"), **method}
    return recipe(cl={"method": given, "replay": {"capacity_per_task": 0, "capacity_total": None, **replay}})


@pytest.mark.parametrize(
    ("method", "given", "resolved", "replay", "label"),
    [
        ("seqlora", {}, {}, {"capacity_per_task": 20}, "seqlora + replay 20/task"),
        ("seqlora", {}, {}, {"capacity_per_task": 20, "selection": "herding", "candidates": 1000}, "seqlora + replay 20/task (herding)"),
        ("seqlora", {}, {}, {"capacity_total": 99, "mixing": "ratio", "ratio": 0.25}, "seqlora + replay 99 (ratio 0.25)"),
        ("seqlora", {}, {}, {"selection": "herding"}, "seqlora"),
        ("ewc", {"weight": 10}, {"weight": 10, "decay": 1.0}, {}, "ewc (weight=10)"),
        ("ewc", {"weight": 5}, {"weight": 5, "decay": 1.0}, {}, "ewc"),
        ("ewc", {"weight": 10}, {"weight": 10, "decay": 0.5}, {"capacity_per_task": 8}, "ewc (weight=10, decay=0.5) + replay 8/task"),
    ],
)  # fmt: skip
def test_replay_and_options_stand_in_the_label_of_a_single_run(tmp_path, method, given, resolved, replay, label):
    record = {
        "method_options": resolved,
        "method_defaults": {key: {"weight": 5, "decay": 1.0}[key] for key in resolved},
    }
    run = demo_run(tmp_path / "run", method=method, recipe=options(name=method, replay=replay, **given), record=record)
    assert [group.label for group in read_comparison([run]).groups] == [label]
    compare([run], tmp_path / "out")
    for name in ("compare.csv", "compare.json", "compare.html"):
        assert label in (tmp_path / "out" / name).read_text()


def test_a_default_that_is_written_out_is_the_default(tmp_path):
    runs = [
        demo_run(tmp_path / "a", method="ewc", seed=0, recipe=options(name="ewc"), record={"method_options": {"weight": 5}}),
        demo_run(tmp_path / "b", method="ewc", seed=1, recipe=options(name="ewc", weight=5), record={"method_options": {"weight": 5.0}}),
    ]  # fmt: skip
    assert [group.label for group in read_comparison(runs).groups] == ["ewc"]


def test_unequal_training_of_methods_is_remarked(tmp_path):
    runs = [
        demo_run(tmp_path / "a", method="inclora", recipe=recipe(lora_rank=8, max_steps=60)),
        demo_run(tmp_path / "b", method="olora", recipe=recipe(lora_rank=16, max_steps=60)),
        demo_run(tmp_path / "c", method="seqfull", recipe=recipe(learning_rate=1e-5, finetuning_type="full", max_steps=60)),
    ]  # fmt: skip
    (remark,) = [text for text in read_comparison(runs).remarks if text.startswith("Training")]
    assert remark == (
        "Training is not equal: learning_rate 0.001 (inclora, olora) and 1e-05 (seqfull); "
        "lora_rank 8 (inclora) and 16 (olora)."
    )
    compare(runs, tmp_path / "out")
    assert "learning\\_rate 0.001" in (tmp_path / "out/compare.md").read_text()
    assert "Training is not equal" in compare_table(runs, width=100)
    assert not [text for text in read_comparison(runs[:1]).remarks if text.startswith("Training")]


def test_means_over_unlike_scores_say_so_in_every_form(tmp_path):
    runs = seeds(tmp_path, moves=(0.0, 1.0))
    compare(runs, tmp_path / "out")
    told = "unlike scores: accuracy (path, neuro, cell) and BLEU (rad)"
    for name in ("compare.md", "compare.html", "compare.tex"):
        assert told in (tmp_path / "out" / name).read_text().replace("\\", ""), name
    assert told in " ".join(compare_table(runs, width=80).split())
    markdown = (tmp_path / "out/compare.md").read_text()
    assert "| method | runs | Last (mixed) |" in markdown
    assert "| path (accuracy) |" in markdown
    assert "| rad (BLEU) |" in markdown
    assert r"{\footnotesize BLEU}" in (tmp_path / "out/compare.tex").read_text()
    assert json.loads((tmp_path / "out/compare.json").read_text())["means_over_unlike_scores"] is True

    alike = [demo_run(tmp_path / "alike", bleu=())]
    assert read_comparison(alike).remarks == ()
    assert "mixed" not in compare_table(alike, width=100)


def test_rules_for_a_right_answer_are_alike(tmp_path):
    run = demo_run(tmp_path / "run", bleu=(), intervals=False)
    matrix = json.loads((run / "matrix.json").read_text())
    dump(run / "matrix.json", matrix | {"scorers": {**matrix["scorers"], "rad": "exact_match@2"}})
    assert read_comparison([run]).unlike is False


def test_scores_that_a_trivial_answer_reaches_are_marked(tmp_path):
    low = [*DEMO_SCORES[:3], [50.0, 46.67, 58.33, 3.9]]
    runs = [demo_run(tmp_path / name, seed=seed, scores=low) for seed, name in enumerate("ab")]
    group = read_comparison(runs).groups[0]
    assert [group.is_trivial(task) for task in DEMO_TASKS] == [True, True, False, True]
    assert group.trivial["last"] == pytest.approx((3 * 50 + 3.9) / 4)
    assert not group.is_trivial("last")
    compare(runs, tmp_path / "out")
    legend = "‡ Not above the best answer that needs no model (majority, constant or random)."
    markdown = (tmp_path / "out/compare.md").read_text()
    assert "| ‡50.00 ± 0.00 | ‡46.67 ± 0.00 | 58.33 ± 0.00 | ‡3.90 ± 0.00 |" in markdown
    assert markdown.count(legend) == 2
    assert legend in (tmp_path / "out/compare.html").read_text()
    assert legend.replace("‡", r"$\ddagger$") in (tmp_path / "out/compare.tex").read_text()
    assert legend in compare_table(runs, width=100)
    assert "#50.0 +- 0.0" in compare_table(runs, width=100, ascii=True)
    high = demo_run(
        tmp_path / "high", scores=[[90.0 if j <= i else None for j in range(4)] for i in range(4)], zero_shot=None
    )
    assert "‡" not in compare_table([high], width=100)


def test_runs_are_compared_on_the_tasks_that_they_share(tmp_path):
    longer = make_run(
        tmp_path / "longer", ["a", "b", "c"], [[90.0, None, None], [80.0, 70.0, None], [10.0, 20.0, 95.0]], seed=0
    )
    shorter = make_run(tmp_path / "shorter", ["a", "b"], [[88.0, None], [78.0, 68.0]], seed=1)
    between = make_run(
        tmp_path / "between", ["a", "d", "b"], [[88.0, None, None], [8.0, 60.0, None], [44.0, 50.0, 66.0]], seed=1
    )
    comparison = read_comparison([longer, shorter, between])
    assert comparison.tasks == ("a", "b")
    assert [group.label for group in comparison.groups] == [
        "inclora (tasks=a+b+c)",
        "inclora (tasks=a+b)",
        "inclora (tasks=a+d+b)",
    ]
    values = [{key: summary.mean for key, summary in group.metrics.items()} for group in comparison.groups]
    assert values[0]["last"] == pytest.approx(75.0), "the row after b: what came later does not count"
    assert [value["bwt"] for value in values] == pytest.approx([-10.0, -10.0, -44.0])
    assert [group.final["b"].mean for group in comparison.groups] == [70.0, 68.0, 66.0]
    told = " ".join(comparison.remarks)
    assert "Only the tasks that all runs have are compared: a and b. Left out: c and d." in told
    assert "d was also learned before the scores were taken: between." in told
    compare([longer, shorter, between], tmp_path / "out")
    assert "Left out: c and d" in (tmp_path / "out/compare.md").read_text()


def test_joint_and_unfinished_runs_on_shared_tasks(tmp_path):
    joint = make_run(tmp_path / "joint", ["a", "b", "c"], [[90.0, 80.0, 70.0]], rows=["joint"], method="multitask")
    stopped = make_run(tmp_path / "stopped", ["a", "b", "c"], [[90.0, None, None], [80.0, 60.0, None]])
    comparison = read_comparison([joint, stopped, make_run(tmp_path / "two", ["b", "a"], [[1.0, None], [2.0, 3.0]])])
    assert [group.metrics["last"].mean for group in comparison.groups] == [85.0, 70.0, 2.5]
    assert "c was also learned before the scores were taken: joint." in comparison.remarks
    assert not any("not complete" in remark for remark in comparison.remarks)


def test_names_for_runs_of_different_recipes_are_remarked(tmp_path):
    runs = [
        demo_run(tmp_path / name, seed=seed, recipe=recipe(learning_rate=rate))
        for seed, (name, rate) in enumerate((("a", 1e-3), ("b", 1e-4)))
    ]
    assert (
        "ours: one name for runs of different recipes (learning_rate)." in read_comparison(runs, ["ours"] * 2).remarks
    )


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
    assert "† seed9 is not complete: measured after 2 of 4 tasks; left out of the means." in comparison.remarks
    shown = compare_table(runs, width=100)
    assert [line.split() for line in shown.splitlines() if line.startswith("seed9 †")] == [
        ["seed9", "†", "inclora", "9", "–", "–", "–", "–", "–", "63.33", "75.83", "–", "–"]
    ]
    compare(runs, tmp_path / "out")
    assert "| inclora | 2 + 1 † |" in (tmp_path / "out/compare.md").read_text()


def test_a_run_that_tests_nothing_is_told_as_such(tmp_path):
    """Its rows stay empty to the end, as `cl.eval.scope: none` asks; it has not stopped before its first task."""
    silent = demo_run(tmp_path / "inclora/seed8", seed=8, scores=[[None] * 4] * 4)
    info = json.loads((silent / "run.json").read_text())
    info["recipe"]["cl"]["eval"] = {"scope": "none"}
    (silent / "run.json").write_text(json.dumps(info))
    comparison = read_comparison([*seeds(tmp_path, moves=(0.0, 2.0)), silent])
    assert (
        "† seed8 is not complete: tests nothing (`cl.eval.scope: none`); left out of the means." in comparison.remarks
    )


def test_the_latest_scores_of_a_run_whose_matrix_has_rows_to_come_are_shown(tmp_path):
    """A run writes a row of nulls for every task that is still to come; such runs once counted as finished, without a score."""
    empty = [None] * 4
    stopped = demo_run(tmp_path / "inclora/seed8", seed=8, scores=[*DEMO_SCORES[:2], empty, empty])
    within = demo_run(tmp_path / "inclora/seed9", seed=9, scores=[*DEMO_SCORES[:3], [None, 40.0, None, None]])
    comparison = read_comparison([*seeds(tmp_path, moves=(0.0, 2.0)), stopped, within])
    assert comparison.groups[0].finished == 2
    assert comparison.groups[0].final["neuro"].values == (46.67, 48.67)
    assert "† seed8 is not complete: measured after 2 of 4 tasks; left out of the means." in comparison.remarks
    assert "† seed9 is not complete: 3 cells not measured; left out of the means." in comparison.remarks
    shown = compare_table([stopped, within], width=100)
    assert [line.split()[-4:] for line in shown.splitlines() if line.startswith(("seed8 †", "seed9 †"))] == [
        ["63.33", "75.83", "–", "–"],
        ["55.83", "‡40.00", "70.00", "–"],
    ]


def test_joint_and_independent_runs_within_their_tests_are_left_out_of_the_means(tmp_path):
    joint = make_run(tmp_path / "joint", ["a", "b"], [[90.0, None]], rows=["joint"], method="multitask")
    alone = make_run(tmp_path / "alone", ["a", "b"], [[80.0, 1.0], [2.0, None]], method="alone", independent=True)
    comparison = read_comparison([joint, alone])
    assert [group.finished for group in comparison.groups] == [0, 0]
    assert [latest_cell(member.run, task).score for member in comparison.members for task in ("a", "b")] == [
        *(90.0, None),
        *(80.0, None),  # the other cells are of other models
    ]


def test_metrics_of_a_stream_cut_short_are_not_averaged_with_others(tmp_path):
    runs = [*seeds(tmp_path, moves=(0.0, 2.0)), demo_run(tmp_path / "inclora/seed9", seed=9, scores=DEMO_SCORES[:2])]
    metrics = json.loads((runs[2] / "metrics.json").read_text())
    metrics["metrics"]["mft"]["value"] = 87.0
    dump(runs[2] / "metrics.json", metrics)
    assert 87.0 not in read_comparison(runs).groups[0].metrics["mft"].values


@pytest.mark.usefixtures("pictures_drawn")
def test_only_unfinished_runs_can_be_compared_too(tmp_path):
    runs = [demo_run(tmp_path / name, scores=DEMO_SCORES[:1]) for name in "ab"]
    compare(runs, tmp_path / "out")
    assert "| inclora | 0 + 2 † | – |" in (tmp_path / "out/compare.md").read_text()


@pytest.mark.usefixtures("pictures_drawn")
def test_joint_models_have_final_scores_and_no_forgetting(tmp_path):
    joint = make_run(
        tmp_path / "joint", DEMO_TASKS, [[90.0, 80.0, 70.0, 40.0]], zero_shot=DEMO_ZERO, rows=["joint"], method="multitask", bleu=("rad",)
    )  # fmt: skip
    group = read_comparison([*seeds(tmp_path), joint]).groups[1]
    assert group.metrics["last"].values == (70.0,)
    assert group.metrics["forgetting"].mean is None
    assert group.final["rad"].mean == 40.0
    compare([joint], tmp_path / "out")


def test_no_shared_task_or_other_scorers_are_refused(tmp_path):
    first = make_run(tmp_path / "first", ["a", "b"], [[1.0, None], [2.0, 3.0]])
    other = make_run(tmp_path / "other", ["c"], [[1.0]])
    scored = [
        make_run(tmp_path / name, ["a", "b"], [[1.0, None], [2.0, 3.0]], bleu=("b", *more))
        for name, more in (("scored", ()), ("both", ("a",)))
    ]
    with pytest.raises(RunStateError, match=r"no task is part of all runs: .*first has a and b; .*other has c"):
        read_comparison([first, other])
    with pytest.raises(RunStateError) as caught:
        read_comparison([first, *scored])
    assert "scores b with bleu@1" in str(caught.value)
    assert len(caught.value.problems) == 3


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
    mixed = "Means over tasks (Last, Average and the other metrics) are taken over unlike scores: accuracy (path, neuro, cell) and BLEU (rad)."
    assert set(comparison.remarks) == {
        mixed,
        "The streams have different names: demo and other.",
        "The runs were tested on different numbers of items: rad (120 and 7).",
        "inclora: means over runs that were tested on different items of rad.",
        "The runs recorded different data hashes.",
    }
    assert comparison.notes == ("Only a demo.",)


def recorded(folder, tests, **settings):
    """A run that has recorded the content of its data sets; those of a task in a place of its own behind the task's name."""
    contents = {f"{task}_{part}": f"{task} {part}" for task in DEMO_TASKS for part in ("train", "test")} | tests
    data = {key: {"files": {"x.json": content}} for key, content in contents.items()}
    return demo_run(folder, record={"stream": stream(*DEMO_TASKS), "data": data}, recipe=recipe(), **settings)


def every_form(runs, folder, names=None):
    """The comparison as the terminal shows it, and its text files without escapes and tags; by name."""
    compare(runs, folder, names)
    found = {name: (folder / name).read_text() for name in FILES if name.partition(".")[2] not in ("png", "pdf")}
    found["compare.tex"] = found["compare.tex"].replace("\\", "")
    found["compare.md"] = found["compare.md"].replace("\\", "")
    return {**found, "terminal": " ".join(compare_table(runs, names, width=80).split())}


@pytest.mark.parametrize("place", ["rad_test", "rad/rad_test"])
def test_other_test_sets_are_told_and_marked_in_every_form(tmp_path, place):
    """Rows of two test sets stood side by side, and under one name were one mean, with a remark in some forms alone."""
    runs = [recorded(tmp_path / "a", {place: "first"}, seed=0), recorded(tmp_path / "b", {place: "second"}, seed=1)]
    comparison = read_comparison(runs)
    assert len(comparison.groups) == 2
    assert all(group.label.startswith("inclora (rad.test data=") for group in comparison.groups)
    assert comparison.apart == ("rad",)
    assert [comparison.is_apart(key) for key in ("rad", "path", "last", "forgetting")] == [True, False, True, True]
    one, other = (group.label for group in comparison.groups)
    assert f"The test data of rad differ ({one}; {other})." in comparison.remarks
    assert not any("hashes" in remark or "training" in remark for remark in comparison.remarks)
    shown = every_form(runs, tmp_path / "out")
    for form, text in shown.items():
        assert "The test data of rad differ" in text, form
    markdown = shown["compare.md"]
    assert markdown.count("§‡31.40") == 0
    assert markdown.count("§31.40") == 4, "in the rows of methods and of runs"
    assert "§ Not comparable: not all runs were tested on the same items." in markdown
    assert "| ‡58.33 |" in markdown or "| 58.33 |" in markdown, "the tests of the other tasks are the same"
    assert json.loads(shown["compare.json"])["unlike_tests"] == ["rad"]

    shown = every_form(runs, tmp_path / "pooled", ["ours", "ours"])
    for form, text in shown.items():
        assert "The test data of rad differ (a; b)." in text, form
        assert "ours: means over runs that were tested on different items of rad." in text, form
    assert "§31.4" in shown["terminal"]


def test_every_form_has_every_remark(tmp_path):
    """LaTeX and CSV had lost all but one of them."""
    limited = demo_run(tmp_path / "a", seed=0, max_items=9, notes=["Only a demo, see `README`."], recipe=recipe())
    runs = [limited, demo_run(tmp_path / "b", seed=1, recipe=recipe(max_steps=7)), demo_run(tmp_path / "c", metrics=False, scores=DEMO_SCORES[:1], recipe=recipe())]  # fmt: skip
    shorter = make_run(tmp_path / "d", DEMO_TASKS[:2], [[1.0, None], [2.0, 3.0]])
    comparison = read_comparison([*runs, shorter])
    start = ("Only the tasks", "† c is", "Tests limited", "The runs were tested on different", "Training is not")
    for word in start:
        assert any(remark.startswith(word) for remark in comparison.remarks), word
    shown = every_form([*runs, shorter], tmp_path / "out")
    for form in ("compare.tex", "compare.csv", "compare.json", "terminal"):
        text = shown[form].replace("$dagger$", "†").replace("texttt{README}", "`README`")
        for remark in (*comparison.remarks, *comparison.notes):
            assert remark in (text if form != "compare.csv" else text.replace('""', '"')), (form, remark)
    rows = list(csv.DictReader(io.StringIO(shown["compare.csv"])))
    assert len({row["remarks"] for row in rows}) == 1
    assert list(rows[0])[-1] == "remarks"


def test_data_that_only_moved_is_the_same_data(tmp_path):
    runs = seeds(tmp_path, moves=(0.0, 1.0))
    for place, run in zip(("here", "there"), runs, strict=True):
        record = json.loads((run / "run.json").read_text())
        dump(run / "run.json", record | {"data": {f"/{place}/train.json": "12", f"/{place}/test.json": "34"}})
    assert not [remark for remark in read_comparison(runs).remarks if "data" in remark]


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


def test_a_comparison_explains_only_what_is_in_it(tmp_path):
    one = make_run(tmp_path / "one", ["a", "b"], [[60.0, None], [80.0, 90.0]], intervals=False)
    compare([one], tmp_path / "out")
    page = (tmp_path / "out/compare.html").read_text()
    for absent in ("An en dash", "t-interval", "open dots", "dashed line", "‡", "†"):
        assert absent not in page, absent
    compare(seeds(tmp_path), tmp_path / "all")
    page = (tmp_path / "all/compare.html").read_text()
    for present in ("t-interval", "open dots", "dashed line"):
        assert present in page, present


def test_runs_that_recorded_nothing_are_compared_all_the_same(tmp_path):
    runs = seeds(tmp_path, "inclora", moves=(0.0,))
    (runs[0] / "run.json").unlink()
    compare(runs, tmp_path / "out")
    assert "not recorded" in (tmp_path / "out/compare.md").read_text()


def test_a_list_in_a_label_is_short_and_no_label_of_the_picture_is_cut(tmp_path):
    from cl_plugins.report.comparison_picture import _label

    selector = {"kind": "ridge", "features": ["vision", "text"], "penalty": 0.5}
    told = recipe(cl={"method": {"name": "single_task", "selector": selector}})
    runs = [demo_run(tmp_path / f"{seed}", method="single_task", seed=seed, recipe=told) for seed in (1, 2)]
    (group,) = read_comparison(runs).groups
    assert "features=vision+text" in group.label
    shown = _label(group.label).split("\n")
    assert shown[0] == "single_task"
    assert max(map(len, shown)) <= 34
    assert " ".join(shown) == group.label
    assert _label("a plain name") == "a plain name"
