"""Real pretrained models over small streams: every method and seed, then one table.

    python -m benchmarks.real.run_all text                        # SmolLM2-135M, four text tasks
    python -m benchmarks.real.run_all pictures                    # DINOv2-small with SmolLM2-135M, the demo's tasks
    python -m benchmarks.real.run_all sounds                      # Whisper tiny with SmolLM2-135M, computed beeps
    python -m benchmarks.real.run_all text --jobs 16 -- use_cpu=false   # 16 runs at a time on one card

Models and texts are made first, where they are not there (`real_data/`). Each run is an ordinary ``llamafactory-cli train`` in a process
of its own. A run that is finished is skipped, one that was stopped goes on, so the same command can be given again at any time. Start it
from the root of the repository.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.demo.run_all import ROOT, Job, compare, run
from benchmarks.gpu.records import cards
from benchmarks.real import beeps, smollm2, sounds, texts, vlm
from cl_plugins.base.errors import DataError, Problem
from cl_plugins.base.files import write_json
from cl_plugins.base.versions import installed_versions


DATA = Path("real_data")
RECIPES = "benchmarks/real/recipes/"
RESULTS = Path("benchmarks/real/results")
VERSIONS = ("torch", "transformers", "peft", "llamafactory", "gguf", "onnx")
#: Of the small text stream: training samples and test items per task, words per text.
TRAIN, TEST, WORDS = 64, 60, 16


@dataclass(frozen=True)
class Benchmark:
    """A model, a stream and the recipes for it.

    Attributes:
        name: First part of the recipes' names.
        methods: Recipes, in the order in which they run.
        seeds: Seeds of the runs.
    """

    name: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def saves(self) -> Path:
        """Folder of the runs."""
        return Path(f"saves/real_{self.name}")


BENCHMARKS = {
    "text": Benchmark("text", ("seqlora", "replay", "olora", "inclora", "ewc", "multitask")),
    "pictures": Benchmark("pictures", ("seqlora", "replay", "olora", "inclora", "multitask")),
    "sounds": Benchmark("sounds", ("seqlora", "replay", "inclora"), seeds=(0,)),
}


def prepare(name: str, wheels: Path, clone: Path) -> dict[str, Any]:
    """Make the model and the data of a benchmark, where they are not there.

    Args:
        name: ``text``, ``pictures`` or ``sounds``.
        wheels: Folder of wheels.
        clone: LFPT5's repository; cloned there if it does not exist.

    Returns:
        What is known of the data, for the results.

    Raises:
        DataError: A download failed, a file is not the expected one, or a package is missing.
    """
    if name == "sounds":
        if find_spec("torchcodec") is None:
            raise DataError(Problem("torchcodec", "is not installed.", "`pip install torchcodec`; it needs FFmpeg."))
        if not (DATA / "sounds" / "config.json").is_file():
            sounds.main(["--out", str(DATA / "sounds"), "--wheels", str(wheels)])
        return beeps.facts_of(DATA / "beeps")
    if name == "pictures":
        if not (DATA / "vlm" / "config.json").is_file():
            vlm.main(["--out", str(DATA / "vlm"), "--wheels", str(wheels)])
        return {"data": "demo_data"}
    if not (DATA / "smollm2" / "config.json").is_file():
        smollm2.main(["--out", str(DATA / "smollm2"), "--wheels", str(wheels)])
    return texts.build(texts.clone(clone), DATA / "text", train=TRAIN, test=TEST, words=WORDS)


def machine(jobs: int, overrides: Sequence[str]) -> str:
    """The machine in words, with its card if the runs use it.

    Args:
        jobs: Runs at a time.
        overrides: Of the recipes.
    """
    parts = [
        f"{platform.system()} {platform.machine()}",
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads a process",
    ]
    if jobs > 1:
        parts.append(f"{jobs} runs at a time")
    used = cards()[:1] if "use_cpu=false" in overrides else []  # the recipes say `use_cpu: true`
    return ", ".join(parts + [card["card"] for card in used])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 1 if a run failed or the comparison could not be written."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real.run_all", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("benchmark", choices=sorted(BENCHMARKS))
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="default: all recipes")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="default: those of the committed results")
    parser.add_argument("--wheels", type=Path, default=DATA / "wheels", help="folder of wheels (default: %(default)s)")
    parser.add_argument("--texts", type=Path, default=DATA / "texts", help="LFPT5's clone (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.epilog = "More overrides key=value are given after `--`."
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    options.extra = words[cut + 1 :]
    benchmark = BENCHMARKS[options.benchmark]
    wrong = sorted({*(options.methods or ())} - {*benchmark.methods})
    if options.jobs < 1:
        parser.error("--jobs needs a number from 1")
    if wrong:
        parser.error(f"unknown recipes {', '.join(wrong)}; there are {', '.join(benchmark.methods)}")
    recipes = f"{RECIPES}{benchmark.name}_"
    wanted = [
        Job(method, seed, benchmark.saves, recipes)
        for seed in options.seeds or benchmark.seeds
        for method in options.methods or benchmark.methods
    ]
    if options.list:
        for job in wanted:
            sys.stdout.write(" ".join(job.command(options.extra)) + "\n")
        return 0
    os.chdir(ROOT)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        facts = prepare(benchmark.name, options.wheels, options.texts)
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda job: run(job, options.extra), wanted))
    good = [job for job, well in zip(wanted, done, strict=True) if well]
    out = options.out / benchmark.name
    code = 1
    if {"seqlora"} < {job.method for job in good}:
        code = compare(good, out, "--baseline", "seqlora")
    if good and code:  # one method, or runs of seqlora that differ in more than their seed
        code = compare(good, out)
    facts |= {
        "machine": machine(options.jobs, options.extra),
        "overrides": options.extra,
        "versions": installed_versions(VERSIONS),
        "runs": [job.output_dir.name for job in good],
    }
    if good:
        write_json(out / "facts.json", facts)
        for job in good:
            (out / "matrices").mkdir(exist_ok=True)
            shutil.copyfile(job.output_dir / "matrix.json", out / "matrices" / f"{job.output_dir.name}.json")
    return 1 if len(good) < len(wanted) or code else 0


if __name__ == "__main__":
    raise SystemExit(main())
