"""``cl-plugins score``: one file of predictions, one scorer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..evaluation.items import TaskScore

_EPILOG = """\
FILE has one JSON object per line with `id`, `prompt`, `prediction`, `reference`
and, for multiple choice, `options`, as in RUN/predictions/<row>/<task>.jsonl.
`--format json` prints one flat object; percentages are not rounded.

  cl-plugins score RUN/predictions/after_rad/path.jsonl --scorer exact_match
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("file", metavar="FILE", type=Path, help="predictions, one JSON object per line")
    parser.add_argument("--scorer", metavar="NAME", required=True, help="a scorer; `cl-plugins list scorers`")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="what to print (default: text)")


def run(args: argparse.Namespace) -> int:
    """Score a file."""
    from ..evaluation.items import read_predictions
    from ..evaluation.scorers import get_scorer
    from . import output

    scorer = get_scorer(args.scorer, where="--scorer")
    score = scorer.score(read_predictions(args.file))
    if args.format == "json":
        output.print_json(flat(score))
        return 0
    low, high = score.interval
    rows = [
        ("score", f"{score.score:.2f}"),
        ("95 % interval", f"{low:.2f} to {high:.2f} ({score.interval_method})"),
        ("items", str(score.n)),
        *((key.replace("_", " "), f"{v:.2f}" if isinstance(v, float) else str(v)) for key, v in score.extra.items()),
    ]
    output.emit(f"{output.bold(score.scorer)}  {args.file}")
    output.pairs(rows)
    return 0


def flat(score: TaskScore) -> dict[str, Any]:
    """A score as one flat object of metric to value, percentages 0-100, not rounded.

    Args:
        score: The score.
    """
    low, high = score.interval
    extra = {key: value for key, value in score.extra.items() if isinstance(value, int | float | str) or value is None}
    return {
        "scorer": score.scorer,
        "score": score.score,
        "n": score.n,
        "interval_low": low,
        "interval_high": high,
        **extra,
    }
