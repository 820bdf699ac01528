"""Experiment trackers: one run for the whole stream, steps counted through, metrics prefixed with the task."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState


class StreamTracker(TrainerCallback):  # type: ignore[misc]
    """Passes a stream's logs on to the trackers that the recipe names in ``report_to``.

    The trackers are made once and see one long training. Without this, every task's trainer would open a run of its
    own and start again at step 0.

    Args:
        report_to: Names as in the recipe.
        training_args: The host's training arguments of any task.
        root: The run's output directory.
    """

    def __init__(self, report_to: list[str], training_args: Any, root: Path) -> None:
        from transformers.integrations import get_reporting_integration_callbacks

        self._trackers = [tracker() for tracker in get_reporting_integration_callbacks(report_to)]
        self._args = copy.copy(training_args)
        self._args.output_dir = str(root)
        if getattr(self._args, "logging_dir", None):
            self._args.logging_dir = str(root / "trackers")
        self._open = False
        self._task = ""
        self._offset = 0
        self._state: Any = TrainerState()
        self._last: tuple[Any, Any] | None = None

    def begin(self, task: str, offset: int) -> None:
        """The next logs belong to ``task``; this number of optimizer steps came before it."""
        self._task, self._offset = task, offset

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the trackers, once."""
        self._last = (state, control)
        if not self._open:
            self._open = True
            for tracker in self._trackers:
                tracker.on_train_begin(self._args, self._shifted(state), control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Pass a log on, with the task in front of every name."""
        named = {f"{self._task}/{name}": value for name, value in (logs or {}).items()}
        for tracker in self._trackers:
            tracker.on_log(self._args, self._shifted(state), control, logs=named, **kwargs)

    def score(self, row: str, task: str, value: float) -> None:
        """Log one cell of the accuracy matrix."""
        if self._open and self._last is not None:
            state, control = self._last
            for tracker in self._trackers:
                tracker.on_log(
                    self._args,
                    self._shifted(state),
                    control,
                    logs={f"score/{task}": value, f"score/{row}/{task}": value},
                )

    def close(self) -> None:
        """Close the trackers at the end of the stream."""
        if self._open:
            state, control = self._last or (self._state, TrainerControl())
            for tracker in self._trackers:
                tracker.on_train_end(self._args, self._shifted(state), control)
            self._open = False

    def _shifted(self, state: Any) -> Any:
        shifted = copy.copy(state)
        shifted.global_step = state.global_step + self._offset
        return shifted
