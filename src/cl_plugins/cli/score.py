"""``cl-plugins score``: one file of predictions, one scorer."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..evaluation.items import TaskScore

_EPILOG = """\
FILE holds the predictions of a run (RUN/predictions/<row>/<task>.jsonl), or is
LLaMA-Factory's generated_predictions.jsonl, or an answer file of MLLM-CL,
MCITlib, CoIN, UCIT or MSLoRA-CR, as it is. If the right answers are in the
test set, name it with --annotations: answers are joined by question_id,
LLaMA-Factory's by row, and labels that both files hold must agree.
`--format json` prints one flat object, metric to value; percentages (0-100) are
not rounded.

  cl-plugins score RUN/predictions/after_rad/path.jsonl --scorer exact_match
  cl-plugins score merge.jsonl --annotations test.json --scorer peer:mllm_cl:sci
  cl-plugins score answer-file.jsonl --scorer peer:mslora_cr --format json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("file", metavar="FILE", type=Path, help="predictions, one JSON object per line")
    parser.add_argument("--annotations", metavar="FILE", type=Path, help="the test set, if it contains the answers")
    parser.add_argument("--partial", action="store_true", help="leave out questions that have no answer")
    parser.add_argument("--scorer", metavar="NAME", required=True, help="a scorer; `cl-plugins list scorers`")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="what to print (default: text)")


def run(args: argparse.Namespace) -> int:
    """Score a file."""
    from ..evaluation.answers import read_answers
    from ..evaluation.scorers import get_scorer
    from . import output

    scorer = get_scorer(args.scorer, where="--scorer")
    by_row = getattr(scorer, "by_row", False)
    # Other libraries score the whole text, and their numbers are to be met on their own terms.
    theirs = scorer.key.startswith("peer:")
    remarks: list[str] = []
    items = read_answers(
        args.file, args.annotations, partial=args.partial, by_row=by_row, keep_thoughts=theirs, remarks=remarks
    )
    score = scorer.score(items)
    for remark in remarks:
        output.emit(f"note: {remark}", sys.stderr)
    if args.format == "json":
        output.print_json(flat(score))
        return 0
    low, high = score.interval
    entries = {**score.extra.get("metrics", {}), **{key: v for key, v in score.extra.items() if key != "metrics"}}
    rows = [
        ("score", f"{score.score:.2f}"),
        ("95 % interval", f"{low:.2f} to {high:.2f} ({score.interval_method})"),
        ("items", str(score.n)),
        *((key.replace("_", " "), f"{v:.2f}" if isinstance(v, float) else str(v)) for key, v in entries.items()),
    ]
    output.emit(output.bold(score.scorer) + f"  {args.file}")
    output.pairs(rows)
    return 0


def flat(score: TaskScore) -> dict[str, Any]:
    """A score as one flat object of metric to value, percentages 0-100, not rounded.

    A reference scorer gives what the original implementation prints, under fixed names, and nothing else.

    Args:
        score: The score.
    """
    if score.scorer.startswith("peer:"):
        return dict(score.extra["metrics"])
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
