"""LLaMA-Factory's trainer with what a stream needs: penalties, guards, and a resume that is exact.

Imports LLaMA-Factory at the top; import this module only when a task is about to be trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from ..base import ranks
from ..base.errors import Problem, TrainingError
from ..base.logs import logger
from ..training.extras import load_extras, only_extras, save_extras
from ..training.guards import check_loss
from ..training.mixin import ContinualTrainerMixin
from .checkpoints import loss_sums, mark_complete, remove_older


class _AlreadyTrained(Exception):
    """The checkpoint that was resumed is of the last step."""


class _EndOfTraining(TrainerCallback):  # type: ignore[misc]
    """Trainer looks for the end after a step only, so that resuming at the end would train one step too many.

    Args:
        stopping: The callbacks that end a training early.
    """

    def __init__(self, stopping: list[EarlyStoppingCallback]) -> None:
        self._stopping = stopping

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The best checkpoint by its number: the run may have been moved since it was written."""
        if state.best_global_step and state.best_model_checkpoint is not None:
            state.best_model_checkpoint = str(checkpoint_folder(args, state.best_global_step))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        over = any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in self._stopping)
        if state.global_step >= state.max_steps or over:
            raise _AlreadyTrained


def checkpoint_folder(args: Any, step: int) -> Path:
    """Where the trainer keeps a checkpoint."""
    return Path(args.output_dir) / f"checkpoint-{step}"


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
        self._limit: int | None = None
        self._loss_sum = 0.0
        callbacks = self.callback_handler.callbacks
        self._stopping = [one for one in callbacks if isinstance(one, EarlyStoppingCallback)]
        self.add_callback(_EndOfTraining(self._stopping))

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> TrainOutput:
        """Train the task, or the remaining part of it; the mean loss covers the steps before a checkpoint too.

        Args:
            resume_from_checkpoint: A whole checkpoint.
            **kwargs: As for the host's trainer.
        """
        if resume_from_checkpoint is not None:
            self._loss_sum = loss_sums(Path(resume_from_checkpoint))[self.args.process_index]
            self._go_on_waiting(Path(resume_from_checkpoint))
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # `_save_checkpoint` deletes older ones
        self._limit = limit
        try:
            result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        except _AlreadyTrained:
            self.is_in_train = False
            if getattr(self, "neftune_noise_alpha", None) is not None:
                self._deactivate_neftune(self.model)
            if self.args.load_best_model_at_end and self.state.best_global_step:
                self._load_best_model()
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            result = TrainOutput(self.state.global_step, 0.0, {"epoch": self.state.epoch})
        finally:
            self.args.save_total_limit = limit
        sums = ranks.gather(self._loss_sum)
        mean = sum(sums) / len(sums) / max(self.state.global_step, 1)
        return TrainOutput(result.global_step, mean, {**result.metrics, "train_loss": mean})

    def _go_on_waiting(self, checkpoint: Path) -> None:
        """How long the validation loss had not improved when a checkpoint was written."""
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        kept = state.get("stateful_callbacks", {}).get(EarlyStoppingCallback.__name__, {})
        for one in self._stopping:
            for name, value in (kept.get("attributes", {}) if isinstance(kept, dict) else {}).items():
                setattr(one, name, value)

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        """Whether the validation loss is the lowest; if its weights may be wanted at the end, they are saved at once.

        Trainer saves at ``save_steps`` and takes the best of these. A training that is stopped here is saved as well.
        """
        best: bool = super()._determine_best_metric(metrics, trial)
        if best and self.args.load_best_model_at_end:
            self.control.should_save = True
        return best or bool(self.control.should_training_stop)

    def _load_best_model(self) -> None:
        """Load the weights with the lowest validation loss as those of a resumed training, with the same checks."""
        folder = checkpoint_folder(self.args, self.state.best_global_step)
        logger.info(
            "task '%s' ends with the weights of step %d (validation loss %.4f)",
            *(self._task, self.state.best_global_step, self.state.best_metric),
        )
        self._load_from_checkpoint(str(folder))

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
        super()._save_checkpoint(*args, **kwargs)
        sums = ranks.gather(self._loss_sum)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = checkpoint_folder(self.args, self.state.global_step)
            best = self.state.best_global_step if self.args.load_best_model_at_end else None
            save_extras(self.accelerator.unwrap_model(self.model), folder)
            mark_complete(folder, sums, self._recipe, best)
            remove_older(folder.parent, self._limit, best)
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
