"""The base in memory: loaded once, given back unchanged whenever a method asks; independent of who loaded it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .merge import replaced
from .partitioned import gathered, is_partitioned, one_dtype, whole
from .stack import Stack


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract.low_rank import LowRankUpdate


class HeldBase:
    """Implements `cl_plugins.contract.base_model.BaseModel` but for what depends on the host.

    Args:
        model: The model without adapters.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._adapted: Any = None
        self._wrapped: dict[str, Module] = {}
        self._touched: set[str] = set()
        self._copies: dict[str, Tensor] = {}
        self._dtypes: dict[str, Any] = {}
        self._stack = Stack(model)
        self._files: dict[str, Any] | None = None
        self._full = False

    @property
    def model(self) -> Any:
        """The base without adapters."""
        return self._model

    @property
    def quantised(self) -> bool:
        """Whether weights are held in a quantised form."""
        return getattr(self._model, "quantization_method", None) is not None

    @property
    def partitioned(self) -> bool:
        """Whether DeepSpeed ZeRO-3 has split the tensors over the ranks."""
        return any(is_partitioned(p) for p in self._model.parameters())

    @property
    def can_merge(self) -> bool:
        """Whole fp32 tensors; the embedding stands for all, since the host loads one dtype."""
        import torch

        weight = self._model.get_input_embeddings().weight
        return weight.dtype == torch.float32 and not self.quantised and not self.partitioned

    def reset(self) -> None:
        """Take off adapters and the stack, and put replaced tensors back."""
        self._take_off_adapter()
        self._stack.detach()
        for name in sorted(self._touched):
            self._set(name, self.original(name).to(self._dtypes[name]))
        self._touched.clear()

    def _take_off_adapter(self) -> None:
        if self._adapted is None:
            return
        self._adapted.unload()
        for name, module in self._wrapped.items():  # PEFT leaves its trained copy in place of the module it wrapped
            parent, _, child = name.rpartition(".")
            setattr(self._model.get_submodule(parent), child, module)
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            if attribute in self._model.__dict__:
                delattr(self._model, attribute)
        self._adapted, self._wrapped = None, {}

    def new_adapter(self, seed: int | None = None) -> Any:
        """Put a fresh adapter on the base.

        Args:
            seed: Seed everything right before, as the host does before it loads a model; None leaves the generators
                where they are (the adapter's values are about to be overwritten).
        """
        import transformers

        self._take_off_adapter()
        if seed is not None:
            transformers.set_seed(seed)
        before = dict(self._model.named_modules())
        self._adapted = self._make_adapter()
        one_dtype(self._adapted)
        self._wrapped = {
            name: before[name]
            for name, module in self._model.named_modules()
            if type(module).__name__ == "ModulesToSaveWrapper" and name in before
        }
        return self._adapted

    def prepare_full(self) -> Any:
        """Mark what full fine-tuning trains; done once."""
        if not self._full:
            self._make_full()
            self._full = True
        return self._model

    def _make_adapter(self) -> Any:
        """Put an adapter on the model and return the model with it."""
        raise NotImplementedError

    def _make_full(self) -> None:
        """Mark as trainable what full fine-tuning trains."""
        raise NotImplementedError

    def _find_files(self) -> dict[str, Any]:
        """Parameter name -> (file, key) in the checkpoint; those that are missing are copied before they change."""
        return {}

    def attach(self, updates: Sequence[LowRankUpdate]) -> None:
        """Keep updates beside the weights; replaced tensors are replaced."""
        self._stack.attach(updates)
        for name, value in replaced(updates).items():
            self.replace(name, value)

    def original(self, name: str) -> Tensor:
        """The checkpoint's value of a parameter, on the CPU."""
        self._remember(name)
        return self._copies[name] if name in self._copies else self._read(name)

    def _read(self, name: str) -> Tensor:
        from safetensors import safe_open

        file, key = self._locations()[name]
        with safe_open(file, framework="pt") as handle:
            return handle.get_tensor(key)

    def _locations(self) -> dict[str, Any]:
        if self._files is None:
            self._files = self._find_files()
        return self._files

    def _remember(self, name: str) -> None:
        """Before a parameter changes for the first time, make sure that its value can be had again."""
        if name in self._dtypes:
            return
        parameter = self._model.get_parameter(name)
        self._dtypes[name] = parameter.dtype
        if name not in self._locations() or not self._same(name, parameter):
            self._copies[name] = whole(parameter)

    def _same(self, name: str, parameter: Tensor) -> bool:
        """Whether the file really holds this parameter's value; a renaming that goes wrong must not go unnoticed."""
        import torch

        return torch.equal(self._read(name).to(parameter.dtype), whole(parameter))

    def replace(self, name: str, value: Tensor) -> None:
        """Set a parameter, remembering that it no longer has the checkpoint's value."""
        self._remember(name)
        self._touched.add(name)
        self._set(name, value)

    def _set(self, name: str, value: Tensor) -> None:
        parameter = self._model.get_parameter(name)
        if is_partitioned(parameter):
            with gathered([parameter], write=True):
                parameter.data.copy_(value)
            return
        parameter.data = value.to(device=parameter.device, copy=True)
