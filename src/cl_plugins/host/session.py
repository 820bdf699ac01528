"""LLaMA-Factory's own pieces, put together for one stream: tokenizer, template, base, trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..base.outside import without_ghostscript
from ..training.collated import CollatedData
from .base import LoadedBase
from .quantised import check_trained_modules, keep_unpacked, trained_modules_whole
from .task_args import HostArgs


if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

    from ..training.terms import TaskTerms
    from .trainer import ContinualTrainer


class Session:
    """Tokenizer, template and base of a run, each loaded once.

    Args:
        args: The host's arguments of the run (those of any task; only per-run keys are used).
    """

    def __init__(self, args: HostArgs) -> None:
        from llamafactory.data import get_template_and_fix_tokenizer
        from llamafactory.model import load_tokenizer

        without_ghostscript()
        self.args = args
        self.tokenizer_module: dict[str, Any] = dict(load_tokenizer(args.model))
        self.tokenizer = self.tokenizer_module["tokenizer"]
        self.template = get_template_and_fix_tokenizer(self.tokenizer, args.data)
        self._base: LoadedBase | None = None

    @property
    def base(self) -> LoadedBase:
        """The base, loaded by the host at the first use, without adapters."""
        if self._base is None:
            from llamafactory.model import load_model

            with _adapter_later(), trained_modules_whole(self.args):
                model = load_model(self.tokenizer, self.args.model, self.args.finetuning, True)
            check_trained_modules(model, self.args)
            keep_unpacked(model)
            self._base = LoadedBase(model, self.args)
        return self._base

    @property
    def loaded_model(self) -> Any:
        """The base's model if it has been loaded already, else None."""
        return None if self._base is None else self._base.model

    def collator(self, model: Any, *, training: bool) -> Any:
        """The host's collator, set as the host sets it for training or for generation."""
        from llamafactory.data import SFTDataCollatorWith4DAttentionMask
        from llamafactory.extras.constants import IGNORE_INDEX

        args = self.args
        fields = {field.name for field in dataclasses.fields(SFTDataCollatorWith4DAttentionMask)}
        since_0_9_5 = {"neat_packing": args.data.neat_packing} if "neat_packing" in fields else {}
        return SFTDataCollatorWith4DAttentionMask(
            template=self.template,
            model=model if training else None,
            pad_to_multiple_of=8 if training else None,
            label_pad_token_id=IGNORE_INDEX if args.data.ignore_pad_token_for_loss else self.tokenizer.pad_token_id,
            block_diag_attn=args.model.block_diag_attn,
            attn_implementation=getattr(model.config, "_attn_implementation", None),
            compute_dtype=args.model.compute_dtype,
            **since_0_9_5,
            **self.tokenizer_module,
        )

    def eos_token_ids(self) -> list[int]:
        """Tokens that end an answer, as the host collects them."""
        tokenizer = self.tokenizer
        extra = getattr(tokenizer, "additional_special_tokens_ids", None)
        if not isinstance(extra, list):
            names = [str(token) for token in getattr(tokenizer, "_extra_special_tokens", [])]
            extra = tokenizer.convert_tokens_to_ids(names)
        return list(dict.fromkeys([tokenizer.eos_token_id, *(i for i in extra if i not in (None, -1))]))

    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype in which the host's mixed-precision training computes; None without it."""
        import torch

        return torch.bfloat16 if self.args.training.bf16 else None

    def task_data(self, dataset: Any) -> CollatedData | None:
        """A training set for random access; None if the host streams it."""
        if not hasattr(dataset, "__len__"):
            return None
        model = self.base.model
        return CollatedData(dataset, self.collator(model, training=True), next(model.parameters()).device)

    def trainer(
        self,
        args: HostArgs,
        model: Any,
        dataset_module: dict[str, Any],
        callbacks: Sequence[TrainerCallback],
        terms: TaskTerms | None,
        task: str,
    ) -> ContinualTrainer:
        """The trainer of one task, with the callbacks that the host would build for it.

        Args:
            args: The task's arguments.
            model: What is trained.
            dataset_module: From `load_training_set`.
            callbacks: The user's and the run's.
            terms: Terms that join the loss.
            task: Name of the task.
        """
        from .trainer import ContinualTrainer

        return ContinualTrainer(
            model=model,
            args=args.training,
            finetuning_args=args.finetuning,
            data_collator=self.collator(model, training=True),
            callbacks=[*callbacks, *_host_callbacks(args)],
            terms=terms,
            task=task,
            **dataset_module,
            **self.tokenizer_module,
        )


def plot_loss(args: HostArgs) -> None:
    """The host's own picture of a task's training loss, beside its log."""
    from llamafactory.extras.ploting import plot_loss as draw

    draw(args.training.output_dir, keys=["loss"])


def _host_callbacks(args: HostArgs) -> list[Any]:
    """What the host's launcher adds to every training, new for every task."""
    from llamafactory.train.callbacks import LogCallback, ReporterCallback

    callbacks: list[Any] = [LogCallback()]
    if args.finetuning.use_swanlab:
        from llamafactory.train.trainer_utils import get_swanlab_callback

        callbacks.append(get_swanlab_callback(args.finetuning))
    callbacks.append(ReporterCallback(args.model, args.data, args.finetuning, args.generating))
    return callbacks


@contextmanager
def _adapter_later() -> Iterator[None]:
    """Load a model exactly as the host does, but leave out the last act: the adapter comes when a task begins."""
    from llamafactory.model import loader

    original = loader.init_adapter
    loader.init_adapter = lambda config, model, *args, **kwargs: model
    try:
        yield
    finally:
        loader.init_adapter = original
