"""LLaMA-Factory's own pieces, put together for one stream: tokenizer, template, base, trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..base.errors import DataError, Problem
from ..base.outside import without_ghostscript
from ..contract.session import validates
from ..generation.answers import read_answers
from ..generation.backend import ModelBackend
from ..run.precision import autocast_name
from ..run.trained_items import trained_items
from ..training.collated import CollatedData
from . import saving, test_sets, training_rows
from .base import LoadedBase
from .chat_template import saved_with
from .custom_code import forget_unused_code
from .data import load_training_set
from .quantised import check_trained_modules, keep_unpacked, quantisation_of, trained_modules_whole
from .sample_counts import SampleCounts, total
from .task_args import HostArgs, for_data, for_tests
from .task_args import own as own_args
from .token_cache import TokenCache
from .vocabulary import check_added_tokens


if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from transformers import TrainerCallback

    from ..contract.backend import Answer
    from ..contract.session import Rows, TaskArgs
    from ..contract.test_item import TestItem, TestSet
    from ..replay.store import Buffer
    from ..streams import Task
    from ..training.terms import TaskTerms
    from .trainer import ContinualTrainer


class Session:
    """Tokenizer, template and base of a run, each loaded once; see `cl_plugins.contract.session.Session`.

    Args:
        args: The host's arguments of the run (those of any task; only per-run keys are used).

    Raises:
        RecipeError: If the template needs tokens that the base does not have.
    """

    def __init__(self, args: HostArgs) -> None:
        from llamafactory.data import get_template_and_fix_tokenizer
        from llamafactory.model import load_tokenizer

        without_ghostscript()
        self.args = args
        self.tokenizer_module: dict[str, Any] = dict(load_tokenizer(args.model))
        self.tokenizer = self.tokenizer_module["tokenizer"]
        known = len(self.tokenizer)
        self.template = get_template_and_fix_tokenizer(self.tokenizer, args.data)
        if len(self.tokenizer) > known:
            check_added_tokens(args, self.tokenizer, known)
        self.sample_counts: dict[str, dict[str, int]] = {}
        self._token_cache = TokenCache(args, self.template, self.tokenizer_module)
        self._base: LoadedBase | None = None

    @property
    def base(self) -> LoadedBase:
        """The base, loaded by the host at the first use, without adapters."""
        if self._base is None:
            from llamafactory.model import load_model

            with _adapter_later(), trained_modules_whole(self.args):
                model = load_model(self.tokenizer, self.args.model, self.args.finetuning, True)
            forget_unused_code(model, model.config, self.tokenizer, self.tokenizer_module["processor"])
            check_trained_modules(model, self.args)
            keep_unpacked(model)
            self._base = LoadedBase(model, self.args)
        return self._base

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @property
    def loaded_model(self) -> Any:
        """The base's model if it has been loaded already, else None."""
        return None if self._base is None else self._base.model

    def collator(self, model: Any, *, training: bool, args: HostArgs | None = None) -> Any:
        """The host's collator, set as the host sets it for training or for generation.

        Args:
            model: The model that is given the batches.
            training: For training, or for generation.
            args: Arguments of the task; None for those of the run.
        """
        from llamafactory.data import SFTDataCollatorWith4DAttentionMask
        from llamafactory.extras.constants import IGNORE_INDEX

        data, base = (args or self.args).data, self.args.model  # loading the base has filled in the latter
        fields = {field.name for field in dataclasses.fields(SFTDataCollatorWith4DAttentionMask)}
        packed = training and data.neat_packing  # answers are never packed: their mask is (batch, length)
        since_0_9_5 = {"neat_packing": packed} if "neat_packing" in fields else {}
        return SFTDataCollatorWith4DAttentionMask(
            template=self.template,
            model=model if training else None,
            pad_to_multiple_of=8 if training else None,
            label_pad_token_id=IGNORE_INDEX if data.ignore_pad_token_for_loss else self.tokenizer.pad_token_id,
            block_diag_attn=training and base.block_diag_attn,
            attn_implementation=getattr(model.config, "_attn_implementation", None),
            compute_dtype=base.compute_dtype,  # loading the base sets it, in the arguments of the run only
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

        name = autocast_name(self.args.training)
        return getattr(torch, name) if name is not None else None

    def task_data(self, dataset: Any, args: TaskArgs) -> CollatedData | None:
        """A training set for random access; None if the host streams it."""
        if not hasattr(dataset, "__len__"):
            return None
        model = self.base.model
        return CollatedData(
            dataset, self.collator(model, training=True, args=own_args(args)), next(model.parameters()).device
        )

    def training_set(
        self, task: str, args: TaskArgs, *, with_rows: bool = False
    ) -> tuple[dict[str, Any], Rows | None]:
        """The host's training set of one task, checked, and the records behind it."""
        own = own_args(args)
        counted: list[SampleCounts] = []
        module, rows = (
            training_rows.load_with_rows(task, own, self.template, self.tokenizer_module, counted)
            if with_rows
            else (load_training_set(task, own, self.template, self.tokenizer_module, counted), None)
        )
        self.sample_counts[task] = counted[0].details() if counted else {}
        if not with_rows:  # memory samples may have pictures
            self._check_projectors(task, own, module["train_dataset"])
        return module, rows

    def joint_training_set(
        self, args: TaskArgs, parts: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]]
    ) -> dict[str, Any]:
        """The training sets of several tasks, one behind the other, each prepared with its own keys."""
        from datasets import concatenate_datasets

        own, problems, found = own_args(args), [], []
        counted: list[SampleCounts] = []
        if own.data.mix_strategy != "concat":
            what = f"is {own.data.mix_strategy!r}, which cannot mix tasks that have different keys for their data."
            problems.append(Problem("mix_strategy", what, "Write `mix_strategy: concat`."))
        for task, names, keys in parts:
            try:
                args_of = for_data(own, keys, names)
                module = load_training_set(task, args_of, self.template, self.tokenizer_module, counted)
                found.append(module["train_dataset"])
            except DataError as error:
                problems += error.problems
            except ValueError as error:  # keys that contradict each other
                problems.append(Problem(f"task '{task}'", f"LLaMA-Factory says: {error}", "Correct the task's keys."))
        if problems:
            raise DataError(problems)
        joint = concatenate_datasets(found)
        self._check_projectors("joint", own, joint)
        self.sample_counts["joint"] = total(counted).details()
        return {"train_dataset": joint}

    def validation_set(self, args: TaskArgs, parts: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]]) -> Any:
        """The validation sets of one or more tasks, one behind the other, prepared as training sets are."""
        from datasets import concatenate_datasets

        own, problems, found = own_args(args), [], []
        for task, names, keys in parts:
            args_of = for_data(own, {**keys, "mix_strategy": "concat", "interleave_probs": None}, names)
            try:
                module = load_training_set(task, args_of, self.template, self.tokenizer_module, kind="validation")
                found.append(module["train_dataset"])
            except DataError as error:
                problems += error.problems
        if problems:
            raise DataError(problems)
        return found[0] if len(found) == 1 else concatenate_datasets(found)

    def _check_projectors(self, task: str, args: HostArgs, dataset: Any) -> None:
        """Refuse to train a projector where no sample has anything to project.

        Raises:
            DataError: Naming the projectors.
        """
        from llamafactory.model import load_config
        from llamafactory.model.model_utils.visual import COMPOSITE_MODELS

        trained = args.trained_modules
        if not trained or not hasattr(dataset, "__len__"):
            return
        known = COMPOSITE_MODELS.get(getattr(load_config(args.model), "model_type", None) or "")
        projectors = [name for name in trained if known and any(name in key for key in known.projector_keys)]
        if projectors and not training_rows.has_media(dataset):
            names = ", ".join(projectors)
            what = f"has no picture, video or sound, so that {names} (`additional_target`) would not be trained."
            fix = "Leave this task out, give it data with pictures, or leave the projector out of `additional_target`."
            raise DataError(Problem(f"task '{task}'", what, fix))

    def stored_samples(
        self,
        task: str,
        args: TaskArgs,
        buffer: Buffer,
        *,
        keys: Mapping[str, Mapping[str, Any]] | None = None,
        like: Any = None,
    ) -> Any:
        """The samples of a replay buffer, tokenised with the keys of their own tasks."""
        own = own_args(args)
        origins = {name: for_data(own, given) for name, given in (keys or {}).items()}
        return training_rows.load_buffer(task, buffer, own, self.template, self.tokenizer_module, like, origins)

    def joined(self, own: Any, memory: Any, indices: Sequence[int]) -> Any:
        """A training set with memory samples behind the new ones."""
        return training_rows.joined(own, memory, indices)

    def test_items(
        self,
        task: Task,
        keys: Mapping[str, Any],
        max_items: int | None,
        *,
        for_engine: bool = False,
        drop_too_long: bool = False,
    ) -> TestSet:
        """The test items of a task, tokenised."""
        args = for_tests(self.args, keys)
        return test_sets.load_test_items(
            task,
            args,
            self.template,
            self.tokenizer_module,
            max_items,
            for_engine=for_engine,
            drop_too_long=drop_too_long,
            cache=self._token_cache,
        )

    def backend(self, model: Any) -> ModelBackend:
        """Greedy generation with a model in memory."""
        return ModelBackend(
            model,
            self.tokenizer,
            self.collator(model, training=False),
            batch_size=int(self.args.training.per_device_eval_batch_size),
            together=self.base.partitioned,
            eos_token_ids=self.eos_token_ids(),
            media_token_ids=test_sets.media_token_ids(self.template, self.tokenizer),
            autocast_dtype=self.autocast_dtype(),
            thought_words=self.template.thought_words,
        )

    def engine_prompt(self, item: TestItem) -> dict[str, Any]:
        """Token ids with one token per picture, and the pictures as the host passes them to engines.

        Raises:
            DataError: If the item has videos or sounds.
        """
        if item.engine_tokens is None:
            raise DataError(Problem(f"item {item.id!r}", "was not prepared for an engine.", "Use `backend: host`."))
        other = [kind for kind in item.kinds if kind != "images"]
        if other:
            what = f"has {' and '.join(other)}; only pictures are passed to vLLM."
            raise DataError(Problem(f"item {item.id!r}", what, "Use `backend: host`."))
        prompt: dict[str, Any] = {"prompt_token_ids": item.engine_tokens.tolist()}
        if item.kinds:
            found = test_sets.pictures(item, self.template, self.tokenizer_module["processor"])
            prompt["multi_modal_data"] = {"image": found}
        return prompt

    def read_answers(self, ids: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        """Texts of token ids, special tokens removed, and whether they were cut."""
        return read_answers(
            ids,
            self.tokenizer,
            max_new_tokens=max_new_tokens,
            eos_token_ids=self.eos_token_ids(),
            thought_words=self.template.thought_words,
        )

    def save_model(self, model: Any, folder: Path, tensors: dict[str, Any] | None = None) -> None:
        """Save a plain model with the base's own ``use_cache``."""
        saving.save_model(model, folder, self.args, self.tokenizer, tensors)

    def save_processor(self, folder: Path) -> None:
        """Save tokenizer and processor, with the run's prompt format as chat template."""
        processor = self.tokenizer_module["processor"]
        with saved_with(self.template, self.tokenizer, processor):
            self.tokenizer.save_pretrained(folder)
            if processor is not None:
                processor.save_pretrained(folder)

    def quantisation(self) -> dict[str, Any] | None:
        """The quantisation config of the base."""
        return quantisation_of(self.base.model)

    def trained_items(self, dataset: Any, items: Sequence[TestItem]) -> dict[int, int]:
        """Samples that begin with an item's prompt and have its media."""
        return trained_items(dataset, items)

    def restored(self, tasks: Sequence[str]) -> None:
        """The weights say all."""

    def plot_loss(self, args: TaskArgs) -> None:
        """The host's own picture of a task's training loss, if the recipe requests it."""
        if own_args(args).finetuning.plot_loss:
            from llamafactory.extras.ploting import plot_loss as draw

            draw(args.training.output_dir, keys=["loss", *(["eval_loss"] if validates(args.training) else [])])

    def trainer(
        self,
        args: TaskArgs,
        model: Any,
        data: dict[str, Any],
        callbacks: Sequence[TrainerCallback],
        terms: TaskTerms | None,
        task: str,
        recipe: str,
    ) -> ContinualTrainer:
        """The trainer of one task, with the callbacks that the host would build for it.

        Args:
            args: The task's arguments.
            model: What is trained.
            data: From `training_set`.
            callbacks: The user's and the run's.
            terms: Terms that join the loss.
            task: Name of the task.
            recipe: What the training depends on, as one hash; its checkpoints keep it.
        """
        from .trainer import ContinualTrainer

        own = own_args(args)
        return ContinualTrainer(
            model=model,
            args=args.training,
            finetuning_args=own.finetuning,
            data_collator=self.collator(model, training=True, args=own),
            callbacks=[*callbacks, *_host_callbacks(own)],
            terms=terms,
            task=task,
            recipe=recipe,
            **data,
            **self.tokenizer_module,
        )


def _host_callbacks(args: HostArgs) -> list[Any]:
    """What the host's launcher adds to every training, new for every task."""
    from llamafactory.train.callbacks import LogCallback, ReporterCallback

    callbacks: list[Any] = [LogCallback()]
    if args.finetuning.early_stopping_steps is not None:
        from transformers import EarlyStoppingCallback

        callbacks.append(EarlyStoppingCallback(early_stopping_patience=args.finetuning.early_stopping_steps))
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
