"""Resuming a training exactly: checkpoints that say that they are whole, and the mean loss over all steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..base import ranks
from .checkpoints import loss_sums, mark_complete, remove_older
from .extras import save_extras
from .guards import check_loss
from .mixin import ContinualTrainerMixin


class _AlreadyTrained(Exception):
    """The checkpoint that was resumed is of the last step."""


class _EndOfTraining(TrainerCallback):  # type: ignore[misc]
    """Trainer checks ``max_steps`` after a step only, so that resuming at the end would train one step too many."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            raise _AlreadyTrained


class ExactTrainerMixin(ContinualTrainerMixin):
    """Trains one task; put before a `transformers.Trainer` or a subclass.

    Args:
        task: Name of the task, for the messages.
        recipe: What the training depends on, as one hash; it goes into the marks of the checkpoints.
        **kwargs: As for the trainer, and ``terms``.
    """

    def __init__(self, *, task: str = "", recipe: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._task, self._recipe = task, recipe
        self._loss_sum = 0.0
        cast(Any, self).add_callback(_EndOfTraining())

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> TrainOutput:
        """Train the task, or the remaining part of it; the mean loss covers the steps before a checkpoint too.

        Args:
            resume_from_checkpoint: A whole checkpoint.
            **kwargs: As for the trainer.
        """
        base, me = cast(Any, super()), cast(Any, self)
        if resume_from_checkpoint is not None:
            self._loss_sum = loss_sums(Path(resume_from_checkpoint))[me.args.process_index]
        try:
            result = base.train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except _AlreadyTrained:
            me.is_in_train = False
            if getattr(self, "neftune_noise_alpha", None) is not None:
                me._deactivate_neftune(me.model)
            me.callback_handler.on_train_end(me.args, me.state, me.control)
            result = TrainOutput(me.state.global_step, 0.0, {"epoch": me.state.epoch})
        sums = ranks.gather(self._loss_sum)
        mean = sum(sums) / len(sums) / max(me.state.global_step, 1)
        return TrainOutput(result.global_step, mean, {**result.metrics, "train_loss": mean})

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch.

        Raises:
            TrainingError: If the loss is not finite.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        value = float(loss)
        check_loss(f"task '{self._task}'", value, cast(Any, self).state.global_step + 1)
        self._loss_sum += value
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save, say that it is whole, and only then delete older ones: there is always one to resume from."""
        base, me = cast(Any, super()), cast(Any, self)
        limit, me.args.save_total_limit = me.args.save_total_limit, None
        try:
            base._save_checkpoint(*args, **kwargs)
        finally:
            me.args.save_total_limit = limit
        sums = ranks.gather(self._loss_sum)
        me.accelerator.wait_for_everyone()
        if me.args.should_save:
            folder = Path(me.args.output_dir)
            save_extras(me.accelerator.unwrap_model(me.model), folder / f"checkpoint-{me.state.global_step}")
            mark_complete(folder / f"checkpoint-{me.state.global_step}", sums, self._recipe)
            remove_older(folder, limit)
        me.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both; with several processes on the CPU its device is "cpu:0", a place that `torch.load` does not know."""
        base, me = cast(Any, super()), cast(Any, self)
        if me.args.device.type == "cpu":
            me.args.__dict__["_setup_devices"] = torch.device("cpu")  # the cached value behind `device`
        base._load_optimizer_and_scheduler(checkpoint)
