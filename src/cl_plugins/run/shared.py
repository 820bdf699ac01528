"""Several machines work in one directory: every process reads the carry and the parts of answers that others wrote."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path

from ..base import ranks
from ..base.errors import Problem, RunStateError
from ..base.files import write_bytes


PROBE = ".shared"
#: Seconds that a network file system may take to show a new file; NFS keeps the absence of a name for up to a minute.
PATIENCE = 60.0
_PAUSE = 0.5


def several_machines() -> bool:
    """Whether the processes of this run may be on several machines.

    torchrun says how many of its processes are on each; where nothing is said, as under Ray, they may be anywhere.
    """
    return ranks.world_size() > 1 and os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE")


def check(root: Path, patience: float = PATIENCE) -> None:
    """Make sure that all processes see the same directory: rank 0 writes a file, and the others look for it.

    Args:
        root: The output directory.
        patience: Seconds to wait for the file.

    Raises:
        RunStateError: On every rank, if a process does not see what rank 0 has written.
    """
    if not several_machines():
        return
    here = f"rank {ranks.rank()} on {socket.gethostname()}"
    path = root / PROBE
    word, writer = ranks.on_main(lambda: (_write(path), here))
    seen = _sees(path, word, patience)
    blind = [who for who, sees in ranks.gather((here, seen)) if not sees]
    ranks.on_main(lambda: path.unlink(missing_ok=True))
    if blind:
        what = f"is not shared: {', '.join(blind)} cannot read there what {writer} has written."
        fix = "Use a folder on a file system that all machines share, under the same path."
        raise RunStateError(Problem(f"output_dir: {root}", what, fix))


def _write(path: Path) -> str:
    word = uuid.uuid4().hex
    write_bytes(path, word.encode("ascii"))
    return word


def _sees(path: Path, word: str, patience: float) -> bool:
    """Whether a file has this content, now or in a while."""
    end = time.monotonic() + patience
    while True:
        try:
            os.listdir(path.parent)  # some network file systems look again only then
            if path.read_text(encoding="ascii") == word:
                return True
        except (OSError, ValueError):
            pass
        if time.monotonic() >= end:
            return False
        time.sleep(_PAUSE)
