"""The base in memory: loaded once, given back unchanged whenever a method asks; independent of who loaded it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError
from ..contract.low_rank import PREFIX
from . import bank
from .features import Kind, features
from .merge import replaced
from .partitioned import gathered, is_partitioned, one_dtype, whole
from .rows import RowState
from .structure import Structure
from .ties import tied_problem


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract.low_rank import LowRankUpdate
    from .row_features import Rows


class HeldBase:
    """Implements `cl_plugins.contract.base_model.BaseModel` but for what depends on the host.

    Args:
        model: The model without adapters.
    """

    #: Whether only methods put hooks on the model.
    hooks_are_ours = True

    def __init__(self, model: Any) -> None:
        self._model = model
        self._adapted: Any = None
        self._wrapped: dict[str, Module] = {}
        self._touched: set[str] = set()
        self._copies: dict[str, Tensor] = {}
        self._dtypes: dict[str, Any] = {}
        self._registered: list[tuple[Module, str]] = []
        self._handles: list[Any] = []
        self._rows: RowState | None = None
        self._replaced_modules: list[tuple[Module, str, Module]] = []
        self._targets: tuple[str, ...] | None = None
        self._lora_config: dict[str, Any] = {}
        self._files: dict[str, Any] | None = None
        self._full = False
        self._structure = Structure.of(model)
        self._buffers = {
            name: value.detach().cpu().clone()
            for name, value in model.named_buffers()
            if value.is_floating_point() and not value.is_meta
        }

    @property
    def model(self) -> Any:
        """The base without adapters."""
        return self._model

    @property
    def adapted(self) -> Any:
        """The model with PEFT's adapter; None without one."""
        return self._adapted

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
        """Take off everything that was put on the base, and put replaced tensors back.

        Raises:
            RunStateError: If modules, hooks, buffers or dtypes are not those at load afterwards.
        """
        self._take_off_adapter()
        if self._rows is not None:
            self._rows.remove()
            self._rows = None
        for handle in self._handles:
            handle.remove()
        for parent, child, module in reversed(self._replaced_modules):
            setattr(parent, child, module)
        for owner, name in self._registered:
            delattr(owner, name)
        self._handles, self._replaced_modules, self._registered = [], [], []
        for name in sorted(self._touched):
            self._set(name, self.original(name).to(self._dtypes[name]))
        self._touched.clear()
        self._undo_casts()
        self._structure.check(self._model, hooks=self.hooks_are_ours)

    def _undo_casts(self) -> None:
        """Give tensors that an engine has cast (DeepSpeed in bf16) the dtype and the values of the loaded model again."""
        tensors = dict(self._model.named_parameters(remove_duplicate=False)) | dict(self._model.named_buffers())
        cast = [
            name
            for name, dtype in self._structure.tensors.items()
            if name in tensors and _is_cast(tensors[name], dtype) and not is_partitioned(tensors[name])
        ]
        for name in cast:  # a tied name that no file has is the same tensor as its twin
            if name in self._buffers:
                tensors[name].data = self._buffers[name].to(tensors[name].device)
            elif name in self._copies or name in self._locations():
                value = self._copies[name] if name in self._copies else self._read(name)
                self._set(name, value.to(self._structure.tensors[name]))

    def register(self, name: str, value: Tensor, *, trained: bool) -> None:
        """Put a tensor of a method's own on a module, see `BaseModel.register`."""
        import torch

        owner, _, own = name.rpartition(".")
        if not own.startswith("cl_"):
            raise ValueError(f"the name of a method's own tensor begins with cl_, not {own!r}")
        module = self._model.get_submodule(owner)
        if hasattr(module, own):
            raise ValueError(f"'{owner}' already has a tensor called {own}")
        if trained:
            module.register_parameter(own, torch.nn.Parameter(value))
        else:
            module.register_buffer(own, value, persistent=False)
        self._registered.append((module, own))

    def hook(self, name: str, function: Callable[..., Any], *, before: bool = False) -> None:
        """Register a forward hook on a module, see `BaseModel.hook`."""
        module = self._model.get_submodule(name)
        if before:
            self._handles.append(module.register_forward_pre_hook(function, with_kwargs=True))
        else:
            self._handles.append(module.register_forward_hook(function))

    def wrap(self, names: Sequence[str], factory: Callable[[str, Module], Module]) -> None:
        """Put modules in place of others, see `BaseModel.wrap`."""
        for name in names:
            parent_name, _, child = name.rpartition(".")
            parent, module = self._model.get_submodule(parent_name), self._model.get_submodule(name)
            setattr(parent, child, factory(name, module))
            self._replaced_modules.append((parent, child, module))

    def rows(self, begin: Callable[[Rows], None]) -> RowState:
        """Let the base choose per row, see `BaseModel.rows`."""
        if self._rows is not None:
            raise ValueError("this base has a row state already")
        self._rows = RowState(self._model, begin)
        self._rows.install()
        return self._rows

    def features(self, inputs: Mapping[str, Any], kind: Kind) -> tuple[Tensor, Tensor]:
        """Vectors of rows from frozen parts, see `BaseModel.features`."""
        return features(self, inputs, kind)

    def targets(self) -> tuple[str, ...]:
        """Names of the linear layers that get a LoRA, see `BaseModel.targets`; found by putting one on, once."""
        import torch

        if self._targets is None:
            own, adapted = self._adapted is None, self._adapted
            flags = [(p, p.requires_grad) for p in self._model.parameters()]
            with torch.random.fork_rng():
                adapted = self.new_adapter() if own else adapted
            names = [n for n, m in adapted.named_modules() if "lora_A" in m._modules]
            self._targets = tuple(name.removeprefix(PREFIX) for name in names)
            config = adapted.peft_config["default"]
            self._lora_config = {
                "r": int(config.r),
                "lora_alpha": float(config.lora_alpha),
                "lora_dropout": float(config.lora_dropout),
                "use_rslora": bool(config.use_rslora),
                "target_modules": sorted(self._targets),
                "modules_to_save": sorted(config.modules_to_save or []),
            }
            if own:
                self._take_off_adapter()
                for parameter, trained in flags:  # PEFT freezes the base
                    parameter.requires_grad_(trained)
        return self._targets

    def lora(self) -> dict[str, Any]:
        """The LoRA of `new_adapter` with the full names of its layers, see `cl_plugins.records.carry.LoraPart`."""
        self.targets()
        return dict(self._lora_config)

    def prepare_frozen(self) -> Any:
        """The base without adapter, see `BaseModel.prepare_frozen`."""
        import torch

        self._take_off_adapter()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        for name in self._extra_parameters():
            self._remember(name)
            self._touched.add(name)
            parameter = self._model.get_parameter(name)
            parameter.data = parameter.data.to(torch.float32, copy=True)
            parameter.requires_grad_(True)
        return self._model

    def _extra_parameters(self) -> list[str]:
        """Names of the parameters that are trained as a whole (``additional_target``)."""
        wanted = self._extra_modules()
        names = [name for name, _ in self._model.named_parameters()]
        return [name for name in names if any(f".{module}." in f".{name}" for module in wanted)]

    def _extra_modules(self) -> Sequence[str]:
        """Names of the modules that train as a whole."""
        return ()

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
        tied = tied_problem(self._adapted, "the LoRA")
        if tied is not None:
            raise CompatibilityError(tied)
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
            self._structure = Structure.of(self._model)  # trained tensors are raised to fp32, for good
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
        """Keep updates next to the weights; replaced tensors are replaced."""
        bank.attach(self, bank.past_updates(updates))
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
        if parameter.is_meta:  # counted only, see `cl-plugins plan`
            return
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


def _is_cast(value: Any, dtype: Any) -> bool:
    """Whether a floating-point tensor has another dtype than it was loaded with."""
    return bool(value.is_floating_point() and value.dtype != dtype)
