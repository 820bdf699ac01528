"""`llamafactory-cli train` with the processor seconds of every kind of step: the process that `run.py` starts.

    python benchmarks/growth/child.py recipe.yaml seconds.json

The steps run as they are; the functions of the run that carry them out are called through a clock. Processor time says what
a stream costs also on a machine that is busy with other things.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


KINDS = ("train", "evaluate", "consolidate", "finish")


class Clock:
    """Processor seconds of this process by what they were spent on: ``loading``, the kinds of steps, ``between``, ``report``."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("loading", *KINDS, "between", "report"), 0.0)
        self._ended: float | None = None  # the latest step

    def of(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose time counts as that of a kind of step."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            self.seconds["loading" if self._ended is None else "between"] += begun - (self._ended or 0.0)
            try:
                return function(*args, **kwargs)
            finally:
                self._ended = time.process_time()
                self.seconds[kind] += self._ended - begun

        return timed

    def total(self) -> dict[str, float]:
        """The seconds so far; those since the last step are the report's."""
        now = time.process_time()
        return {**self.seconds, "report": now - (self._ended or 0.0)}


def main() -> None:
    """Carry out the recipe and write the seconds, and under ``done`` when it was done, in seconds since 1970."""
    recipe, out = sys.argv[1:]
    clock = Clock()
    import torch  # noqa: F401  # activates the package, as every start does
    from llamafactory import cli

    from cl_plugins.run import runner

    for kind in KINDS:
        setattr(runner, kind, clock.of(kind, getattr(runner, kind)))
    sys.argv = ["llamafactory-cli", "train", recipe]
    cli.main()
    Path(out).write_text(json.dumps({**clock.total(), "done": time.time()}))


if __name__ == "__main__":
    main()
