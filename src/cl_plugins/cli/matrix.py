"""``cl-plugins matrix``: the rows that several sites have measured as one matrix; a matrix of another program as a run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import Problem, RecipeError


_EPILOG = """\
  cl-plugins matrix join site_a/run site_b/run --out joined
  cl-plugins matrix join site_b.carry.zip site_c/run --out joined

SITE is the `output_dir` of a run with `cl.only`, or a file that
`cl-plugins carry pack --with-matrix` wrote, which also holds the rows of the
sites before. Streams, scorers and test sets of the sites must agree, and every
site must have begun with the carry of the site before. `cl-plugins report` and
`compare` take the result as they take a run.

  cl-plugins matrix import their.csv --method theirs --stream demo \\
      --scorer path=accuracy rad=bleu --out saves/theirs

FILE has the tasks as columns and the measurements as rows, both in the order of
learning, as matrix.csv of every run:

  after_training_on,path,rad
  zero_shot,48.3,4.2
  path,98.3,
  rad,51.7,31.4

A row is named after the task that had just been trained, or zero_shot, or
joint; an empty field was not measured.

  cl-plugins matrix import zero_shot=base/results_1.json \\
      path=after_path/results_2.json rad=after_rad/results_3.json \\
      --task path=vqa_path rad=vqa_rad general=mmlu \\
      --method theirs --stream demo --out saves/theirs

ROW=FILE gives a result file for a row, in the order of learning: results of
lm-evaluation-harness and lmms-eval, reports of EvalScope, the result_jsonl of
ms-swift, score files of VLMEvalKit (several files may have the same row).
`--task` says how their programs call each task, `--metric` which of their
metrics is meant (the first, if it is left out).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "put the rows of several sites together"
    action = actions.add_parser("join", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    action.add_argument("sites", metavar="SITE", nargs="+", type=Path, help="runs, packs, or unpacked packs")
    action.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory")
    text = "read scores of another program from a CSV file or from result files"
    action = actions.add_parser("import", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    action.add_argument("files", metavar="FILE", nargs="+", help="the CSV file, or ROW=FILE for each result file")
    action.add_argument("--method", metavar="NAME", required=True, help="name of the method, for tables")
    action.add_argument("--stream", metavar="NAME", required=True, help="name of the stream, for tables")
    action.add_argument(
        "--scorer",
        metavar="[TASK=]NAME",
        nargs="+",
        default=[],
        help="what the scores are; one for all, or by task (default for result files: program, task and metric)",
    )
    action.add_argument("--task", metavar="TASK=NAME", nargs="+", default=[], help="the program's name of each task")
    action.add_argument("--metric", metavar="[TASK=]NAME", nargs="+", default=[], help="which of its metrics is meant")
    action.add_argument("--items", metavar="[TASK=]N", nargs="+", default=[], help="numbers of test items")
    action.add_argument("--seed", metavar="N", type=int, help="the seed, if it is known")
    action.add_argument("--scale", type=float, choices=(1, 100), help="100 for fractions, 1 for percentages")
    action.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory")


def run(args: argparse.Namespace) -> int:
    """Join the rows of several sites, or import a matrix."""
    from ..run.export import check_empty
    from . import output

    check_empty(args.out)
    if args.action == "join":
        from ..run.join import join

        join(args.sites, args.out)
    else:
        _import(args)
    output.show_report(args.out)
    return 0


def _import(args: argparse.Namespace) -> None:
    """Import a table, or result files.

    Raises:
        RecipeError: If the options do not fit together.
    """
    from ..run.importing import import_matrix, import_results

    common: dict[str, Any] = {
        "method": args.method,
        "stream": args.stream,
        "items": _counts(by_task(args.items)),
        "seed": args.seed,
        "scale": args.scale,
    }
    pairs = [(row, Path(file)) for row, equals, file in (word.partition("=") for word in args.files) if equals]
    plain = [word for word in args.files if "=" not in word or Path(word).exists()]
    problems = []
    if plain and len(args.files) > 1:
        what = f"{plain[0]!r} is given together with other files."
        problems.append(Problem("FILE", what, "Give one CSV file, or ROW=FILE for every result file."))
    for option in ("task", "metric"):
        if plain and getattr(args, option):
            what = "is given with a CSV file, whose head names the tasks."
            problems.append(Problem(f"--{option}", what, "Leave it out."))
    if plain and not args.scorer:
        fix = "Name it, as in `--scorer accuracy` or `--scorer path=accuracy rad=bleu`."
        problems.append(Problem("--scorer", "is missing.", fix))
    names = by_task(args.task)
    if None in names:
        problems.append(Problem("--task", f"is {names[None]!r}.", "Write TASK=NAME, as in `--task path=vqa_path`."))
    if problems:
        raise RecipeError(problems)
    if plain:
        import_matrix(Path(plain[0]), args.out, scorers=by_task(args.scorer), **common)
        return
    import_results(
        pairs,
        args.out,
        names={task: name for task, name in names.items() if task is not None},
        metrics=by_task(args.metric),
        scorers=by_task(args.scorer),
        **common,
    )


def by_task(words: Sequence[str]) -> dict[str | None, str]:
    """Words ``TASK=VALUE`` as a mapping; a word without a task is the value of all other tasks.

    Args:
        words: The words.
    """
    pairs = [word.rpartition("=") for word in words]
    return {task if equals else None: value for task, equals, value in pairs}


def _counts(given: Mapping[str | None, str]) -> dict[str | None, int]:
    """Numbers of test items.

    Raises:
        RecipeError: If one is no whole number above 0.
    """
    wrong = [value for value in given.values() if not value.isdecimal() or int(value) < 1]
    if wrong:
        what = f"{', '.join(map(repr, wrong))} is not a number of items."
        raise RecipeError(Problem("--items", what, "Give whole numbers, as in `--items 120` or `--items path=120`."))
    return {task: int(value) for task, value in given.items()}
