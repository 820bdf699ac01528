"""LLaMA-Factory's trainer with what a stream needs: penalties, guards, and a resume that is exact.

Imports LLaMA-Factory at the top; import this module only when a task is about to be trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

from ..adapters.bank import B
from ..base.errors import Problem, TrainingError
from ..contract.names import is_own
from ..training.exact import ExactTrainerMixin
from ..training.extras import load_extras, only_extras
from ..training.rates import regroup


class ContinualTrainer(ExactTrainerMixin, CustomSeq2SeqTrainer):
    """Trains one task.

    Args:
        task: Name of the task, for the messages.
        recipe: What the training depends on, as one hash; it goes into the marks of the checkpoints.
        **kwargs: As for the host's trainer, and ``terms``.
    """

    def _arrange(self, optimizer: Any) -> None:
        """LoRA+ by what a parameter is: LLaMA-Factory knows B by PEFT's name only, and takes every vector for one."""
        ratio = self.finetuning_args.loraplus_lr_ratio
        if ratio is None:
            return
        slow = self.args.learning_rate

        def rate(name: str, parameter: Any, given: float) -> float:
            if name.rpartition(".")[2] == B:
                return float(slow * ratio)
            return float(slow) if parameter.ndim == 1 and is_own(name) else given

        regroup(optimizer, self.model, rate)

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
