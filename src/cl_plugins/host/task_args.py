"""LLaMA-Factory's five argument groups for one task, out of the recipe's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
    from llamafactory.hparams.training_args import TrainingArguments


@dataclass(frozen=True)
class HostArgs:
    """What `get_train_args` gives, by name."""

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    finetuning: FinetuningArguments
    generating: GeneratingArguments


def task_keys(
    host_keys: Mapping[str, Any],
    *,
    datasets: Sequence[str],
    output_dir: Path,
    seed: int,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The LLaMA-Factory keys of one task: the recipe's, then the task's overrides, then what the run decides.

    Args:
        host_keys: The recipe without ``cl``.
        datasets: Training sets.
        output_dir: The task's own directory.
        seed: The task's seed.
        overrides: Per-task keys.
    """
    keys = {**host_keys, **(overrides or {})}
    keys.pop("overwrite_output_dir", None)
    keys.update(dataset=",".join(datasets), output_dir=str(output_dir), seed=seed, do_train=True)
    return keys


def parse(keys: dict[str, Any]) -> HostArgs:
    """Let the host parse and check the keys.

    As a side effect the host seeds every generator with ``seed``; that is part of being equal to a plain run.
    """
    from llamafactory.hparams import get_train_args

    args = HostArgs(*get_train_args(keys))
    args.training.resume_from_checkpoint = None  # the host picks any checkpoint-N; the runner picks a complete one
    return args
