"""``python -m cl_plugins.data.demo``: write the demo stream and its base."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...base.errors import ClPluginsError
from .stream import build


def main(argv: list[str] | None = None) -> int:
    """Write the demo folder and say where it is.

    Args:
        argv: Arguments without the program name; the process's own if None.

    Returns:
        The exit code: 0, or 1 with the problem on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m cl_plugins.data.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_data"), help="folder to write (default: ./demo_data)")
    parser.add_argument("--seed", type=int, default=0, help="which crops are drawn (default: 0)")
    arguments = parser.parse_args(argv)
    try:
        folder = build(arguments.out, arguments.seed)
    except ClPluginsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"The demo stream is in {folder} (stream.yaml, dataset_info.json, base/).\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
