"""What reports, comparisons and files say of probes."""

from __future__ import annotations

import csv
import io
import json

import pytest
from made_runs import DEMO_TASKS, demo_run, dump

from cl_plugins.report import compare, compare_table, terminal_table, write_report
from cl_plugins.report.probes import probe_table, shared_probes
from cl_plugins.report.run_data import read_run


def part(score, difference=None, ends=None):
    found = {"score": score, "interval": [max(0.0, score - 5), min(100.0, score + 5)]}
    return found | {"difference": difference, "difference_interval": ends, "max_items": None}


def probe(start, *scores, scorer="choice_accuracy@2", n=200):
    rows = {"zero_shot": part(start)}
    for task, score in zip(DEMO_TASKS, scores, strict=True):
        change = score - start
        rows[f"after_{task}"] = part(score, change, [change - 2, change + 2])
    return {"scorer": scorer, "n": n, "rows": rows}


def made(folder, probes, **more):
    out = demo_run(folder, **more)
    value = json.loads((out / "metrics.json").read_text())
    dump(out / "metrics.json", value | {"probes": probes})
    return out


GENERAL = probe(50.0, 49.0, 45.0, 44.0, 40.0)
SAFETY = probe(90.0, 90.0, 91.0, 91.0, 91.0, scorer="contains@1")


@pytest.fixture
def out(tmp_path):
    return made(tmp_path / "run", {"general": GENERAL, "safety": SAFETY})


def test_the_table_has_scores_and_differences(out):
    table = probe_table(read_run(out))
    assert table.head == ("after training on", "general", "Δ general", "safety", "Δ safety")
    assert table.units == (None, "accuracy", "points", "contains", "points")
    rows = [[entry.text for entry in row] for row in table.rows]
    assert rows[0] == ["zero-shot", "50.00", "", "90.00", ""]
    assert rows[4] == ["rad", "40.00", "−10.00 [−12.0, −8.0]", "91.00", "+1.00 [−1.0, 3.0]"]
    strong = [entry.strong for entry in table.rows[4]]
    assert strong == [False, False, True, False, False]  # only an interval without 0
    assert "no part of the metrics" in table.note


def test_a_harness_is_named_by_its_metric_and_no_change_has_no_sign(tmp_path):
    rows = {"zero_shot": part(50.0), "after_path": part(50.001, 0.001, [-1.0, 1.0])}
    arc = {"scorer": "lm_eval:arc_easy:acc_norm,none@1.0", "n": 5, "rows": rows}
    table = probe_table(read_run(made(tmp_path / "run", {"arc": arc})))
    assert table.units == (None, "acc_norm", "points")
    assert table.rows[1][2].text == "0.00 [−1.0, 1.0]"


def test_pages_files_and_terminal_have_them(out):
    write_report(out)
    for name in ("report.md", "report.html"):
        text = (out / name).read_text()
        assert "Probes" in text
        assert "−10.00 [−12.0, −8.0]" in text.replace("\\", "")
        assert "probes.tex" in text
    tex = (out / "probes.tex").read_text()
    assert r"$\Delta$ general" in tex
    assert r"\textbf{$-$10.00 [$-$12.0, $-$8.0]}" in tex
    lines = list(csv.DictReader(io.StringIO((out / "probes.csv").read_text())))
    assert len(lines) == 10
    assert lines[-2]["row"] == "after_rad"
    assert (float(lines[-2]["difference"]), float(lines[-2]["difference_low"])) == (-10.0, -12.0)
    shown = terminal_table(out, width=100)
    assert "Δ general" in shown
    plain = terminal_table(out, width=100, ascii=True)
    assert plain.isascii()
    assert "diff. general" in plain


def test_a_run_without_probes_has_nothing_of_them(tmp_path):
    out = demo_run(tmp_path / "run")
    write_report(out)
    assert not (out / "probes.csv").exists()
    assert "Probes" not in (out / "report.md").read_text()
    assert "Probes" not in terminal_table(out, width=100)


def test_metrics_and_matrix_are_those_without_probes(out, tmp_path):
    other = read_run(demo_run(tmp_path / "other"))
    assert read_run(out).metrics == other.metrics
    assert read_run(out).rows == other.rows


def test_compare_has_the_drift_of_probes_that_all_runs_share(tmp_path):
    runs = [
        made(tmp_path / "a1", {"general": GENERAL, "safety": SAFETY}, method="seqlora", seed=1),
        made(tmp_path / "a2", {"general": probe(50.0, 50.0, 48.0, 47.0, 44.0)}, method="seqlora", seed=2),
        made(tmp_path / "b", {"general": probe(50.0, 50.0, 50.0, 50.0, 51.0)}, method="ewc"),
    ]
    for path in (runs[0], runs[1]):  # one recipe but for its seed
        value = json.loads((path / "run.json").read_text())
        value["recipe"]["output_dir"] = "x"
        dump(path / "run.json", value)
    assert shared_probes([read_run(path) for path in runs]) == ("general",)
    compare(runs, tmp_path / "out")
    value = json.loads((tmp_path / "out" / "compare.json").read_text())
    drift = {group["label"].split()[0]: group["drift"]["general"] for group in value["groups"]}
    assert drift["seqlora"]["values"] == [-10.0, -6.0]
    assert drift["seqlora"]["mean"] == -8.0
    assert drift["ewc"]["mean"] == 1.0
    assert "drift:general:mean" in (tmp_path / "out" / "compare.csv").read_text().splitlines()[0]
    for name in ("compare.md", "compare.html"):
        assert "−8.00" in (tmp_path / "out" / name).read_text()
    assert (tmp_path / "out" / "compare.tex").read_text().count(r"\begin{tabular}") == 2
    assert "Probes" in compare_table(runs, width=100)


def test_other_items_or_scorers_are_not_compared(tmp_path):
    runs = [
        made(tmp_path / "a", {"general": GENERAL, "safety": SAFETY}),
        made(
            tmp_path / "b", {"general": {**GENERAL, "n": 100}, "safety": {**SAFETY, "scorer": "bleu@1"}}, method="ewc"
        ),
    ]
    assert shared_probes([read_run(path) for path in runs]) == ()
    compare(runs, tmp_path / "out")
    assert "Probes" not in (tmp_path / "out" / "compare.md").read_text()
    assert "drift" not in json.loads((tmp_path / "out" / "compare.json").read_text())["groups"][0]


def test_an_unfinished_run_has_no_final_drift(tmp_path):
    cut = {**GENERAL, "rows": {k: v for k, v in GENERAL["rows"].items() if k != "after_rad"}}
    run = read_run(made(tmp_path / "a", {"general": cut}))
    assert shared_probes([run]) == ()
