"""Pretrain the demo base and write it with its README and NOTICE: ``python -m benchmarks.demo_base --out DIR``."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.demo_base.model import make_processor
from benchmarks.demo_base.notes import write_notes
from benchmarks.demo_base.pretrain import pretrain


def main(argv: list[str] | None = None) -> int:
    """Build the base and write it with its README and NOTICE.

    Args:
        argv: Arguments without the program name; the process's own if None.

    Returns:
        The exit code.
    """
    import torch

    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_base", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="bits depend on it (default: 2)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.use_deterministic_algorithms(True)
    model, tokenizer, facts = pretrain(seed=arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(arguments.out)
    make_processor(tokenizer).save_pretrained(arguments.out)
    facts |= {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": arguments.seed,
        "threads": arguments.threads,
        "machine": f"{platform.system()} {platform.machine()}, CPU",
        "versions": {
            name: version(name)
            for name in ("torch", "transformers", "tokenizers", "numpy", "scikit-image", "scikit-learn")
        },
    }
    write_notes(arguments.out, facts)
    sys.stdout.write(f"The base is in {arguments.out} ({facts['parameters']} parameters, {facts['seconds']} s).\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
