"""What recipes would read now, as JSON for `cl-plugins sweep`: ``python -m cl_plugins.cli.reads``, in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Read ``{"recipes", "hashes"}`` from standard input and print what `read_all` finds, in one line."""
    from ..sweep.reads import read_all
    from .hosts import host, quiet_host

    asked = json.load(sys.stdin)
    with quiet_host():
        found = read_all(asked["recipes"], Path(asked["hashes"]), host)
    sys.stdout.write(f"\n{json.dumps(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
