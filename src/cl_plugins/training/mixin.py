"""The mixin that puts the terms of a method into a trainer: LLaMA-Factory's, Transformers' or TRL's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch.utils.data import SequentialSampler

from ..adapters.rows import answers_of
from ..base.errors import Problem, TrainingError
from ..contract.task import Batch
from .extras import counted_as_adapters, load_extras, only_extras
from .order import Spread
from .rates import scale
from .terms import TaskTerms, add_gradient


if TYPE_CHECKING:
    from torch import Tensor


class ContinualTrainerMixin:
    """Put before a `transformers.Trainer` (or a subclass): ``class Mine(ContinualTrainerMixin, SFTTrainer)``.

    Args:
        terms: The terms of the task; None for none.
        *args: As for the trainer.
        **kwargs: As for the trainer.
    """

    def __init__(self, *args: Any, terms: TaskTerms | None = None, **kwargs: Any) -> None:
        with counted_as_adapters(kwargs.get("model", args[0] if args else None)):
            super().__init__(*args, **kwargs)
        check_scaled(self)
        self._terms = terms
        self._micro = 0
        self._own: int | None = None  # the task's own samples, where memory samples have been put behind them
        if terms is not None:
            terms.in_loss = True
            if terms.join is not None:
                me: Any = self
                self._own = len(me.train_dataset) if hasattr(me.train_dataset, "__len__") else None
                me.train_dataset = terms.join(me.train_dataset, terms.context.seed)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None, **kwargs: Any
    ) -> Any:
        """The trainer's loss plus the method's batch terms.

        Args:
            model: The model, maybe wrapped.
            inputs: One micro-batch.
            return_outputs: Whether to return the outputs too.
            num_items_in_batch: Answer tokens of the whole optimizer step, where the trainer counts them.
            **kwargs: As for the trainer.
        """
        me: Any = self
        with answers_of(getattr(me, "model", model), inputs):  # before anybody takes the labels out
            return self._loss(model, inputs, return_outputs, num_items_in_batch, kwargs)

    def _loss(self, model: Any, inputs: Any, return_outputs: bool, num_items: Any, kwargs: Mapping[str, Any]) -> Any:
        """See `compute_loss`."""
        base: Any = super()
        terms, labels = self._terms, inputs.get("labels")
        if terms is None or not terms.has_batch_terms or not model.training:
            found = base.compute_loss(model, inputs, return_outputs, num_items_in_batch=num_items, **kwargs)
            loss, outputs = found if return_outputs else (found, None)
            loss = self._even(loss, labels, num_items)
            return (loss, outputs) if return_outputs else loss
        loss, outputs = base.compute_loss(model, inputs, True, num_items_in_batch=num_items, **kwargs)
        logits = outputs.get("logits")
        if logits is None:
            what = "the model returned no logits, which the terms of this training need."
            fix = "Turn off fused loss kernels (Liger kernels)."
            raise TrainingError(Problem(f"task '{terms.context.task.name}'", what, fix))
        inputs = {**inputs, "labels": labels}  # some trainers take the labels out
        step = self.state.global_step + 1  # type: ignore[attr-defined]
        loss = self._even(loss, labels, num_items)
        found = terms.batch(Batch(inputs, logits, step, self._micro, outputs))
        if found:
            loss = loss + sum(found) * self._share(labels, num_items)
        return (loss, outputs) if return_outputs else loss

    def _even(self, loss: Any, labels: Tensor | None, num_items: Any) -> Any:
        """The loss of a micro-batch, weighted by its part of the step's answer tokens where Transformers forgets to.

        Its label smoother gives the mean of a micro-batch, which the trainer divides no further once it has counted the
        tokens of the step: with G micro-batches the step would be about G times as large.
        """
        me: Any = self
        smoothed = me.label_smoother is not None and me.compute_loss_func is None and me.model_accepts_loss_kwargs
        if not smoothed or num_items is None or labels is None:
            return loss
        return loss * ((labels != -100).sum() / num_items)

    def _share(self, labels: Tensor, num_items: Any) -> Any:
        """The micro-batch's weight in the step's loss.

        Its part of the answer tokens if the trainer counts them over the whole step; else 1, and the trainer divides by
        the number of micro-batches.
        """
        me: Any = self
        if num_items is None or not (me.model_accepts_loss_kwargs or me.compute_loss_func is not None):
            return 1.0
        processes = me.accelerator.num_processes if me.args.average_tokens_across_devices else 1
        return (labels != -100).sum() * processes / num_items

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's optimizer, with the method's factors on the learning rate."""
        base: Any = super()
        fresh = cast(Any, self).optimizer is None
        optimizer = base.create_optimizer(*args, **kwargs)
        if fresh:
            self._arrange(optimizer)
        if self._terms is not None:
            me: Any = self
            scale(optimizer, me.model, self._terms.learning_rates())
        return optimizer

    def _arrange(self, optimizer: Any) -> None:
        """Correct the groups that the trainer has made of the parameters."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's sampler; where it does not shuffle, memory samples are spread among the new ones."""
        base, me, terms = cast(Any, super()), cast(Any, self), self._terms
        sampler = base._get_train_sampler(*args, **kwargs)
        if terms is None or not isinstance(sampler, SequentialSampler):
            return sampler
        own = self._own if self._own is not None else len(terms.context.data or ())  # type: ignore[arg-type]
        total = len(me.train_dataset)
        return Spread(own, total, terms.context.seed) if 0 < own < total else sampler

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model; of one on which only a method's own tensors train, `save_extras` writes these alone."""
        base, me = cast(Any, super()), cast(Any, self)
        if not only_extras(me.accelerator.unwrap_model(me.model)):
            base._save(output_dir, state_dict)
        else:
            Path(output_dir or me.args.output_dir).mkdir(parents=True, exist_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint, see `_save`."""
        base, me = cast(Any, super()), cast(Any, self)
        target = me.model if model is None else model
        if self._terms is not None:
            self._terms.resumed = Path(resume_from_checkpoint)
        if only_extras(target):
            load_extras(target, Path(resume_from_checkpoint))
        else:
            base._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """Load the weights of the best step, those of a method's own among them."""
        base, me = cast(Any, super()), cast(Any, self)
        if not only_extras(me.model):
            base._load_best_model()
        load_extras(me.model, Path(me.state.best_model_checkpoint))

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """One micro-batch; with the last one of an optimizer step the method's part of the gradient."""
        base: Any = super()
        loss: Tensor = base.training_step(*args, **kwargs)
        me: Any = self
        whole = me.accelerator.gradient_state.sync_gradients
        self._micro = 0 if whole else self._micro + 1
        if self._terms is not None and self._terms.has_penalties and whole:
            scaler = getattr(me.accelerator, "scaler", None)
            add_gradient(self._terms.penalties(me.state.global_step + 1), me.model.parameters(), scaler)
        if self._terms is not None and self._terms.method.changes_gradients and whole:
            self._terms.change_gradients(me.state.global_step + 1)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the terms together with the loss."""
        if "loss" in logs and self._terms is not None:
            logs = {**logs, **self._terms.logs}
        base: Any = super()
        base.log(logs, *args, **kwargs)


def check_scaled(trainer: Any) -> None:
    """In fp16 gradients are scaled, or small ones become zero without a word.

    Args:
        trainer: A trainer with its accelerator.

    Raises:
        TrainingError: It is asked for fp16, and Accelerate scales no gradients on its device.
    """
    if trainer.args.fp16 and trainer.accelerator.scaler is None and not trainer.is_deepspeed_enabled:
        what = f"scales no gradients on this device ({trainer.args.device.type}), so that small ones become zero."
        raise TrainingError(Problem("fp16", what, "Train on a GPU, or in fp32 without the key."))
