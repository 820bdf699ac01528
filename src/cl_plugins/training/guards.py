"""What must hold before and after the training of a task, in every trainer; each breach is an error and not a warning."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..adapters.partitioned import gathered, size
from ..base.errors import CompatibilityError, Problem, TrainingError
from ..base.schema import shown
from ..contract.export import LowRankSum
from ..contract.names import trainable
from ..contract.saving import dtype_problem


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract.carry import Carry
    from ..contract.method import Method
    from ..contract.task import TaskContext


Marks = dict[str, tuple[float, float]]


def check_trainable(where: str, model: Module, wanted: Sequence[str]) -> None:
    """Something trains, and so does every module that is requested.

    Args:
        where: The task, for the messages.
        model: What will be trained.
        wanted: Names of modules requested to train as a whole (``additional_target``, ``modules_to_save``).

    Raises:
        TrainingError: If not.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not names:
        what = "nothing is trainable: every tensor is frozen."
        raise TrainingError(Problem(where, what, "Check `finetuning_type`, `lora_target` and the freeze_* keys."))
    for module in wanted:
        if not any(f".{module}." in f".{name}" for name in names):
            what = f"'{module}' is to be trained, but none of its tensors is trainable."
            raise TrainingError(Problem(where, what, "Check the module's name in this model."))


def trained_parts(model: Module, wanted: Sequence[str]) -> str:
    """Number of trained parameters, and how many of them belong to modules trained as a whole, for the log.

    Args:
        model: What will be trained.
        wanted: As for `check_trainable`.
    """
    sizes = {f".{name}": size(p) for name, p in model.named_parameters() if p.requires_grad}
    parts = [
        f"{sum(count for name, count in sizes.items() if f'.{module}.' in name):,} in {module}" for module in wanted
    ]
    return f"{sum(sizes.values()):,} parameters are trained" + (f" ({', '.join(parts)})" if parts else "")


def check_saved(method: Method, context: TaskContext, model: Module) -> None:
    """Every trainable tensor is among what the method saves, so that nothing is learned and lost.

    Args:
        method: The method.
        context: The task.
        model: What will be trained.

    Raises:
        CompatibilityError: Naming the tensors that would be lost.
    """
    check_all_learned(method, model, method.learned(context, model))


def check_all_learned(method: Method, model: Module, learned: Mapping[str, Tensor]) -> None:
    """`check_saved` of what `Method.learned` has returned, before or after the training.

    Args:
        method: The method.
        model: What is trained.
        learned: What it returned.

    Raises:
        CompatibilityError: Naming the tensors that would be lost, or what is no tensor that can be written.
    """
    check_tensors(method, "learned", learned)
    lost = sorted(set(trainable(model)) - set(learned))
    if lost:
        few = ", ".join(lost[:3]) + (", ..." if len(lost) > 3 else "")
        what = f"trains {len(lost)} tensors that its `learned` does not return, so that they would be lost: {few}."
        fix = "Return every trainable tensor under its saved name, or freeze what is not learned."
        raise CompatibilityError(Problem(f"method '{method.name}'", what, fix))


def check_tensors(method: Method, hook: str, values: Any) -> None:
    """What a hook returns are tensors that can be written.

    Args:
        method: The method.
        hook: Name of the hook.
        values: What it returned.

    Raises:
        CompatibilityError: Naming what is not.
    """
    import torch

    bad = None
    if not isinstance(values, Mapping):
        bad = f"{type(values).__name__}, not a mapping of names to tensors"
    else:
        for name, value in values.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                bad = bad or f"{name!r}: {type(value).__name__}, which is no named tensor"
        bad = bad or dtype_problem(values)
    if bad:
        raise _hook_error(method, hook, f"gives {bad}")


def plain(method: Method, hook: str, value: Any) -> dict[str, Any]:
    """What a hook returns, as JSON gives it back.

    Args:
        method: The method.
        hook: Name of the hook.
        value: What it returned.

    Raises:
        CompatibilityError: If it is no JSON.
    """
    try:
        found = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _hook_error(method, hook, f"gives what JSON cannot represent ({error})") from error
    if not isinstance(found, dict):
        raise _hook_error(method, hook, f"gives {type(value).__name__}, not a mapping")
    return found


def _hook_error(method: Method, hook: str, what: str) -> CompatibilityError:
    fix = "Mend the method; a training that has a checkpoint goes on from it."
    return CompatibilityError(Problem(f"method '{method.name}'", f"`{hook}` {what}.", fix))


def marks(model: Module) -> Marks:
    """Sum and sum of squares of every trainable tensor: enough to see whether training changed it."""
    import torch

    found = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                with gathered([parameter]):
                    values = parameter.detach().double()
                    found[name] = (float(values.sum()), float(values.square().sum()))
    return found


def check_trained(
    where: str, steps: int, before: Marks, after: Marks, wanted: Sequence[str], *, idle: bool = False
) -> None:
    """The training made steps, changed weights, and left them finite.

    Args:
        where: The task, for the messages.
        steps: Optimizer steps that were made.
        before: `marks` of before the first step; of a resumed training, of when the task began.
        after: `marks` of now.
        wanted: As for `check_trainable`.
        idle: Whether weights may stay as they are, see `cl_plugins.contract.task.certain`.

    Raises:
        TrainingError: If not.
    """
    if steps == 0:
        what = "no optimizer step was made."
        raise TrainingError(Problem(where, what, "Check `max_steps`, `num_train_epochs` and the data."))
    broken = sorted(name for name, values in after.items() if not all(map(math.isfinite, values)))
    if broken:
        what = f"{len(broken)} tensors are not finite after training (e.g. {broken[0]})."
        raise TrainingError(Problem(where, what, "Lower `learning_rate`, or check this task's data and the base."))
    changed = {name for name in after if before.get(name) != after[name]}
    if not changed and not idle:
        what = f"{steps} optimizer steps changed no weight."
        raise TrainingError(Problem(where, what, "Check `learning_rate`, the labels and the freeze_* keys."))
    for module in wanted:
        own = [name for name in after if f".{module}." in f".{name}"]
        if own and not changed.intersection(own):
            what = f"'{module}' is to be trained, but {steps} optimizer steps did not change it."
            fix = "Check that pictures reach it: `<image>` in the data, and the template."
            raise TrainingError(Problem(where, what, fix))


def check_loss(where: str, loss: float, step: int) -> None:
    """The loss is finite.

    Raises:
        TrainingError: If not.
    """
    if not math.isfinite(loss):
        fix = "Lower `learning_rate`, or check this task's data; the last checkpoint is still good."
        raise TrainingError(Problem(where, f"the loss is {loss} at step {step}.", fix))


def check_numbers(method: Method, numbers: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that a method reports are finite.

    Raises:
        CompatibilityError: If one is no number.
        TrainingError: If one is not finite.
    """
    if not isinstance(numbers, Mapping):
        raise _hook_error(method, "numbers", f"gives {type(numbers).__name__}, not a mapping")
    found = {}
    for name, value in numbers.items():
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError("it is a text")
            found[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            reason = f"gives {name} = {shown(value)}, which is no number ({error})"
            raise _hook_error(method, "numbers", reason) from error
        if not math.isfinite(found[str(name)]):
            what = f"`numbers` reports {name} = {found[str(name)]}."
            raise TrainingError(Problem(f"method '{method.name}'", what, "Check the task's data."))
    return found


def check_export(method: Method, carry: Carry) -> None:
    """What ``final/`` is can be made out of the carry; asked when the first task is consolidated, before others train.

    Args:
        method: The method.
        carry: What it has just written.

    Raises:
        CompatibilityError: If the method says that its model is a sum of low-rank updates and it is not.
    """
    export = method.export(carry)
    if not isinstance(export, LowRankSum):
        return
    if method.answers == "by_sample":
        what = "chooses its parts for every sample, but its `export` returns one sum of low-rank updates."
        raise CompatibilityError(Problem(f"method '{method.name}'", what, "Return `Routed()` from `export`."))
    for update in export.updates:
        update.low_rank()


def check_statistics(method: Method, statistics: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Names of statistics are file names, none is that of the update, and what they hold can be written.

    Raises:
        CompatibilityError: If not.
    """
    if not isinstance(statistics, Mapping):
        raise _hook_error(method, "statistics", f"gives {type(statistics).__name__}, not a mapping")
    for name, values in statistics.items():
        check_tensors(method, f"statistics['{name}']", values)
    bad = [name for name in map(str, statistics) if not name.replace("_", "").isalnum() or name.startswith("update")]
    if bad:
        what = f"names a statistic {bad[0]!r}."
        fix = "Use letters, digits and underscores; names that begin with `update` belong to the updates."
        raise CompatibilityError(Problem(f"method '{method.name}'", what, fix))
