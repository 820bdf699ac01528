"""Post-import hooks: how the package gets into a host that has no plugin loader.

PyTorch calls :func:`activate` in the middle of ``import torch``. At that moment a module of the host is in one of
three states, and each needs its own handling:

* *not imported yet*: a meta-path finder returns the ordinary spec and runs our hook right after the module's code.
  ``importlib.reload`` asks the finders again, so a reloaded module is hooked again;
* *finished*: the hook runs at once, in place;
* *being executed* (the module's own ``import torch`` called us): the hook waits for the end of its import.

Only the standard library is imported here, and nothing of the host: a process that imports torch for another purpose
pays a few microseconds.
"""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


# Host module -> the module of this room whose `install(module)` patches it.
HOOKS: dict[str, str] = {
    "llamafactory.hparams.parser": "arguments",
    "llamafactory.hparams": "arguments",
    "llamafactory.train.sft.workflow": "dispatch",
    "llamafactory.train.sft": "dispatch",
    "llamafactory.train.tuner": "dispatch",
    "llamafactory.launcher": "launching",
    "torch.distributed.launcher.api": "launching",
}

_lock = threading.RLock()


def activate() -> None:
    """Place the hooks, and patch what is already imported.

    Safe to call again, from any thread, and at any time; imports nothing of the host.
    """
    with _lock:
        if not any(getattr(finder, "cl_plugins_finder", False) for finder in sys.meta_path):
            sys.meta_path.insert(0, _PostImportFinder())
        for name in HOOKS:
            module = sys.modules.get(name)
            if module is not None and not _wait_for_import(module):
                _run_hook(module, name)


def rebind(name: str, old: object, new: object) -> None:
    """Replace ``old`` by ``new`` in every imported module that holds it under ``name``.

    ``from x import name`` copies a reference, so patching ``x`` alone would leave the copies made earlier as they
    were.

    Args:
        name: The global's name.
        old: The object to replace; other objects of that name stay.
        new: What takes its place.
    """
    for module in list(sys.modules.values()):
        namespace = getattr(module, "__dict__", None)
        if isinstance(namespace, dict) and namespace.get(name) is old:
            namespace[name] = new


def _run_hook(module: ModuleType, name: str) -> None:
    """Patch one host module; a failure must not break the import of a host that may not use ``cl`` at all."""
    try:
        importlib.import_module(f"{__package__}.{HOOKS[name]}").install(module)
    except Exception as error:
        warnings.warn(f"cl_plugins could not patch {name}: {error!r}", RuntimeWarning, stacklevel=2)


class _PostImportFinder(MetaPathFinder):
    """Finds the hooked modules through the other finders, and arranges for the hook to run after their code."""

    cl_plugins_finder = True  # recognised by name, so that a reloaded copy of this module adds no second finder

    def __init__(self) -> None:
        self._active = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Give the spec that the other finders give, watched; None for every module without a hook."""
        if fullname not in HOOKS:
            return None
        active: set[str] = self._active.__dict__.setdefault("names", set())
        if fullname in active:  # another import hook delegates to the meta path as we do
            return None
        active.add(fullname)
        try:
            spec = self._ask_others(fullname, path, target)
        finally:
            active.discard(fullname)
        if spec is not None:
            _watch_loader(spec)
        return spec

    def _ask_others(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec = find(fullname, path, target)
            if spec is not None:
                return spec
        return None


def _watch_loader(spec: ModuleSpec) -> None:
    """Run the hook after ``spec.loader.exec_module``.

    The loader stays the genuine one (``inspect``, ``pkgutil`` and ``importlib.resources`` look at its type); an
    attribute of the instance shadows the method until the module has been executed, and is gone afterwards.
    """
    loader: Any = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return
    shadowed = getattr(loader, "__dict__", {}).get("exec_module")

    def exec_module(module: ModuleType) -> None:
        if module.__name__ != spec.name:  # a loader that several modules share, as that of a zip file
            execute(module)
            return
        if vars(loader).get("exec_module") is exec_module:
            if shadowed is None:
                del loader.exec_module
            else:
                loader.exec_module = shadowed
        execute(module)
        _run_hook(module, spec.name)

    try:
        loader.exec_module = exec_module
    except AttributeError:  # a loader without instance attributes: the end of the import is watched instead
        _watch_spec(spec)


class _WatchedSpec(ModuleSpec):
    """The spec of a module whose code is still running; tells when the import system calls it finished."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "_initializing" and not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            module = sys.modules.get(self.name)
            if module is not None:  # None: the import failed
                _run_hook(module, self.name)


def _watch_spec(spec: ModuleSpec) -> bool:
    """Have the hook run when the import of ``spec`` ends; False where the spec cannot be watched."""
    try:
        spec.__class__ = _WatchedSpec
    except TypeError:  # a foreign kind of spec: `dispatch.ensure` catches up when `cl` is used
        return False
    return True


def _wait_for_import(module: ModuleType) -> bool:
    """Whether the module's code is still running, in which case its hook has been put off to the end of it."""
    spec = getattr(module, "__spec__", None)
    if spec is None or not getattr(spec, "_initializing", False):
        return False
    if not isinstance(spec, _WatchedSpec) and not _watch_spec(spec):
        return False
    if getattr(spec, "_initializing", False):
        return True
    spec.__class__ = ModuleSpec  # another thread finished the import in between
    return False
