"""The scorers as metrics of the ``evaluate`` library, built in code: nothing is downloaded.

```python
from cl_plugins.evaluation.hf_metrics import as_evaluate_metric

metric = as_evaluate_metric("exact_match")
metric.compute(predictions=["Yes."], references=["yes"])["exact_match"]  # 100.0
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .functions import score
from .scorers import get_scorer


if TYPE_CHECKING:
    import evaluate

_INPUTS = """
Args:
    predictions: Answers, one string per item.
    references: Right answers, one string per item.
    options: For choice_accuracy, the option texts of each item; else they are read from the prompts.
    prompts: The user turn of each item.
    seed: Seed of the bootstrap and of shuffled references.
"""


def as_evaluate_metric(name: str, **kwargs: Any) -> evaluate.Metric:
    """A scorer as an ``evaluate.Metric``.

    ``compute(predictions=..., references=..., options=None, prompts=None, seed=0)`` gives a flat dict: the score (0-100)
    under the scorer's name, ``n``, ``interval``, ``interval_method``, ``scorer`` (name and version), and the scorer's
    extra entries. ``add`` and ``add_batch`` work as usual.

    Args:
        name: Name of a scorer, as `get_scorer` takes it.
        **kwargs: For ``evaluate.Metric`` (``cache_dir``, ``num_process``, ...). Without ``num_process`` the items stay in
            memory.

    Raises:
        RecipeError: There is no such scorer.
    """
    import datasets
    import evaluate

    scorer = get_scorer(name)

    class ScorerMetric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo(
                description=scorer.summary,
                citation="",
                inputs_description=_INPUTS,
                features=datasets.Features(
                    {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
                ),
            )

        def _compute(
            self,
            predictions: Sequence[str],
            references: Sequence[str],
            options: Sequence[Sequence[str]] | None = None,
            prompts: Sequence[str] | None = None,
            seed: int = 0,
        ) -> dict[str, Any]:
            found = score(name, predictions, references, options=options, prompts=prompts, seed=seed)
            return {
                scorer.name: found.score,
                "n": found.n,
                "interval": list(found.interval),
                "interval_method": found.interval_method,
                "scorer": found.scorer,
                **found.extra,
            }

    # evaluate derives the metric's name, and its cache folder, from the class.
    ScorerMetric.__name__ = "".join(part.capitalize() for part in scorer.name.replace(":", "_").split("_"))
    kwargs.setdefault("keep_in_memory", kwargs.get("num_process", 1) == 1)
    return ScorerMetric(**kwargs)
