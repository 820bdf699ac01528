"""Evaluation: items and their scores, scorers, the accuracy matrix and the continual metrics.

Everything re-exported here is plain Python and imports nothing heavy; generation lives in ``generate`` and the
wrappers for the ``evaluate`` library in ``hf_metrics``.
"""

from __future__ import annotations

from .items import Item, TaskScore, predictions_to_jsonl, read_predictions
from .matrix import AccuracyMatrix, row_name
from .metrics import Metric, continual_metrics, metrics_to_dict, metrics_to_json
from .scorers import Scorer, get_scorer, list_scorers


__all__ = [
    "AccuracyMatrix",
    "Item",
    "Metric",
    "Scorer",
    "TaskScore",
    "continual_metrics",
    "get_scorer",
    "list_scorers",
    "metrics_to_dict",
    "metrics_to_json",
    "predictions_to_jsonl",
    "read_predictions",
    "row_name",
]
