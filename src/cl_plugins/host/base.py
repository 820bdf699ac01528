"""The base in memory: loaded once by the host, given back unchanged whenever a method asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..adapters.merge import replaced
from ..adapters.partitioned import gathered, is_partitioned, whole
from ..adapters.stack import Stack
from ..errors import Problem, RecipeError
from .checkpoint_names import checkpoint_files, name_map


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..adapters.update import LowRankUpdate
    from .task_args import HostArgs


class LoadedBase:
    """Implements `cl_plugins.methods.base.BaseModel` on a model loaded by LLaMA-Factory.

    Args:
        model: The model, prepared for training by the host, without adapters.
        args: The host's arguments of the run.
    """

    def __init__(self, model: Any, args: HostArgs) -> None:
        self._model = model
        self._args = args
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
        """Put a fresh adapter on the base, as the host's `init_adapter` does.

        Args:
            seed: Seed everything right before, as the host does before it loads a model; None leaves the generators
                where they are (the adapter's values are about to be overwritten).
        """
        import transformers
        from llamafactory.model.adapter import init_adapter

        self._take_off_adapter()
        if seed is not None:
            transformers.set_seed(seed)
        args = self._args
        before = dict(self._model.named_modules())
        try:
            self._adapted = init_adapter(self._model.config, self._model, args.model, args.finetuning, True)
        except ValueError as error:
            fix = "Compare `lora_target` and `additional_target` with the names of the model's modules."
            what = f"the host cannot put a LoRA on this base ({error})."
            raise RecipeError(Problem("lora_target", what, fix)) from error
        self._wrapped = {
            name: before[name]
            for name, module in self._model.named_modules()
            if type(module).__name__ == "ModulesToSaveWrapper" and name in before
        }
        return self._adapted

    def prepare_full(self) -> Any:
        """Mark what the host's full fine-tuning trains; done once, since it also raises those tensors to fp32."""
        from llamafactory.model.adapter import init_adapter

        if not self._full:
            init_adapter(self._model.config, self._model, self._args.model, self._args.finetuning, True)
            self._full = True
        return self._model

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
            args = self._args.model
            files = checkpoint_files(args.model_name_or_path, cache_dir=args.cache_dir, revision=args.model_revision)
            self._files = name_map(self._model, files)
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
