"""LLaMA-Factory's trainer with what a stream needs: penalties, guards, and a resume that is exact.

Imports LLaMA-Factory at the top; import this module only when a task is about to be trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from transformers import TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..base import ranks
from ..base.errors import Problem, TrainingError
from ..training.extras import load_extras, only_extras, save_extras
from ..training.guards import check_loss
from ..training.mixin import ContinualTrainerMixin
from .checkpoints import loss_sums, mark_complete, remove_older


class _AlreadyTrained(Exception):
    """The checkpoint that was resumed is of the last step."""


class _EndOfTraining(TrainerCallback):  # type: ignore[misc]
    """Trainer checks ``max_steps`` after a step only, so that resuming at the end would train one step too many."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            raise _AlreadyTrained


class ContinualTrainer(ContinualTrainerMixin, CustomSeq2SeqTrainer):
    """Trains one task.

    Args:
        task: Name of the task, for the messages.
        recipe: What the training depends on, as one hash; it goes into the marks of the checkpoints.
        **kwargs: As for the host's trainer, and ``terms``.
    """

    def __init__(self, *, task: str = "", recipe: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._task, self._recipe = task, recipe
        self._loss_sum = 0.0
        self.add_callback(_EndOfTraining())

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> TrainOutput:
        """Train the task, or the remaining part of it; the mean loss covers the steps before a checkpoint too.

        Args:
            resume_from_checkpoint: A whole checkpoint.
            **kwargs: As for the host's trainer.
        """
        if resume_from_checkpoint is not None:
            self._loss_sum = loss_sums(Path(resume_from_checkpoint))[self.args.process_index]
        try:
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except _AlreadyTrained:
            self.is_in_train = False
            if getattr(self, "neftune_noise_alpha", None) is not None:
                self._deactivate_neftune(self.model)
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            result = TrainOutput(self.state.global_step, 0.0, {"epoch": self.state.epoch})
        sums = ranks.gather(self._loss_sum)
        mean = sum(sums) / len(sums) / max(self.state.global_step, 1)
        return TrainOutput(result.global_step, mean, {**result.metrics, "train_loss": mean})

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch.

        Raises:
            TrainingError: If the loss is not finite.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        value = float(loss)
        check_loss(f"task '{self._task}'", value, self.state.global_step + 1)
        self._loss_sum += value
        return loss

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save, say that it is whole, and only then delete older ones: there is always one to resume from."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        sums = ranks.gather(self._loss_sum)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir)
            save_extras(self.accelerator.unwrap_model(self.model), folder / f"checkpoint-{self.state.global_step}")
            mark_complete(folder / f"checkpoint-{self.state.global_step}", sums, self._recipe)
            remove_older(folder, limit)
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load both; with several processes on the CPU its device is "cpu:0", a place that `torch.load` does not know."""
        if self.args.device.type == "cpu":
            self.args.__dict__["_setup_devices"] = torch.device("cpu")  # the cached value behind `device`
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights of a checkpoint, all of them, and check that they arrived.

        A full checkpoint is saved under the hub's names; Trainer reads it with ``strict=False``, finds nothing, and
        would continue from the initial weights of the task.
        """
        target = self.model if model is None else model
        if hasattr(target, "peft_config"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            load_extras(target, Path(resume_from_checkpoint))
            self._compare_adapter(target, Path(resume_from_checkpoint))
            return
        if only_extras(target):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        loaded = type(target).from_pretrained(resume_from_checkpoint, dtype=torch.float32)
        values = dict(loaded.named_parameters())
        with torch.no_grad():
            for name, parameter in target.named_parameters():
                parameter.copy_(values[name])

    def _compare_adapter(self, model: Any, checkpoint: Path) -> None:
        from peft import get_peft_model_state_dict
        from safetensors.torch import load_file

        saved = load_file(checkpoint / "adapter_model.safetensors")
        now = get_peft_model_state_dict(model)
        wrong = [
            n for n in saved if n not in now or not torch.equal(saved[n], now[n].detach().cpu().to(saved[n].dtype))
        ]
        if wrong or set(now) != set(saved):
            what = f"{len(wrong) or len(set(now) ^ set(saved))} tensors differ from {checkpoint.name} after it was loaded."
            raise TrainingError(Problem(f"task '{self._task}'", what, f"Delete {checkpoint} and run again."))
