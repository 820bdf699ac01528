"""``cl-plugins export``: the form of a run's model that ``final/`` does not have."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from ..config import CLConfig

_EPILOG = """\
merged   a plain model for Transformers: each weight is the base's plus all
         updates, summed in fp32 and rounded once to `--dtype`; what rounding
         error is printed, with the smallest error that any rounding could have
adapter  one plain PEFT adapter on the recipe's base (rank-concatenated, exact)
tasks    one plain PEFT adapter per task, and MANIFEST.json, which says what
         each is: the model that answers the task, for methods that are told
         the task at test; else the task's own update, a part of the model

  cl-plugins export RUN --to merged --dtype bf16 --out model_bf16
  cl-plugins export RUN --to adapter --task sur --out adapter_after_sur
  cl-plugins export RUN --to tasks --out adapters
  cl-plugins export RUN --to tasks --vllm --out adapters

vLLM takes no adapter with modules that were trained as a whole, such as a
projector. With `--vllm`, such a module that all adapters share is merged into
a base of its own, DIR/base, and the adapters hold LoRAs only. The command
that starts vLLM is printed.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    from .looking import add_run

    parser.epilog = _EPILOG
    add_run(parser)
    parser.add_argument("--to", choices=("merged", "adapter", "tasks"), required=True, help="which form")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), help="of the merged weights (default: bf16)")
    parser.add_argument(
        "--task", "--after", metavar="NAME", help="the model as it was after this task (default: the latest)"
    )
    parser.add_argument("--vllm", action="store_true", help="adapters that vLLM serves (with --to adapter or tasks)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory")


def run(args: argparse.Namespace) -> int:
    """Export a run's model."""
    from ..base.errors import Problem, RecipeError
    from ..base.logs import set_up
    from ..run.export import QUANTISATION_KEYS, check_empty, export_adapter, export_merged, export_tasks
    from ..run.reopen import check_target
    from ..run.vllm_serving import serve_command
    from . import output
    from .hosts import quiet_host
    from .looking import opened

    if args.to != "merged" and args.dtype:
        fix = "An adapter keeps the precision in which it was trained."
        raise RecipeError(Problem("--dtype", "goes with `--to merged` only.", fix))
    if args.to == "merged" and args.vllm:
        raise RecipeError(Problem("--vllm", "goes with adapters only.", "vLLM serves a merged model as it is."))
    check_target(args.out)
    check_empty(args.out)
    set_up()
    dropped: list[str] = []

    def prepare(host_keys: dict[str, Any], config: CLConfig) -> CLConfig:
        if args.to == "merged":
            dropped.extend(key for key in QUANTISATION_KEYS if host_keys.pop(key, None) is not None)
        return config

    rows: list[tuple[str, str]]
    with (
        quiet_host(),
        opened(
            args.run_dir,
            args.out,
            model=args.model,
            task=args.task,
            prepare=prepare,
            trust_remote_code=args.trust_remote_code,
        ) as (state, carry),
    ):
        tasks = " → ".join(carry.tasks)
        if args.to == "adapter":
            ranks = sorted(set(export_adapter(state, carry, args.out, for_vllm=args.vllm).values()))
            rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
            rows = [("rank", f"{rank}, the sum over the tasks; exact"), ("base", str(state.base_fingerprint["name"]))]
        elif args.to == "tasks":
            found = export_tasks(state, carry, args.out, for_vllm=args.vllm)
            rows = [(a["folder"], f"{' + '.join(a['updates'])}, rank {a['rank']}") for a in found]
            rows.append(
                ("each is", "the model that answers its task" if found[0]["answers"] else "the task's own update")
            )
            rows.append(("base", str(state.base_fingerprint["name"])))
        else:
            error = export_merged(state, carry, args.out, args.dtype or "bf16")
            rows = [
                ("dtype", error.dtype if error.dtype != "none" else args.dtype or "bf16"),
                (
                    "merge error",
                    f"{error.relative:.2e} of the update; the best possible rounding loses {error.best:.2e}",
                ),
                ("the update", f"{error.update:.2e} of the weights"),
            ]
    if args.vllm:
        rows = [row for row in rows if row[0] != "base"] + [("base", _base(args.out))]
        if args.to == "tasks" and not found[0]["answers"]:
            rows.append(("note", "vLLM answers a request with one adapter; `--to adapter` is the model of all tasks"))
    if dropped:
        rows.append(
            ("note", "the run trained on a quantised base; merged into the whole base, answers may differ a little")
        )
    output.emit(output.bold(f"{args.to}, after {tasks}"))
    output.pairs([("in", str(args.out)), *rows])
    if args.vllm:
        output.emit()
        output.emit(" \\\n  ".join(shlex.join(words) for words in serve_command(args.out)))
    return 0


def _base(out: Path) -> str:
    """Which base vLLM is started with, and what was merged into it."""
    from ..records.carry import ModelManifest

    about = ModelManifest.read(out / "MANIFEST.json")
    if about.base_folder is None:
        return f"{about.base.get('name')}; no module was trained as a whole"
    return f"{out / about.base_folder}, with {', '.join(about.base_has or [])}, which all adapters share"
