"""``cl-plugins report``: the report of a run, written again; or its predictions, scored by other scorers."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, DataError, Problem, RecipeError, RunStateError


if TYPE_CHECKING:
    from ..evaluation.items import Item, TaskScore
    from ..evaluation.matrix import AccuracyMatrix

_EPILOG = """\
With `--scorer`, the predictions of the run are scored again, without generating
anything. The result goes to RUN/rescored/<scorers>/ (or `--out`), with the
run's own table next to the new one; the run's own scores stay as they are.
A task that its scorer cannot score is named and has no scores in the table; the
exit code is 2 then.

  cl-plugins report RUN
  cl-plugins report RUN --scorer exact_match               for every task
  cl-plugins report RUN --scorer path=contains rad=token_f1
  cl-plugins report RUN --scorer peer:medical_cl           the authors' rules
  cl-plugins report RUN --scorer peer            each task's own `peer_scorer`
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="the `output_dir` of a run")
    parser.add_argument(
        "--scorer",
        metavar="[TASK=]SCORER",
        nargs="+",
        action="extend",
        default=[],
        help="score the predictions with another scorer",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where the new scores go (with --scorer)")


def run(args: argparse.Namespace) -> int:
    """Write a report, and print its table."""
    from ..run.reopen import read_record
    from . import EXIT_PROBLEM, output

    root: Path = args.run_dir
    own = root if args.scorer else None
    if args.out is not None and not args.scorer:
        raise RecipeError(
            Problem("--out", "is given without `--scorer`.", "Without `--scorer` the report is written into the run.")
        )
    read_record(root)
    unscored: dict[str, list[Problem]] = {}
    if args.scorer:
        root = rescore(root, args.scorer, args.out, unscored)
    output.show_report(root, original=own)
    for task, problems in unscored.items():
        output.emit(f"task '{task}' is not scored:", sys.stderr)
        output.show_problems(problems, sys.stderr)
    return EXIT_PROBLEM if unscored else 0


def rescore(
    root: Path, words: list[str], out: Path | None = None, unscored: dict[str, list[Problem]] | None = None
) -> Path:
    """Score the predictions of a run again, into a separate directory.

    Args:
        root: The run's directory.
        words: ``scorer`` for all tasks, or ``task=scorer``.
        out: Where to write; ``RUN/rescored/<scorers>`` by default.
        unscored: Gets the tasks that their scorer cannot score, with the reasons; their cells stay empty. If it is None, or no
            task can be scored, that is an error.

    Returns:
        The directory, with everything that a report is made of.

    Raises:
        RecipeError: If a task or a scorer does not exist.
        RunStateError: If predictions are missing, or ``out`` is a run.
        DataError: If predictions are damaged, or a scorer cannot score them.
        CompatibilityError: If a package that a scorer needs is missing.
    """
    import dataclasses

    from ..base.files import write_bytes
    from ..evaluation.items import predictions_to_jsonl
    from ..evaluation.results import read_results
    from ..evaluation.scorers import get_scorer
    from ..records.files import check_folders, record_of
    from ..records.run import write_run
    from ..run.evaluate import write_matrix
    from ..run.reopen import check_target, read_record

    check_folders(root)
    matrix = read_results(root).matrix
    scorers = _chosen(_with_reference_scorers(words, read_record(root)), matrix.tasks)
    out = out or root / "rescored" / _folder(words)
    check_target(out)
    cells = [
        (row, task)
        for row in ["zero_shot", *matrix.row_names()]
        for task in matrix.tasks
        if matrix.get(row, task) is not None
    ]
    missing = [path for row, task in cells if not (path := root / "predictions" / row / f"{task}.jsonl").is_file()]
    if missing:
        fix = "Restore them from a copy; they are needed for scoring."
        raise RunStateError([Problem(str(path), "is missing.", fix) for path in missing])
    made: dict[tuple[str, str], tuple[list[Item], TaskScore]] = {}
    failed: dict[str, DataError | CompatibilityError] = {}
    for task in dict.fromkeys(task for _, task in cells):
        scorer = get_scorer(scorers.get(task, matrix.scorers[task]), task=task)
        rows = [row for row, each in cells if each == task]
        given = {row: _answers(root / "predictions" / row / f"{task}.jsonl") for row in rows}
        try:
            scores = {row: scorer.score(items) for row, (items, _) in given.items()}
            made |= {
                (row, task): (items, dataclasses.replace(scores[row], **kept)) for row, (items, kept) in given.items()
            }
        except (DataError, CompatibilityError) as error:
            if unscored is None:
                raise
            failed[task] = error
            for row in rows:
                matrix.set(row, task, None)
            matrix.scorers[task], matrix.n[task] = scorer.key, 0
    if failed and not made:
        raise next(iter(failed.values()))
    files: dict[str, Any] = {}
    for (row, task), (items, score) in made.items():
        folder = out / "predictions" / row
        write_bytes(folder / f"{task}.jsonl", predictions_to_jsonl(items, score).encode())
        score.write(folder / f"{task}.score.json")
        files |= {
            f"predictions/{row}/{name}": dict(record_of(folder / name).plain())
            for name in (f"{task}.jsonl", f"{task}.score.json")
        }
        matrix.set(row, task, score.score)
        matrix.scorers[task], matrix.n[task] = score.scorer, score.n
    write_matrix(out, matrix)
    record = read_record(root)
    changed = "; ".join(
        f"{', '.join(task for task in scorers if matrix.scorers[task] == key and task not in failed)} with {key}"
        for key in dict.fromkeys(matrix.scorers[task] for task in scorers if task not in failed)
    )
    anew = f"Scored again from the predictions of the run: {changed}."
    left_out = [_without_score(task, matrix.scorers[task], error.problems) for task, error in failed.items()]
    record["notes"] = [*(record.get("notes") or []), anew, *left_out, *_as_printed(matrix)]
    record["files"] = files  # there is no journal here that holds the hashes
    write_run(out, record)
    if unscored is not None:
        unscored |= {task: error.problems for task, error in failed.items()}
    return out


def _answers(predictions: Path) -> tuple[list[Item], dict[str, Any]]:
    """The items of a cell, and what the run knows of its test set.

    Raises:
        DataError: The file is damaged.
    """
    from ..evaluation.items import TaskScore, read_predictions

    items, old = read_predictions(predictions), predictions.with_suffix(".score.json")
    if not old.is_file():
        return items, {}
    earlier = TaskScore.read(old)
    return items, {"max_items": earlier.max_items, "cut": earlier.cut, "dropped": earlier.dropped}


def _without_score(task: str, scorer: str, problems: list[Problem]) -> str:
    """A note on a task that could not be scored."""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{task} has no score by {scorer}: {problems[0].where} {problems[0].what}{more}"


def _with_reference_scorers(words: list[str], record: dict[str, Any]) -> list[str]:
    """``peer`` replaced by the ``peer_scorer`` of every task that has one.

    Raises:
        RecipeError: If none has.
    """
    if "peer" not in words:
        return words
    tasks = record.get("stream", {}).get("tasks", [])
    found = [f"{task['name']}={task['peer_scorer']}" for task in tasks if task.get("peer_scorer")]
    if not found:
        fix = "Name the rule, as in `--scorer peer:medical_cl`; `cl-plugins list scorers` shows them."
        raise RecipeError(Problem("--scorer peer", "no task of this run's stream names a `peer_scorer`.", fix))
    return [word for word in words if word != "peer"] + found


def _chosen(words: list[str], tasks: list[str]) -> dict[str, str]:
    """Task -> scorer."""
    from ..base.schema import nearest
    from ..evaluation.scorers import get_scorer

    chosen: dict[str, str] = {}
    problems = []
    for word in words:
        task, mark, name = word.partition("=")
        if not mark:
            task, name = "", word
        if task and task not in tasks:
            fix = f"{nearest(task, tasks)} Tasks: {', '.join(tasks)}.".strip()
            problems.append(Problem(f"--scorer {word}", f"there is no task {task!r} in this run.", fix))
        for each in [task] if task else tasks:
            try:
                get_scorer(name, where=f"--scorer {word}", task=each)
            except RecipeError as error:
                problems += [problem for problem in error.problems if problem not in problems]
            if task or each not in chosen:
                chosen[each] = name
    if problems:
        raise RecipeError(problems)
    return {task: chosen[task] for task in tasks if task in chosen}


def _as_printed(matrix: AccuracyMatrix) -> list[str]:
    """The averages as the authors of Medical-CL print them, where a task is scored by their rule for Rad."""
    from ..evaluation.scorers.reference import printed_average

    rad = next((task for task, key in matrix.scorers.items() if key.startswith("peer:medical_cl:rad@")), None)
    if rad is None:
        return []
    rows = {"zero_shot": matrix.tasks} | {f"after_{t}": matrix.tasks[: n + 1] for n, t in enumerate(matrix.tasks)}
    found = []
    for row, tasks in rows.items():
        if row != "zero_shot" and row not in matrix.row_names():
            continue
        scores = {task: value for task in tasks if (value := matrix.get(row, task)) is not None}
        if rad in scores and len(scores) == len(tasks):
            found.append(f"{row} {printed_average(scores, rad):.2f}")
    if not found:
        return []
    return [
        f"Averages as the Medical-CL authors print them, with the BLEU of {rad} truncated to a whole number: {', '.join(found)}."
    ]


def _folder(words: list[str]) -> str:
    """A name for the directory that says what was requested."""
    return "+".join(re.sub(r"[^A-Za-z0-9_.-]+", "-", word).strip("-.") for word in words)
