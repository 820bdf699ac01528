"""One side of the benchmark in a process of its own: a recipe through LLaMA-Factory's `run_exp`, with stopwatches inside.

``python child.py host keys.json times.json`` or ``python child.py ours keys.json times.json``. Both sides write the seconds that
pass, and the seconds of processor time that they spend, on answering (reading pictures, collating, generating, decoding
text), apart from starting, tokenising and scoring.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Stopwatch:
    """Seconds on the clock and of processor time inside some functions."""

    def __init__(self) -> None:
        self.clock = self.processor = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            clock, processor = time.monotonic(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.clock += time.monotonic() - clock
                self.processor += time.process_time() - processor

        return wrapper


def host(keys: dict[str, Any]) -> tuple[Stopwatch, Stopwatch]:
    """``do_predict`` with ``predict_with_generate``; its metrics (BLEU, ROUGE) are timed apart."""
    from llamafactory.train.sft import workflow
    from llamafactory.train.tuner import run_exp

    whole, scoring = Stopwatch(), Stopwatch()
    workflow.CustomSeq2SeqTrainer.predict = whole.around(workflow.CustomSeq2SeqTrainer.predict)
    workflow.ComputeSimilarity.__call__ = scoring.around(workflow.ComputeSimilarity.__call__)
    run_exp(keys)
    whole.clock -= scoring.clock
    whole.processor -= scoring.processor
    return whole, scoring


def ours(keys: dict[str, Any]) -> tuple[Stopwatch, Stopwatch]:
    """The zero-shot step of a recipe; `cl.stop_after` ends the run behind it."""
    from llamafactory.train.tuner import run_exp

    import cl_plugins.run.evaluate as step

    answering, scoring = Stopwatch(), Stopwatch()
    step.answer = answering.around(step.answer)
    step.score_items = scoring.around(step.score_items)
    run_exp(keys)
    return answering, scoring


if __name__ == "__main__":
    import torch

    side, recipe, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    answered, scored = {"host": host, "ours": ours}[side](recipe)
    times = {"answering": vars(answered), "scoring": vars(scored), "threads": torch.get_num_threads()}
    out.write_text(json.dumps(times))
