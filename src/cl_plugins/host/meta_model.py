"""What a recipe would train, counted on a model without weights (the meta device)."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..adapters.ties import tied_problem
from ..base.errors import CompatibilityError, Problem
from ..contract.host import ModelSizes, Trained
from ..contract.names import is_own, trained_tensors
from ..contract.task import TaskContext
from .base import LoadedBase


if TYPE_CHECKING:
    from ..contract.method import Method
    from ..streams import Task


# Where and how weights are held does not change which are trained; without these keys a recipe for eight GPUs can be
# measured on a laptop.
_LEFT_OUT = (
    "quantization_bit", "quantization_method", "quantization_type", "double_quantization", "quantization_device_map",
)  # fmt: skip


def _arguments(host_keys: Mapping[str, Any]) -> tuple[Any, Any]:
    """The host's model and fine-tuning arguments alone: nothing is seeded, and no process group is made."""
    from llamafactory.hparams import parser
    from transformers import HfArgumentParser

    classes = (parser.ModelArguments, parser.FinetuningArguments)
    known = {field.name for cls in classes for field in dataclasses.fields(cls) if field.init}
    keys = {k: v for k, v in host_keys.items() if k in known and k not in _LEFT_OUT}
    model, finetuning = HfArgumentParser(classes).parse_dict(keys)
    return model, finetuning


def _base(host_keys: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """The base without weights, and the host's arguments for it.

    Raises:
        CompatibilityError: If its config cannot be had; the message holds the reason.
    """
    import torch
    from llamafactory.model import load_config

    try:
        args, finetuning = _arguments(host_keys)
        config = load_config(args)
        with torch.device("meta"):
            model = _model_class(config).from_config(config, trust_remote_code=args.trust_remote_code)
    except Exception as error:  # any exception of the host, the hub or the code of a remote model
        raise CompatibilityError(_not_built(host_keys, error)) from error
    return model, args, finetuning


@contextmanager
def _aside() -> Iterator[None]:
    """Code inside draws from no generator and prints nothing: it is not the training that was requested."""
    import torch

    logger = logging.getLogger("llamafactory")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        logger.setLevel(level)


def _not_built(host_keys: Mapping[str, Any], error: Exception) -> Problem:
    what = f"cannot be built from its config ({_short(error)})."
    return Problem(
        f"model_name_or_path: {host_keys.get('model_name_or_path')}", what, "Check the name and the network."
    )


def adapter_problems(host_keys: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the LoRA that a recipe requests, seen on the base without weights.

    Args:
        host_keys: The recipe without ``cl``.

    Returns:
        The problems; none where the base's config cannot be had here.
    """
    from llamafactory.model.adapter import init_adapter

    if host_keys.get("finetuning_type", "lora") != "lora":
        return []
    try:
        with _aside():
            base, args, finetuning = _base(host_keys)
    except CompatibilityError:
        return []
    try:
        with _aside():
            model = init_adapter(base.config, base, args, finetuning, True)
    except ValueError as error:
        fix = "Compare `lora_target` and `additional_target` with the names of the model's modules."
        return [Problem("lora_target", f"LLaMA-Factory cannot put a LoRA on this base ({_short(error)}).", fix)]
    except Exception:  # a base that does not work without weights says nothing about the recipe
        return []
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    odd = sorted(
        {
            re.split(r"\.lora_(?:embedding_)?[AB]\.", name)[0].rpartition(".")[2]
            for name, parameter in trained.items()
            if ".lora_embedding_" in name or (".lora_A." in name and parameter.dim() != 2)
        }
    )
    found = []
    if odd:
        what = f"puts a LoRA on {', '.join(odd)}: not a linear layer, so that the update cannot be merged or stacked."
        fix = "Leave it out of `lora_target`; `additional_target` trains a module as a whole."
        found.append(Problem("lora_target", what, fix))
    tied = tied_problem(model, "lora_target")
    if tied is not None:
        found.append(tied)
    for module in finetuning.additional_target or []:
        if not any(f".{module}." in f".{name}" for name in trained):
            what = f"names '{module}', but the base has no trainable module of that name."
            found.append(Problem("additional_target", what, "Check the module's name in this model."))
    return found


class _NoSamples:
    """An empty replay buffer."""

    samples = chosen = ()

    def __len__(self) -> int:
        return 0


def measure(host_keys: Mapping[str, Any], method: Method, task: Task) -> ModelSizes:
    """Build the base from its config without weights, let the method begin its first task on it, and count.

    Args:
        host_keys: The recipe without ``cl``.
        method: The method.
        task: The first task.

    Raises:
        CompatibilityError: If config or adapter cannot be had; the message holds the reason.
    """
    with _aside():
        model, args, finetuning = _base(host_keys)
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    model, _ = _begun(host_keys, method, task, (model, args, finetuning))
    parts: dict[str, int] = {}
    targets: set[str] = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = _kind(name)
        parts[kind] = parts.get(kind, 0) + parameter.numel()
        if ".lora_A." in name:
            targets.add(name.split(".lora_A.")[0].rpartition(".")[2])
    return ModelSizes(
        parameters=parameters,
        trainable=sum(parts.values()),
        parts=parts,
        targets=tuple(sorted(targets)),
        dtype=str(getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or "").removeprefix("torch."),
        image_tokens=image_tokens(config),
        model_type=str(getattr(config, "model_type", "")),
    )


def trained(host_keys: Mapping[str, Any], method: Method, tasks: Sequence[Task]) -> Trained:
    """See `cl_plugins.contract.host.Host.trained`."""
    with _aside():
        base = _base(host_keys)
    model, context = _begun(host_keys, method, tasks[0], base)
    shapes = {name: tuple(value.shape) for name, value in trained_tensors(model).items()}
    about = (dataclasses.replace(context, task=task, index=i) for i, task in enumerate(tasks, start=1))
    return Trained(shapes, {each.task.name: method.describe(each, model) for each in about})


def _begun(
    host_keys: Mapping[str, Any], method: Method, task: Task, loaded: tuple[Any, Any, Any]
) -> tuple[Any, TaskContext]:
    """What a method trains for its first task on a base without weights.

    Args:
        host_keys: The recipe without ``cl``.
        method: The method.
        task: The task.
        loaded: From `_base`.

    Raises:
        CompatibilityError: If the method cannot begin on it; the message holds the reason.
    """
    model, args, finetuning = loaded
    try:
        with _aside():
            base = LoadedBase(model, SimpleNamespace(model=args, finetuning=finetuning))  # type: ignore[arg-type]
            memory: Any = _NoSamples()
            context = TaskContext(task, 1, int(host_keys.get("seed", 42)), base, None, memory=memory)
            return method.begin_task(context, method.restore(base, None)), context
    except Exception as error:  # the plan is shown without sizes
        raise CompatibilityError(_not_built(host_keys, error)) from error


def _model_class(config: Any) -> Any:
    """The class that the host would load."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    for candidate in (AutoModelForImageTextToText, AutoModelForSeq2SeqLM):
        if type(config) in candidate._model_mapping:
            return candidate
    return AutoModelForCausalLM


def _kind(name: str) -> str:
    if ".lora_" in name:
        return "LoRA"
    if ".modules_to_save." in name:
        return name.split(".modules_to_save.")[0].rpartition(".")[2]
    return "the method's own" if is_own(name) else "weights"


def _short(error: Exception) -> str:
    """The first line; hub errors are pages long."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def image_tokens(config: Any) -> int | None:
    """Tokens per picture, where the model's config alone decides it."""
    fixed = getattr(config, "mm_tokens_per_image", None)
    if fixed:
        return int(fixed)
    vision = getattr(config, "vision_config", None)
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if getattr(config, "model_type", "") in {"llava", "vipllava"} and isinstance(size, int) and isinstance(patch, int):
        whole = getattr(config, "vision_feature_select_strategy", "default") == "full"
        return (size // patch) ** 2 + int(whole)
    return None
