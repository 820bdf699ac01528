"""LLaMA-Factory's five argument groups for one task, out of the recipe's keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import validation
from .keys import DATA_KEYS
from .quiet import quieten


if TYPE_CHECKING:
    from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
    from llamafactory.hparams.training_args import TrainingArguments

    from ..contract.session import TaskArgs


@dataclass(frozen=True)
class HostArgs:
    """What `get_train_args` gives, by name.

    Attributes:
        data_keys: The keys that `data` was made of, as they were written.
    """

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    finetuning: FinetuningArguments
    generating: GeneratingArguments
    data_keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base_name(self) -> str:
        """Folder or hub name of the base."""
        return str(self.model.model_name_or_path)

    @property
    def trust_remote_code(self) -> bool:
        """Whether the base may contain its own code."""
        return bool(self.model.trust_remote_code)

    @property
    def trained_modules(self) -> list[str]:
        """Names of the modules that are trained whole besides a LoRA (``additional_target``)."""
        if self.finetuning.finetuning_type != "lora":
            return []
        target = self.finetuning.additional_target
        return [target] if isinstance(target, str) else list(target or [])


def task_keys(
    host_keys: Mapping[str, Any],
    *,
    datasets: Sequence[str],
    output_dir: Path,
    seed: int,
    overrides: Mapping[str, Any] | None = None,
    valid: Sequence[str] = (),
) -> dict[str, Any]:
    """The LLaMA-Factory keys of one task: the recipe's, then the task's overrides, then what the run decides.

    Args:
        host_keys: The recipe without ``cl``.
        datasets: Training sets.
        output_dir: The task's own directory.
        seed: The task's seed.
        overrides: Per-task keys.
        valid: Validation sets. Without one, keys that need it do not apply.
    """
    keys = {**host_keys, **(overrides or {})}
    keys.pop("overwrite_output_dir", None)
    keys.update(dataset=",".join(datasets), output_dir=str(output_dir), seed=seed, do_train=True)
    return validation.with_sets(keys, valid)


def parse(keys: dict[str, Any]) -> HostArgs:
    """Let the host parse and check the keys.

    As a side effect the host seeds every generator with ``seed``; that is part of being equal to a plain run.
    """
    from llamafactory.hparams import get_train_args

    args = HostArgs(*get_train_args(copy.deepcopy(keys)))  # the host takes entries out of mappings among the values
    args.data.eval_dataset = None  # `Session.validation_set` loads it, with the checks of a training set
    args.training.resume_from_checkpoint = None  # the host picks any checkpoint-N; the runner picks a complete one
    quieten()
    names = {each.name for each in fields(args.data)} - {"eval_dataset"}
    return replace(args, data_keys={key: value for key, value in keys.items() if key in names})


def for_tests(args: HostArgs, keys: Mapping[str, Any]) -> HostArgs:
    """The arguments of a run with a task's own folders and ``cutoff_len``, for its test sets.

    Args:
        args: Any arguments of the run.
        keys: The recipe's keys with the task's own.
    """
    data = copy.copy(args.data)
    data.dataset_dir = keys.get("dataset_dir", type(data).dataset_dir)
    data.media_dir = keys.get("media_dir") or data.dataset_dir
    data.cutoff_len = int(keys.get("cutoff_len", type(data).cutoff_len))
    return replace(args, data=data)


def for_data(args: HostArgs, keys: Mapping[str, Any], datasets: Sequence[str] | None = None) -> HostArgs:
    """The arguments of a training with other keys for its data (`keys.DATA_KEYS`).

    Args:
        args: The arguments of the training.
        keys: The keys that differ; None stands for the host's default.
        datasets: Other data sets.
    """
    made_of = dict(args.data_keys)
    for key, value in keys.items():
        if key in DATA_KEYS:
            made_of[key] = value
            if value is None:
                del made_of[key]
    if datasets is not None:
        made_of["dataset"] = list(datasets)
    # The host turns what is written into other values, e.g. one token less per pack. It does so again with any copy.
    data, before, after = copy.copy(args.data), type(args.data)(**args.data_keys), type(args.data)(**made_of)
    for each in fields(data):
        if getattr(before, each.name) != getattr(after, each.name):
            setattr(data, each.name, getattr(after, each.name))
    return replace(args, data=data, data_keys=made_of)


def own(args: TaskArgs) -> HostArgs:
    """Arguments that a run passes back, as `parse` made them.

    Raises:
        TypeError: If another host made them.
    """
    if not isinstance(args, HostArgs):
        raise TypeError(f"not arguments of LLaMA-Factory: {type(args).__name__}")
    return args
