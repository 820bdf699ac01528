"""The comparison of the classifiers' demo: every recipe is in it, and its table says what `compare.json` does."""

from __future__ import annotations

from benchmarks.cross_modal import demo


def test_every_recipe_is_compared():
    assert set(demo.ORDER) == {path.stem for path in (demo.ROOT / demo.RECIPES).glob("*.yaml")}


def test_the_table_has_means_and_intervals():
    def one(label, seconds, final):
        return {"label": label, "seconds": seconds, "final": {"step1": final, "step2": 50.0}}

    last = {"mean": 61.26, "half_width": 4.04}
    metrics = {"last": last, "average": {"mean": 70.0, "half_width": None}, "forgetting": {"mean": None}}
    compared = {
        "tasks": ["step1", "step2"],
        "groups": [{"label": "joint", "metrics": {"last": last}}, {"label": "crossmodal", "metrics": metrics}],
        "runs": [one("crossmodal", 10.0, 40.0), one("crossmodal", 13.0, 43.0), one("joint", 5.0, 80.0)],
    }
    assert demo.table(compared).splitlines() == [
        "| recipe | last | average | forgetting | step1 | step2 | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| `crossmodal` | 61.3 ± 4.0 | 70.0 |  | 41.5 | 50.0 | 12 |",
        "| `joint` | 61.3 ± 4.0 |  |  | 80.0 | 50.0 | 5 |",
    ]
