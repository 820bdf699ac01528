"""A Transformers model as a base, whoever has loaded it."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem
from .held_base import HeldBase
from .holding import check_free, hold
from .lora_config import lora_problems


if TYPE_CHECKING:
    from peft import LoraConfig


class PlainBase(HeldBase):
    """A Transformers model without adapters as a method's base.

    Args:
        model: The model. What requires gradients now is what full fine-tuning trains.
        lora: The LoRA of methods that use one.
        directory: Of the learner that uses the model; None leaves out the check that nobody else has changed it.
    """

    hooks_are_ours = False  # whoever brings the model may watch it

    def __init__(self, model: Any, lora: LoraConfig | None = None, directory: str | None = None) -> None:
        check_free(model)
        super().__init__(model)
        if hasattr(model, "peft_config"):
            what = "has an adapter already."
            raise CompatibilityError(Problem("model", what, "Pass the base; `lora` defines the adapters."))
        if lora is not None and (problems := lora_problems(lora)):
            raise CompatibilityError(problems)
        self._lora = lora
        self._wanted = [name for name, p in model.named_parameters() if p.requires_grad]
        config = json.dumps(model.config.to_diff_dict(), sort_keys=True, default=str)
        self.fingerprint = {
            "name": model.config._name_or_path,
            "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        }
        self._held = hold(model, directory) if directory is not None else None

    def reset(self) -> None:
        """See `HeldBase.reset`; the weights must then be those that the learner has taken.

        Raises:
            RunStateError: If they are others, or another learner uses the model.
        """
        check_free(self._model, self._held)
        super().reset()
        if self._held is not None:
            self._held.check(self._model)

    def release(self) -> None:
        """Give the model back as the learner has taken it, so that another may use it.

        Raises:
            RunStateError: If it cannot be: full fine-tuning keeps no copy of the weights.
        """
        if self._full and self._held is not None:
            self._held.check(self._model)
        self.reset()
        if self._held is not None:
            self._held.release(self._model)

    @property
    def wanted_modules(self) -> tuple[str, ...]:
        """Modules requested to train as a whole."""
        return tuple((self._lora.modules_to_save if self._lora is not None else None) or ())

    def _extra_modules(self) -> tuple[str, ...]:
        return self.wanted_modules

    def _make_adapter(self) -> Any:
        from peft import get_peft_model

        if self._lora is None:
            raise CompatibilityError(Problem("lora", "is missing.", "Give a `peft.LoraConfig`."))
        return get_peft_model(self._model, copy.deepcopy(self._lora))

    def _make_full(self) -> None:
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(name in self._wanted)
