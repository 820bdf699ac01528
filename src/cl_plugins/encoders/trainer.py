"""Transformers' Trainer with what a stream needs; checkpoints hold what trains and not the frozen encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from ..base.errors import Problem, RunStateError
from ..contract.carry import read_tensors
from ..training.exact import ExactTrainerMixin


FILE = "trained.safetensors"


class EncoderTrainer(ExactTrainerMixin, Trainer):  # type: ignore[misc]
    """Trains one task."""

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train the task; its classes are learned then."""
        result: TrainOutput = super().train(*args, **kwargs)
        me = cast(Any, self)
        me.accelerator.unwrap_model(me.model).close()
        return result

    def _trained(self, model: Any = None) -> dict[str, torch.Tensor]:
        me = cast(Any, self)
        inner = me.accelerator.unwrap_model(me.model if model is None else model)
        return {name: p for name, p in inner.named_parameters() if p.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        from safetensors.torch import save_file

        folder = Path(output_dir or cast(Any, self).args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        values = {name: p.detach().cpu().contiguous() for name, p in self._trained().items()}
        save_file(values, folder / FILE, metadata={"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        own, path = self._trained(model), Path(resume_from_checkpoint) / FILE
        values = read_tensors(path)
        wrong = sorted(set(own) ^ set(values)) or [n for n in own if own[n].shape != values[n].shape]
        if wrong:
            what = f"does not hold the tensors that this task trains (e.g. {wrong[0]})."
            raise RunStateError(Problem(str(path), what, "Delete the checkpoint and train the task again."))
        with torch.no_grad():
            for name, value in values.items():
                own[name].copy_(value)
