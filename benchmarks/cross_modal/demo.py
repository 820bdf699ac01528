"""The demo of classifiers on encoders under every recipe and several seeds, then one table and picture by `cl-plugins compare`.

All runs are carried out in this process, as ``cl-plugins run`` does it. A run that is finished is skipped, one that was stopped
goes on. Start it from the root of the repository::

    python -m benchmarks.cross_modal.demo --seeds 1 2 3

A seed decides what is trained, the order of the samples and the memory; the data, and so the order of the classes, are the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.demo.run_all import ROOT, finished


RECIPES = Path("examples/yaml/cross_modal")
DATA = Path("data/cross_modal_demo")
SAVES = Path("saves/cross_modal_compare")
RESULTS = Path("benchmarks/cross_modal/results")
#: Recipes in the order of the table: the method, what it is without, and the others.
ORDER = (
    "crossmodal",
    "no_adapters",
    "contrastive",
    "no_freezing",
    "replay",
    "der",
    "ewc",
    "lwf",
    "seqfull",
    "joint",
)


def run(name: str, seed: int, saves: Path, extra: Sequence[str] = ()) -> Path:
    """Carry out one run; gives its directory.

    Args:
        name: Name of the recipe.
        seed: Its seed.
        saves: Folder of the runs.
        extra: Further words ``key=value``.
    """
    from cl_plugins.cli.recipes import read_recipe
    from cl_plugins.encoders.launch import run_recipe

    out = saves / f"{name}_seed{seed}"
    if not finished(out):
        start = time.monotonic()
        words = [f"seed={seed}", f"output_dir={out}", f"dataset_dir={DATA}", "use_cpu=true", "disable_tqdm=true"]
        run_recipe(read_recipe(RECIPES / f"{name}.yaml", [*words, *extra]))
        print(f"{out}: done after {time.monotonic() - start:.0f} s", flush=True)
    return out


def table(compared: Mapping[str, Any]) -> str:
    """The comparison in Markdown, for the docs.

    Args:
        compared: The content of ``compare.json``.
    """
    groups = {group["label"]: group for group in compared["groups"]}
    seconds: dict[str, list[float]] = {}
    for one in compared["runs"]:
        seconds.setdefault(one["label"], []).append(float(one["seconds"]))
    tasks = compared["tasks"]
    lines = [f"| recipe | last | average | forgetting | {' | '.join(tasks)} | seconds |"]
    lines.append("| --- " * (5 + len(tasks)) + "|")
    for name in ORDER:
        if name not in groups:
            continue
        found = groups[name]["metrics"]
        cells = [_cell(found.get(key)) for key in ("last", "average", "forgetting")]
        own = [one["final"] for one in compared["runs"] if one["label"] == name]
        means = [f"{sum(final[task] for final in own) / len(own):.1f}" for task in tasks]
        times = seconds[name]
        lines.append(f"| `{name}` | {' | '.join([*cells, *means])} | {sum(times) / len(times):.0f} |")
    return "\n".join(lines) + "\n"


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric.get("mean") is None:
        return ""
    half = metric.get("half_width")
    return f"{metric['mean']:.1f}" + (f" ± {half:.1f}" if half is not None else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; the exit code of the comparison."""
    from cl_plugins.cli import main as cl_plugins
    from cl_plugins.crossmodal import demo

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipes", nargs="+", default=list(ORDER), choices=ORDER, metavar="RECIPE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--saves", type=Path, default=SAVES, help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument("extra", nargs="*", metavar="key=value", help="more overrides, given after `--`")
    options = parser.parse_args(argv)
    if not (DATA / "dataset_info.json").is_file():
        demo.write(DATA)
    runs = [
        (name, run(name, seed, options.saves, options.extra)) for seed in options.seeds for name in options.recipes
    ]
    names = [name for name, _ in runs]
    words = ["compare", *(str(out) for _, out in runs), "--names", *names, "--out", str(options.out)]
    code = cl_plugins(words)
    if code == 0:
        compared = json.loads((options.out / "compare.json").read_text(encoding="utf-8"))
        (options.out / "table.md").write_text(table(compared), encoding="utf-8")
    return code


if __name__ == "__main__":
    if Path.cwd() != ROOT:
        sys.exit(f"Start it from {ROOT}.")
    sys.exit(main())
