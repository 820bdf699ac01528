"""``cl-plugins import``: bases and weights that others have published, for recipes and for `evaluate` and `export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.errors import Problem, RecipeError


_EPILOG = """\
  cl-plugins import base llava_med_v1.5 \\
      --vision-tower clip-vit-large-patch14-336 --out models/llava_med

A checkpoint of the original LLaVA in the layout of Transformers; a recipe names
DIR as `model_name_or_path`. Only the two folders are read: the name of the
vision tower in the checkpoint is not used.

  cl-plugins import run mslora_cr.yaml pathvqa=ckpt/pathvqa derm=ckpt/derm \\
      lora_rank=64 --out saves/theirs
  cl-plugins evaluate saves/theirs --matrix --out saves/theirs_tested

The recipe is the one that would have trained them: stream, method, LoRA and
base. TASK=PATH gives the checkpoint of each task: a folder of PEFT's or of
LLaVA's trainer (adapter_config.json, non_lora_trainables.bin), of MCITlib's
experts, or MSLoRA-CR's cl_lora.bin. Other words of the form key=value replace
keys of the recipe. Nothing is written if anything does not fit.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "a base of the original LLaVA in the layout of Transformers"
    base = actions.add_parser("base", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    base.add_argument("source", metavar="FOLDER", type=Path, help="the checkpoint")
    base.add_argument("--vision-tower", metavar="FOLDER", type=Path, required=True, help="the CLIP that it sees with")
    base.add_argument(
        "--tower-weights",
        choices=("folder", "checkpoint"),
        help="whose weights the tower gets (default: as LLaVA's code does)",
    )
    base.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory")
    text = "published weights as a run that `evaluate` and `export` take"
    run = actions.add_parser("run", help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    run.add_argument("recipe", metavar="RECIPE", help="the recipe that would have trained them")
    run.add_argument(
        "overrides", metavar="TASK=PATH", nargs="*", default=[], help="checkpoints, and keys of the recipe"
    )
    run.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory")


def run(args: argparse.Namespace) -> int:
    """Import a base, or weights."""
    from ..run.export import check_empty

    check_empty(args.out)
    return _base(args) if args.action == "base" else _run(args)


def _base(args: argparse.Namespace) -> int:
    from ..published.checkpoints.llava_base import convert_base
    from . import output
    from .hosts import quiet_host

    with quiet_host():
        found = convert_base(args.source, args.vision_tower, args.out, tower_weights=args.tower_weights)
    output.emit(output.bold("base imported"))
    rows, new = found.rows
    output.pairs(
        [
            ("in", str(args.out)),
            ("parameters", f"{found.parameters:,}, {found.dtype}"),
            ("vision tower", f"weights of the {found.tower}"),
            ("vocabulary", f"{rows} rows, {new} of them new"),
            *(("note", note) for note in found.notes),
        ]
    )
    return 0


def _run(args: argparse.Namespace) -> int:
    from ..run.check import check
    from ..run.import_weights import import_run
    from . import output
    from .hosts import host, quiet_host
    from .recipes import read_recipe

    tasks = _task_names(read_recipe(args.recipe))
    given = [
        (word.partition("=")[0], Path(word.partition("=")[2]).expanduser())
        for word in args.overrides
        if _is_task(word, tasks)
    ]
    words = [word for word in args.overrides if not _is_task(word, tasks)]
    recipe = {**read_recipe(args.recipe, words), "output_dir": str(args.out)}
    if not given:
        fix = f"Give the checkpoint of each task, as in `{next(iter(tasks), 'path')}=checkpoints/first`."
        raise RecipeError(Problem("TASK=PATH", f"is missing; the tasks are {', '.join(tasks) or 'not known'}.", fix))
    with quiet_host():
        own = host(recipe)
        checked = check(own, recipe, data=False)
        found = import_run(own, checked, given, args.out)
    output.emit(output.bold(f"imported, after {' → '.join(found.learned)}"))
    apart = [task for task in found.learned if task not in found.given]
    output.pairs(
        [
            ("in", str(args.out)),
            ("method", checked.config.method),
            ("parameters", f"{found.parameters:,} in the update of a task"),
            *(("from", f"{name} {value[:16]}") for name, value in found.files.items()),
            *([("not known", f"the models after {', '.join(apart)}: no checkpoints were given")] if apart else []),
        ]
    )
    output.emit()
    output.emit(f"cl-plugins evaluate {args.out} --matrix --out {args.out}_tested")
    return 0


def _task_names(recipe: dict[str, object]) -> tuple[str, ...]:
    """The tasks of a recipe's stream; none where it cannot be read, which the check of the recipe reports."""
    from ..streams import load_stream

    block = recipe.get("cl")
    spec = block.get("stream") if isinstance(block, dict) else None
    if not isinstance(spec, str | dict):
        return ()
    try:
        return load_stream(spec).task_names
    except RecipeError:
        return ()


def _is_task(word: str, tasks: tuple[str, ...]) -> bool:
    return word.partition("=")[0] in tasks
