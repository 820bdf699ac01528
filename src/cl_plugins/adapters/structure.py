"""The shape of a model in memory: modules, hooks, buffers, parameters and dtypes, to check that everything was removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError


if TYPE_CHECKING:
    from torch.nn import Module


_CALLS = ("forward", "generate")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# Trainers and engines keep their own hooks on a model from one training to the next.
_LIBRARIES = ("accelerate", "deepspeed", "llamafactory", "peft", "swanlab", "torch", "transformers", "trl", "wandb")


@dataclass(frozen=True)
class Structure:
    """What a model consists of.

    Attributes:
        modules: Name -> class.
        tensors: Name of a parameter or buffer -> dtype.
        hooks: (module, id) of every hook that no library has registered, with the function.
        calls: Name of a module and of a method that stands on the module itself -> the function, where no library has put
            it there.
    """

    modules: dict[str, type]
    tensors: dict[str, Any]
    hooks: dict[tuple[str, str, int], Any]
    calls: dict[tuple[str, str], Any]

    @classmethod
    def of(cls, model: Module) -> Structure:
        """Inspect a model; reads no values.

        Args:
            model: The model without adapters.
        """
        modules = {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}
        tensors = {name: p.dtype for name, p in model.named_parameters(remove_duplicate=False)}
        tensors |= {name: b.dtype for name, b in model.named_buffers(remove_duplicate=False)}
        hooks, calls = {}, {}
        for name, module in model.named_modules():
            for method in _CALLS:
                function = _replacing(module, method)
                if function is not None:
                    calls[(name, method)] = function
            for kind in _HOOKS:
                for number, function in getattr(module, kind).items():
                    if not _of_a_library(function):
                        hooks[(name, kind, number)] = function
        return cls(modules, tensors, hooks, calls)

    def check(self, model: Module, *, hooks: bool = True) -> None:
        """Compare with a model from which everything should have been removed.

        Args:
            model: The model.
            hooks: Whether hooks count. In a custom trainer the user may have some of their own.

        Raises:
            RunStateError: Names what remains or is missing.
        """
        now = Structure.of(model)
        found = [
            *_differences("module", self.modules, now.modules),
            *_differences("tensor", self.tensors, now.tensors),
        ]
        if hooks:
            added, gone = now.hooks.keys() - self.hooks.keys(), self.hooks.keys() - now.hooks.keys()
            found += [f"the hook {_name(now.hooks[key])} is still on '{key[0]}'" for key in added]
            found += [f"the hook {_name(self.hooks[key])} of '{key[0]}' is gone" for key in gone]
            found += [
                f"`{method}` of '{name}' is still replaced" for name, method in now.calls.keys() - self.calls.keys()
            ]
        if found:
            what = f"differs after `reset` from the loaded model: {'; '.join(sorted(found)[:5])}."
            fix = "A method must change the base with `BaseModel.register`, `wrap`, `hook` and `rows`, which `reset` undoes."
            raise RunStateError(Problem("the base model", what, fix))


def _differences(kind: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    found = [f"the {kind} '{name}' was added" for name in after.keys() - before.keys()]
    found += [f"the {kind} '{name}' is gone" for name in before.keys() - after.keys()]
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            found.append(f"the {kind} '{name}' is {_name(after[name])} instead of {_name(before[name])}")
    return found


def _of_a_library(function: Any) -> bool:
    inner = getattr(function, "func", function)
    inner = getattr(inner, "__func__", inner)
    return str(getattr(inner, "__module__", "")).partition(".")[0] in _LIBRARIES


def _replacing(module: Module, method: str) -> Any:
    """What stands on a module in place of its class's method, below the wrappers of libraries; None if nothing does.

    Accelerate leaves the class's own method there, bound, once it has taken its wrapper off.
    """
    own, function = getattr(type(module), method, None), vars(module).get(method)
    while function is not None:
        if not _of_a_library(function) and getattr(function, "__func__", function) is not own:
            return function
        function = getattr(function, "__wrapped__", None)
    return None


def _name(value: Any) -> str:
    inner = getattr(value, "func", value)
    return str(getattr(inner, "__qualname__", inner))
