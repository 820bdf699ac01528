"""What a training of `benchmarks.gpu` is timed with: the card is synchronised at the end of every optimizer step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any


def clock(warm: int) -> Any:
    """A trainer callback that notes every training: its steps, its peak of memory and its losses.

    Args:
        warm: Steps at the beginning that do not count.
    """
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.trainings: list[dict[str, Any]] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            reset_peak()
            self.trainings.append({"began": now(), "ends": [], "losses": []})

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.trainings[-1]["ends"].append(now())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                self.trainings[-1]["losses"].append(float(logs["loss"]))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.trainings[-1] |= {"ended": now(), "peak_bytes": peak()}

        def found(self) -> dict[str, Any]:
            """Steps per second, peak and losses by training; seconds from the end of one to the begin of the next."""
            whole = [t for t in self.trainings if "ended" in t]
            each = [
                {"steps_per_second": per_second(t["ends"], warm), "peak_bytes": t["peak_bytes"], "losses": t["losses"]}
                for t in whole
            ]
            between = [b["began"] - a["ended"] for a, b in pairwise(whole)]
            return {"trainings": each, "between_seconds": between}

    return Clock()


def per_second(ends: Sequence[float], warm: int) -> float:
    """Optimizer steps per second: one over the median time from one step's end to the next.

    Args:
        ends: When each step ended, in seconds.
        warm: Steps at the beginning that do not count.

    Raises:
        ValueError: If no two steps are left.
    """
    counted = ends[warm:]
    if len(counted) < 2:
        raise ValueError(f"{len(ends)} steps are too few: the first {warm} do not count")
    return 1 / statistics.median(b - a for a, b in pairwise(counted))


def now() -> float:
    """Seconds, when the card has done what it was told to do."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def peak() -> int:
    """Largest memory use in bytes: allocated on the card since `reset_peak`, or resident in the life of the process."""
    from cl_plugins.run.record import peak_memory

    return peak_memory()


def reset_peak() -> None:
    """Begin to look for the peak anew, on a card."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
