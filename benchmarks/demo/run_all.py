"""Every method over several seeds on the demo stream, then one table and picture.

Each run is an ordinary ``llamafactory-cli train`` in a process of its own. A run that is finished is skipped, one that
was stopped goes on, so the same command can be given again at any time. Start it from the root of the repository::

    python benchmarks/demo/run_all.py --methods inclora seqlora --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = Path("examples/yaml/demo")
SAVES = Path("saves/demo_compare")
RESULTS = Path("benchmarks/demo/results")

#: Every recipe of the demo, by its file's name.
METHODS = sorted(path.stem for path in (ROOT / RECIPES).glob("*.yaml"))


@dataclass(frozen=True)
class Job:
    """One run: a method and a seed.

    Attributes:
        method: Name of the recipe, which is that of its method where it changes nothing else.
        seed: Seed of the run.
        saves: Folder of the runs.
        recipes: How the path of the recipe begins, before the method's name.
    """

    method: str
    seed: int
    saves: Path = SAVES
    recipes: str = f"{RECIPES}/"

    @property
    def output_dir(self) -> Path:
        """Where the run lies, relative to the root of the repository."""
        return self.saves / f"{self.method}_seed{self.seed}"

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.saves / f"{self.method}_seed{self.seed}.log"

    def command(self, extra: Sequence[str] = ()) -> list[str]:
        """The command line of the run."""
        recipe = f"{self.recipes}{self.method}.yaml"
        return ["llamafactory-cli", "train", recipe, f"seed={self.seed}", f"output_dir={self.output_dir}", *extra]


def finished(output_dir: Path) -> bool:
    """Whether the run's journal names its last step."""
    journal = output_dir / "journal.jsonl"
    lines = journal.read_text(encoding="utf-8").rpartition("\n")[0] if journal.is_file() else ""
    return '"step": "finish"' in lines


def jobs(methods: Sequence[str], seeds: Sequence[int], saves: Path) -> Iterator[Job]:
    """All runs, seed by seed, so that what is there after a while can be compared already."""
    for seed in seeds:
        for method in methods:
            yield Job(method, seed, saves)


def run(job: Job, extra: Sequence[str]) -> bool:
    """Carry out one run; False if it failed."""
    if finished(ROOT / job.output_dir):
        print(f"{job.output_dir}: finished before", flush=True)
        return True
    (ROOT / job.saves).mkdir(parents=True, exist_ok=True)
    print(f"{job.output_dir}: running, prints into {job.log}", flush=True)
    start = time.monotonic()
    with (ROOT / job.log).open("ab") as log:
        code = subprocess.run(
            job.command(extra), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
    done = code == 0 and finished(ROOT / job.output_dir)
    state = "done" if done else f"FAILED (exit code {code}, see {job.log})"
    print(f"{job.output_dir}: {state} after {time.monotonic() - start:.0f} s", flush=True)
    return done


def compare(found: Sequence[Job], out: Path, *more: str) -> int:
    """Write the table and picture over the runs that are finished; the exit code of the command."""
    command = ["cl-plugins", "compare", *(str(job.output_dir) for job in found), "--out", str(out), *more]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 1 if a run failed or the comparison could not be written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--saves", type=Path, default=SAVES, help="folder of the runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    parser.add_argument("extra", nargs="*", metavar="key=value", help="more overrides, given after `--`")
    options = parser.parse_args(argv)

    wanted = list(jobs(options.methods, options.seeds, options.saves))
    if options.list:
        for job in wanted:
            print(" ".join(job.command(options.extra)))
        return 0
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    good = [job for job in wanted if run(job, options.extra)]
    failed = len(wanted) - len(good)
    code = compare(good, options.out) if good else 1
    if failed:
        print(f"{failed} of {len(wanted)} runs failed; the results cover the others.", flush=True)
    return 1 if failed or code else 0


if __name__ == "__main__":
    sys.exit(main())
