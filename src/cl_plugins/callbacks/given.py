"""What a trainer may have been given that does not go with a task: another model, layout of samples or checkpoint."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.lora_config import check_adapters
from ..base.errors import CompatibilityError, Problem, RunStateError
from ..base.files import sha256, write_json
from ..base.outside import read_json
from ..contract.carry import FILE as CARRY
from ..run.engine_variables import FSDP, enabled
from ..training.extras import extras


if TYPE_CHECKING:
    from torch.nn import Module

    from ..contract.carry import Carry
    from ..contract.method import Method

#: Key of ``stateful_callbacks`` in a checkpoint's ``trainer_state.json``, and a file of the checkpoint.
MARK, MARK_FILE = "cl_plugins", "cl_task.json"


def check_model(model: Module, begun: Module | None) -> None:
    """The trainer trains what the task has begun with.

    Args:
        model: What is trained.
        begun: What the task has begun with; None where something else builds the model.

    Raises:
        CompatibilityError: It trains other tensors, which nobody would take up again.
    """
    if begun is None:
        if hasattr(model, "peft_config"):
            check_adapters(model.peft_config)  # type: ignore[arg-type]
        return
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    wanted = {id(p) for p in begun.parameters() if p.requires_grad}
    if trained != wanted:
        what = "does not train the tensors of `task.model`, so that the carry would not hold what it learns."
        fix = "Pass `task.model` as it is: no `peft_config`, no adapter of your own, nothing frozen or unfrozen."
        raise CompatibilityError(Problem("the trainer's model", what, fix))


def check_best(args: Any, method: Method, model: Module, in_loss: bool) -> None:
    """Whether the best weights of a training can be those that remain.

    Args:
        args: The trainer's arguments.
        method: The method.
        model: What is trained.
        in_loss: Whether the trainer has `ContinualTrainerMixin`.

    Raises:
        CompatibilityError: The method makes what remains in the last step, or the trainer would load a part of the weights.
    """
    if not getattr(args, "load_best_model_at_end", False):
        return
    if method.ends_in_last_step:
        what = (
            f"does not go with '{method.name}', which makes what remains of a task in the last step of its training."
        )
        raise CompatibilityError(Problem("load_best_model_at_end", what, "Leave it out."))
    if not in_loss and extras(model):
        what = f"leaves the tensors of '{method.name}' as they are in the last step: the trainer does not know them."
        fix = "Leave it out, or use `class Mine(ContinualTrainerMixin, YourTrainer)` and pass `terms=task.terms`."
        raise CompatibilityError(Problem("load_best_model_at_end", what, fix))


#: Arguments of TRL's trainers that put several samples into one row.
_PACKING = ("packing", "padding_free")


def check_rows(args: Any, method: Method) -> None:
    """Refuse rows of several samples with a method that chooses for single samples or measures them."""
    for key in _PACKING if method.capabilities.reads_samples else ():
        if getattr(args, key, False):
            what = f"puts several samples into one row, and '{method.name}' looks at single samples."
            raise CompatibilityError(Problem(key, what, "Turn it off."))


def check_layout(args: Any, model: Any, second_forward: bool) -> None:
    """Refuse layouts in which a sample is not one row, or whose second forward DDP would not see."""
    for key in _PACKING:
        if getattr(args, key, False):
            what = "puts several samples into one row, so that none can be kept."
            raise CompatibilityError(Problem(key, what, "Turn it off, or leave `replay` out."))
    if engine := engine_of(args):
        raise CompatibilityError(Problem(engine, "is not tested with `replay`.", "Use DDP, or leave `replay` out."))
    if second_forward and args.world_size > 1 and _reentrant(model):
        what = "is reentrant, so that the gradients of memory batches would not be averaged over processes."
        fix = "Set `gradient_checkpointing_kwargs={'use_reentrant': False}`; the numbers stay the same."
        raise CompatibilityError(Problem("gradient checkpointing", what, fix))


def engine_of(args: Any) -> str | None:
    """DeepSpeed or FSDP, whether the arguments name it or `accelerate launch` did."""
    if args.deepspeed or getattr(args, "deepspeed_plugin", None):
        return "deepspeed"
    return "fsdp" if getattr(args, "fsdp", None) or enabled(FSDP) else None


def _reentrant(model: Any) -> bool:
    """Whether a part of the model is under a reentrant checkpoint."""
    used = [
        getattr(m, "_gradient_checkpointing_func", None)
        for m in model.modules()
        if getattr(m, "gradient_checkpointing", False)
    ]
    return any(getattr(function, "keywords", {}).get("use_reentrant", True) for function in used)


def mark_of(method: str, task: str, phase: str, carry: Carry | None) -> dict[str, str]:
    """What tells the checkpoints of one training from those of others.

    Args:
        method: Name of the method.
        task: Name of the task.
        phase: Name of the phase; empty for the task's own training.
        carry: The carry it goes on from.
    """
    before = sha256(carry.path / CARRY) if carry is not None else ""
    return {"method": method, "task": task, "phase": phase, "carry": before}


def begin_checkpoints(state: Any, args: Any, mark: dict[str, str], resumed: Path | None) -> Path | None:
    """Note in the trainer's state whose training it is; of a resumed one, compare.

    Args:
        state: The trainer's state. It is written into every checkpoint and comes back with it.
        args: The trainer's arguments.
        mark: From `mark_of`.
        resumed: The checkpoint that the trainer goes on from, where that is known.

    Returns:
        The folder of the checkpoint; None if the training begins, or if the checkpoint does not lie in ``output_dir``.

    Raises:
        RunStateError: The checkpoint is of another training.
    """
    noted = getattr(state, "stateful_callbacks", None)
    state.stateful_callbacks = noted if isinstance(noted, dict) else {}
    found = state.stateful_callbacks.get(MARK)
    state.stateful_callbacks[MARK] = {**mark, "training": uuid.uuid4().hex}
    if not state.global_step:
        return None
    place = resumed or Path(args.output_dir) / f"checkpoint-{state.global_step}"
    if not isinstance(found, dict) or {key: found.get(key) for key in mark} != mark:
        whose = f"task '{found.get('task')}'" if isinstance(found, dict) else "a training without this callback"
        if isinstance(found, dict) and found.get("task") == mark["task"]:
            whose = f"another training of '{mark['task']}'"
        what = f"the trainer goes on from its checkpoint {place.name}, which is of {whose}."
        fix = "Resume from a checkpoint of this task only; an `output_dir` of its own for every task keeps them apart."
        raise RunStateError(Problem(f"task '{mark['task']}'", what, fix))
    state.stateful_callbacks[MARK] = found
    if resumed is None and not _lies_in(place, found):
        return None
    return place


def _lies_in(place: Path, mark: dict[str, str]) -> bool:
    """Whether a checkpoint is the one whose state was loaded."""
    try:
        return bool(read_json(place / MARK_FILE) == mark)
    except (OSError, ValueError):
        return False


def note_checkpoint(state: Any, folder: Path) -> None:
    """Write into a checkpoint whose it is, next to what the trainer does not save.

    Args:
        state: The trainer's state.
        folder: ``checkpoint-<step>``.
    """
    if folder.is_dir() and isinstance(state.stateful_callbacks, dict) and MARK in state.stateful_callbacks:
        write_json(folder / MARK_FILE, state.stateful_callbacks[MARK])
