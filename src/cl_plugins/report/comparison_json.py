"""``compare.json``: a comparison for programs."""

from __future__ import annotations

from typing import Any

from .groups import METRICS, Comparison, Summary, latest_cell, metric_of
from .paired import Paired


def as_json(comparison: Comparison, paired: Paired | None = None) -> dict[str, Any]:
    """The comparison as plain JSON types, unrounded.

    Args:
        comparison: The comparison.
        paired: The differences to one of its groups, or None.
    """

    def summary(entry: Summary) -> dict[str, Any]:
        return {
            "n": len(entry.values),
            "mean": entry.mean,
            "half_width": entry.half_width,
            "values": list(entry.values),
        }

    return {
        "format": 1,
        "after": comparison.after,
        "interval": "95 % t-interval over runs; half_width is null for fewer than two",
        "tasks": list(comparison.tasks),
        "scorers": {task: comparison.members[0].run.scorers.get(task) for task in comparison.tasks},
        "means_over_unlike_scores": comparison.unlike,
        "unlike_tests": list(comparison.apart),
        "groups": [
            {
                "label": group.label,
                "methods": sorted({member.run.method for member in group.members}),
                "runs": [member.name for member in group.members],
                "finished": group.finished,
                "metrics": {key: summary(entry) for key, entry in group.metrics.items()},
                "final": {task: summary(entry) for task, entry in group.final.items()},
                "trivial": dict(group.trivial),
                **({"drift": {p: summary(entry) for p, entry in group.drift.items()}} if comparison.probes else {}),
            }
            for group in comparison.groups
        ],
        "paired": None
        if paired is None
        else {
            "baseline": paired.baseline,
            "interval": "95 % t-interval over pairs, not corrected for the number of comparisons",
            "groups": [
                {
                    "label": group.label,
                    "pairs": [{"run": mine.name, "baseline": theirs.name} for mine, theirs in group.pairs],
                    "metrics": {key: summary(entry) for key, entry in group.metrics.items()},
                    "tasks": {task: summary(entry) for task, entry in group.tasks.items()},
                }
                for group in paired.groups
            ],
            "remarks": list(paired.remarks),
        },
        "runs": [
            {
                "name": member.name,
                "label": member.label,
                "method": member.run.method,
                "seed": member.run.seed,
                "order": list(member.run.tasks),
                "unfinished": member.run.unfinished or None,
                "seconds": member.run.info.get("seconds"),
                "metrics": {key: metric_of(member.run, key) for key in METRICS},
                "final": {task: latest_cell(member.run, task).score for task in comparison.tasks},
            }
            for member in comparison.members
        ],
        "notes": list(comparison.notes),
        "remarks": list(comparison.remarks),
        "environments": [
            {"versions": dict(made.versions), "hardware": dict(made.hardware), "runs": list(made.runs)}
            for made in comparison.environments
        ],
    }
