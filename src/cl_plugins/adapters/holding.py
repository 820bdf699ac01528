"""Which learner uses a model in memory: two of them on one model would train each other's results without a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ..base.errors import Problem, RunStateError
from .structure import Structure
from .values import Values


if TYPE_CHECKING:
    from torch.nn import Module


@dataclass(frozen=True)
class Held:
    """A model as it was when a learner took it; does not keep the model alive.

    Attributes:
        directory: The directory of the learner.
        structure: Modules, tensors and hooks of the model.
        values: Some of its values.
        trained: Name of a parameter -> whether it required a gradient.
    """

    directory: str
    structure: Structure
    values: Values
    trained: dict[str, bool]

    @classmethod
    def of(cls, model: Module, directory: str) -> Held:
        """The model as it is now.

        Args:
            model: The model without adapters.
            directory: The directory of the learner.
        """
        trained = {name: p.requires_grad for name, p in model.named_parameters()}
        return cls(directory, Structure.of(model), Values.of(model), trained)

    def differs(self, model: Module) -> bool:
        """Whether a model is no longer as it was when it was taken.

        Args:
            model: The model.
        """
        try:
            self.structure.check(model)
        except RunStateError:
            return True
        return bool(self.values.changed(model))

    def check(self, model: Module) -> None:
        """After everything of the learner's own was taken off, its weights must be those that it has taken.

        Args:
            model: The model.

        Raises:
            RunStateError: If someone has changed them meanwhile.
        """
        if changed := self.values.changed(model):
            raise RunStateError(_changed(changed))
        _HOLDERS[model] = self

    def release(self, model: Module) -> None:
        """Others may use the model; parameters require gradients as before.

        Args:
            model: The model, as it was when it was taken.
        """
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.trained.get(name, parameter.requires_grad))
        _HOLDERS.pop(model, None)


_HOLDERS: WeakKeyDictionary[Any, Held] = WeakKeyDictionary()


def check_free(model: Module, but: Held | None = None) -> None:
    """Refuse a model on which another learner has left something; nothing is taken off.

    Args:
        model: The model.
        but: What the asking learner holds.

    Raises:
        RunStateError: If the model is not as the other learner has found it.
    """
    held = _HOLDERS.get(model)
    if held is None or held is but or not held.differs(model):
        return
    what = f"is used by the learner of '{held.directory}', whose weights or parts are on it."
    fix = (
        "Load the base anew for every learner, or call `release()` of that learner before. To begin with what it has "
        "learned, give a copy: `copy.deepcopy(learner.model())`."
    )
    raise RunStateError(Problem("model", what, fix))


def hold(model: Module, directory: str) -> Held:
    """Note that a learner uses a model from now on.

    Args:
        model: The model without adapters.
        directory: The directory of the learner.
    """
    _HOLDERS[model] = held = Held.of(model, directory)
    return held


def _changed(names: list[str]) -> Problem:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    what = f"was changed since the learner has taken it: other values are in {shown} "
    what += "(as `merge_and_unload()` leaves them, or a stopped full fine-tuning)."
    fix = (
        "Load the base anew and make the learner again; what was learned is kept. Deploy a copy: "
        "`copy.deepcopy(learner.model())`, or `cl_plugins.load(directory)` after `finish()`."
    )
    return Problem("model", what, fix)
