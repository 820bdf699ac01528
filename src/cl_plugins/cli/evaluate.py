"""``cl-plugins evaluate``: what a run has learned, tested again or on data that it never saw."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RecipeError


if TYPE_CHECKING:
    from ..config import CLConfig
    from ..contract.carry import Carry
    from ..run.state import RunState
    from ..streams import Task

_EPILOG = """\
The model is rebuilt from the base and the carry of the run, and tested with the
same code as in a run: the answers are the same, byte for byte. Predictions and
scores go to DIR/predictions/. Earlier models need the updates of the tasks,
which `cl.keep: all` (the default) keeps. Settings of DeepSpeed and FSDP are
ignored, and so are options of the recipe that name code.

  cl-plugins evaluate RUN --out again                         all tasks
  cl-plugins evaluate RUN --task path --after sur --out old   as of sur
  cl-plugins evaluate RUN --test-set new_hospital --scorer choice_accuracy \\
      --dataset-dir data/new --out new_hospital
  cl-plugins evaluate RUN --matrix --out again                all rows

With `--matrix` every model from zero-shot on answers (with `--after` that one
alone), and `cl-plugins report` and `compare` take DIR. `--test-set` names data
sets of `dataset_info.json`, several with commas.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from .looking import add_run

    parser.epilog = _EPILOG
    add_run(parser)
    parser.add_argument("--task", metavar="NAME", action="append", default=[], help="test this task (repeat for more)")
    parser.add_argument("--after", metavar="NAME", help="the model as it was after this task (default: the latest)")
    parser.add_argument("--matrix", action="store_true", help="all rows, for report and compare")
    parser.add_argument("--test-set", metavar="NAME", help="test on this data set instead of a task's")
    parser.add_argument("--scorer", metavar="NAME", help="its scorer, or another one for the tasks")
    parser.add_argument("--options-column", metavar="NAME", help="its column with the options (multiple choice)")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, help="longest answer in tokens")
    parser.add_argument("--max-items", metavar="N", type=int, help="only the first N items of each test set")
    parser.add_argument("--backend", choices=("host", "vllm"), help="what generates (default: the recipe's)")
    parser.add_argument("--dataset-dir", metavar="DIR", help="folder of dataset_info.json (default: the recipe's)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where predictions and scores go")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate a run's model."""
    from . import output
    from .hosts import quiet_host

    with quiet_host():
        value = evaluate_run(args)
    if args.matrix:
        show_matrix(value, args.out, as_json=args.json)
    elif args.json:
        output.print_json(value)
    else:
        show(value, args.out)
    return 0


def evaluate_run(args: argparse.Namespace) -> dict[str, Any]:
    """Rebuild the model, answer, score, write.

    Args:
        args: The options.

    Returns:
        The model and its scores as plain JSON types.

    Raises:
        RecipeError: If a task, scorer or data set does not exist.
        RunStateError: If the run has no carry, or base or files differ from it.
    """
    from ..base.logs import set_up
    from ..evaluation.items import TaskScore
    from ..run import parts
    from ..run.data_sets import FileHashes
    from ..run.evaluate import evaluate
    from ..run.evaluation_note import claim, other_data, test_data
    from ..run.plan import Step
    from ..run.progress import Progress
    from ..run.reopen import check_target, read_record, row_of
    from .looking import opened

    check_target(args.out)
    tasks: list[str] = []

    def prepare(host_keys: dict[str, Any], config: CLConfig) -> CLConfig:
        config, names = _configured(args, host_keys, config)
        _check_backend(host_keys, config)
        tasks.extend(names)
        return config

    set_up()
    with opened(
        args.run_dir,
        args.out,
        model=args.model,
        task=None if args.matrix else args.after,
        prepare=prepare,
        trust_remote_code=args.trust_remote_code,
    ) as (state, carry):
        if args.matrix:
            return _matrix(args, state, carry, tasks)
        row = row_of(carry)
        info = read_record(args.run_dir)
        steps = [Step("evaluate", name, row) for name in tasks]
        for name in tasks:
            state.tests(
                state.config.stream.task(name)
            )  # all problems of the data are reported before the model is loaded
        data = test_data(state, tasks, FileHashes(args.out / ".data_hashes.json"))
        claim(state, info, tasks, data, row=row)
        other = other_data(info, data)
        state.carry = carry
        state.progress = Progress(
            {s.key: ("evaluate", len(state.tests(state.config.stream.task(str(s.task))))) for s in steps}
        )
        try:
            for number, step in enumerate(state.by_route(steps), start=1):
                state.progress.begin(step, number, len(steps))
                evaluate(state, step, [])
                state.progress.end()
            files = {name: args.out / "predictions" / row / f"{name}.score.json" for name in tasks}
            scores = {name: TaskScore.read(file).to_dict() for name, file in files.items()}
        finally:
            state.close_backend()
            state.progress.close()
        for step in steps:  # only now: the same command, killed and given again, finds all that it had answered
            parts.remove(args.out, row, str(step.task))
    return {
        "format": 1,
        "run": str(args.run_dir),
        "learned": list(carry.tasks),
        "row": row,
        "scores": scores,
        "in_the_run": {
            name: None if name in other else _recorded(args.run_dir, row, name, score)
            for name, score in scores.items()
        },
        "other_data": other,
    }


def _matrix(args: argparse.Namespace, state: RunState, carry: Carry, tasks: list[str]) -> dict[str, Any]:
    """All rows, as plain JSON types."""
    from tempfile import TemporaryDirectory

    from ..run.matrix_again import evaluate_matrix

    with TemporaryDirectory(prefix="cl-plugins-") as scratch:
        matrix = evaluate_matrix(state, args.run_dir, carry, tasks, Path(scratch), args.after)
    rows = ["zero_shot", *matrix.row_names()]
    return {
        "format": 1,
        "run": str(args.run_dir),
        "learned": list(carry.tasks),
        "scores": {row: {task: matrix.get(row, task) for task in matrix.tasks} for row in rows},
    }


def _configured(args: argparse.Namespace, host_keys: dict[str, Any], config: CLConfig) -> tuple[CLConfig, list[str]]:
    """The block with what the options change, and the names of the tasks to test."""
    from ..base.schema import nearest
    from .hosts import host

    if args.dataset_dir is not None:
        host_keys["dataset_dir"] = args.dataset_dir
    names = config.stream.task_names
    problems = []
    for name in args.task:
        if name not in names:
            fix = f"{nearest(name, names)} Tasks: {', '.join(names)}.".strip()
            problems.append(Problem(f"--task {name}", "is not a task of this stream.", fix))
        elif not config.stream.task(name).test:
            problems.append(
                Problem(f"--task {name}", "has no test set.", "Name one: `--test-set NAME --scorer SCORER`.")
            )
    if args.test_set and args.task:
        problems.append(Problem("--test-set", "is given together with `--task`.", "Keep one of the two."))
    if args.matrix and args.test_set:
        what = "is given together with `--matrix`, which tests the run's own tasks."
        problems.append(Problem("--test-set", what, "Keep one of the two."))
    for option in ("max_items", "max_new_tokens"):
        if getattr(args, option) is not None and getattr(args, option) < 1:
            problems.append(
                Problem(
                    f"--{option.replace('_', '-')}", f"is {getattr(args, option)}.", "The smallest allowed value is 1."
                )
            )
    for option, given in (("max-new-tokens", args.max_new_tokens), ("options-column", args.options_column)):
        if given is not None and not host(host_keys).generates:
            what = "is a setting of generated answers, and the answers of this run are classes."
            problems.append(Problem(f"--{option}", what, "Leave it out."))
    if args.test_set and not args.scorer:
        problems.append(
            Problem("--test-set", "needs a scorer.", "Add `--scorer NAME`; `cl-plugins list scorers` shows them.")
        )
    if problems:
        raise RecipeError(problems)
    changes: dict[str, Any] = {}
    if args.scorer:
        changes["scorer"] = _checked_scorer(args.scorer)
    if args.max_new_tokens:
        changes["max_new_tokens"] = args.max_new_tokens
    if args.options_column:
        changes["options_column"] = args.options_column
    stream = config.stream
    if args.test_set:
        taken = (*names, *(probe.name for probe in config.eval.probes))
        new = _new_task(args.test_set, taken, changes)
        stream, wanted = dataclasses.replace(stream, tasks=(*stream.tasks, new)), [new.name]
    else:
        wanted = args.task or [task.name for task in stream.tasks if task.test]
        tasks = tuple(dataclasses.replace(t, **changes) if t.name in wanted else t for t in stream.tasks)
        stream = dataclasses.replace(stream, tasks=tasks)
    used = [data for name in wanted for data in stream.task(name).test]
    problems = [problem for name in used for problem in host(host_keys).data_set(name, host_keys).problems()]
    if problems:
        raise RecipeError(problems)
    settings = config.block.eval
    if args.max_items is not None:
        settings = dataclasses.replace(settings, max_items=args.max_items)
    if args.backend is not None and args.backend != settings.backend:
        settings = dataclasses.replace(settings, backend=args.backend, backend_options={})
    return dataclasses.replace(config, stream=stream, block=dataclasses.replace(config.block, eval=settings)), wanted


def _check_backend(host_keys: dict[str, Any], config: CLConfig) -> None:
    from ..methods.registry import get_method
    from ..run.backends import backend_problems
    from .hosts import host

    own = host(host_keys)
    facts = own.facts(own.looking_keys(host_keys), config.stream)
    method = get_method(config.method)(config.options)
    problems = backend_problems(own, config, method, facts, "--backend")
    if problems:
        raise RecipeError(problems)


def _checked_scorer(name: str) -> str:
    from ..evaluation.scorers import get_scorer

    get_scorer(name, where="--scorer")
    return name


def _new_task(test_set: str, taken: tuple[str, ...], changes: dict[str, Any]) -> Task:
    """A task that only tests, under a separate name."""
    import re

    from ..streams import Task

    data = tuple(part.strip() for part in test_set.split(",") if part.strip())
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", "_".join(data)).strip("._-") or "test"
    if Task(name=name).name_problems(""):
        name = f"test_{name}"
    while name in taken:
        name += "_new"
    return Task(name=name, test=data, **changes)


def _recorded(root: Path, row: str, task: str, score: dict[str, Any]) -> float | None:
    """The score that the run itself wrote for the same row, task, scorer and number of items."""
    from ..evaluation.items import TaskScore

    path = root / "predictions" / row / f"{task}.score.json"
    if not path.is_file():
        return None
    own = TaskScore.read(path)
    return own.score if (own.scorer, own.n) == (score["scorer"], score["n"]) else None


def show_matrix(value: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Write the report of all rows, and print its table."""
    from ..base.files import write_bytes
    from ..report import write_report
    from . import output

    if as_json:
        write_report(out, write_bytes)
        output.print_json(value)
    else:
        output.show_report(out)


def show(value: dict[str, Any], out: Path) -> None:
    """Print scores for people."""
    from ..report import tables, text
    from ..run.evaluation_note import told
    from . import output

    learned = value["learned"]
    shown = output.names(learned, " → ", f"{learned[-1]}, the last of {len(learned)} tasks")
    output.emit(output.bold(f"after {shown}"))
    output.emit()
    rows = []
    for task, score in value["scores"].items():
        entries = [
            task,
            score["scorer"],
            text.number(score["score"]),
            text.interval(tuple(score["interval"])),
            str(score["n"]),
        ]
        rows.append(tuple(tables.Entry(entry) for entry in [*entries, text.number(value["in_the_run"][task])]))
    output.numbers(
        tables.Table(("task", "scorer", "score", "95 % interval", "items", "in the run"), tuple(rows), left=2)
    )
    output.emit()
    if value["other_data"]:
        output.emit(told(value["other_data"]))
    output.emit(f"predictions: {out / 'predictions' / value['row']}")
