"""``final/`` read back: what it is, whether its bytes are those that were written, and a routed model put on its base.

The folder may come from an untrusted source. Its files are JSON and safetensors; the code that runs is that of the installed
packages, found by the method's name.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters.plain_base import PlainBase
from ..base.errors import Problem, RecipeError, RunStateError
from ..base.logs import logger
from ..base.outside import read_json
from ..contract.carry import Carry
from ..contract.host import same_base, same_tokenizer
from ..methods.registry import METHODS, make_method
from ..records.carry import ModelManifest
from ..records.files import table_problems, unlisted
from ..records.record import shown
from .base_card import README
from .finish import MANIFEST
from .precision import MIXED


if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import LoraConfig


ROUTED = "routed"
#: Endings of the files that Transformers and PEFT look for by name; one that is not listed would be taken for the run's.
_READ = (".json", ".safetensors", ".bin", ".pt", ".pth", ".py", ".model", ".jinja", ".txt")


@dataclass(frozen=True)
class Final:
    """The folder of a finished model.

    Attributes:
        path: The folder.
        manifest: Its ``MANIFEST.json``.
    """

    path: Path
    manifest: ModelManifest

    @property
    def kind(self) -> str:
        """``merged``, ``full``, ``peft``, ``routed`` or ``tasks``."""
        return self.manifest.kind

    @property
    def base_name(self) -> str:
        """Folder or hub name of the base: that of the run, or the one that the folder itself has."""
        if self.manifest.base_folder is not None:
            return str(self.path / self.manifest.base_folder)
        return str(self.manifest.base.get("name", ""))

    def verify(self) -> None:
        """Compare every file with its hash.

        Raises:
            RunStateError: Naming every file that is missing or differs, and every one that a loader would read although it
                is not listed.
        """
        files = self.manifest.files
        if files is None:
            what = "has no hashes of the other files, so that they cannot be checked."
            raise RunStateError(Problem(str(self.path / MANIFEST), what, self.manifest.FIX))
        loaded = {name: record for name, record in files.items() if name != README}  # people write into a model card
        found = table_problems(self.path, loaded, self.manifest.FIX, MANIFEST)
        strange = unlisted(self.path, files, (MANIFEST,), MANIFEST)
        found += [problem for problem in strange if problem.where.endswith(_READ)]
        if found:
            raise RunStateError(found)

    def check_base(self, there: Mapping[str, Any]) -> None:
        """Compare a base with the one that the run has used.

        Args:
            there: Fingerprint of the base that is about to be loaded, see `Host.fingerprint`.

        Raises:
            RunStateError: If it is another one, or has another tokenizer.
        """
        if self.manifest.base_folder is not None and there.get("name") == self.base_name:
            return  # its files are listed, so `verify` has compared them
        if self.manifest.base_folder is not None:
            what = f"belongs to its own base in {self.manifest.base_folder}/, which has {', '.join(self.manifest.base_has or [])}."
            raise RunStateError(Problem(str(self.path), what, "Name no other base."))
        recorded = self.manifest.base
        same = same_base(recorded, there)
        if same and same_tokenizer(recorded, there):
            return
        what = f"belongs to another {'tokenizer' if same else 'base'} ({self.base_name}) than {there.get('name')}."
        raise RunStateError(Problem(str(self.path), what, "Name the base that the run was trained on."))


def is_classifier(folder: Path) -> bool:
    """Whether a folder holds a classifier on frozen encoders, which only this package knows; False for any other place."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "cl_crossmodal"


def is_routed(folder: Path) -> bool:
    """Whether a folder is the ``final/`` of a routed model, told without checking it; False for any other place."""
    try:
        return ModelManifest.read(folder / MANIFEST).kind == ROUTED
    except (RunStateError, OSError, ValueError):
        return False


def open_final(folder: str | Path) -> Final:
    """Read the manifest of a finished model.

    Args:
        folder: ``final/`` of a run, the run's directory, or an export.

    Raises:
        RunStateError: If there is no finished model, or one whose manifest is damaged.
    """
    path = Path(folder)
    if not (path / MANIFEST).exists() and (path / "final" / MANIFEST).exists():
        path = path / "final"
    if not (path / MANIFEST).exists():
        running = (path / "run.json").exists() or (path.parent / "run.json").exists()
        what = "holds no finished model (no MANIFEST.json)."
        fix = "Let the run finish; it writes `final/` last." if running else "Give the folder `final/` of a run."
        raise RunStateError(Problem(str(path), what, fix))
    final = Final(path, ModelManifest.read(path / MANIFEST))
    if final.kind == "tasks":
        names = ", ".join(part.folder for part in final.manifest.adapters or [])
        fix = f"Load one of them with PEFT, as an adapter of {final.base_name}: {names}."
        raise RunStateError(Problem(str(path), "holds one adapter per task, none of which is the whole model.", fix))
    if final.kind not in ("merged", "full", "peft", ROUTED):
        fix = "Update cl-plugins, or copy the folder again from its source."
        raise RunStateError(Problem(str(path / MANIFEST), f"has the unknown kind {shown(repr(final.kind))}.", fix))
    return final


class _ServedBase(PlainBase):
    """A base that answers: tensors of an adapter are held in fp32, as in a run."""

    def _make_adapter(self) -> Any:
        import torch

        adapted = super()._make_adapter()
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
        return adapted


def put_on(final: Final, model: Any) -> Any:
    """Put a routed model on its base.

    Args:
        final: A ``final/`` of kind ``routed``.
        model: The base as Transformers loads it; changed in place.

    Returns:
        The model that answers, in evaluation mode and without gradients.

    Raises:
        RecipeError: If the method is not installed, or does not take the recorded options.
        RunStateError: If the carry does not fit the base.
    """
    manifest = final.manifest
    method = _method(final)
    carry = Carry.open(final.path / "carry")
    carry.verify()
    base = _ServedBase(model, _lora(final))
    answering: Any = method.restore(base, carry)
    if manifest.autocast is not None:
        compute_in(model, manifest.autocast)
    answering.requires_grad_(False)
    return answering.eval()


def compute_in(model: Any, dtype: str) -> None:
    """Let every forward of a model run under autocast, as the evaluation of a run with mixed precision does.

    Args:
        model: A Transformers model without adapters around it; changed in place.
        dtype: Name of a dtype, e.g. ``bfloat16``.

    Raises:
        RunStateError: If autocast has no such dtype.
    """
    import torch

    if dtype not in MIXED.values():
        fix = "Copy the folder again from its source."
        raise RunStateError(Problem(MANIFEST, f"'autocast' is {shown(repr(dtype))}.", fix))
    original = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(model.device.type, dtype=getattr(torch, dtype)):
            return original(*args, **kwargs)

    # not functools.wraps: it would also say that the wrapper is the library's own
    forward.__wrapped__ = original  # type: ignore[attr-defined]
    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    model.forward = forward


def _method(final: Final) -> Any:
    """The method of a ``final/`` with its options."""
    manifest = final.manifest
    name, package = manifest.method, manifest.package
    if name not in METHODS.names() and package:
        what = f"needs the method {shown(repr(name))} of the package '{shown(package)}', which is not installed."
        raise RecipeError(Problem(str(final.path), what, "Install the package, if you trust its source."))
    method = make_method(name, manifest.options or {}, where=f"{final.path / MANIFEST}: options")
    installed = _version(METHODS.distribution(name))
    if manifest.version is not None and installed != manifest.version:
        text = "%s was written with %s %s; %s is installed"
        logger.warning(text, final.path, package, manifest.version, installed)
    return method


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _lora(final: Final) -> LoraConfig | None:
    from peft import LoraConfig

    lora = final.manifest.lora
    if lora is None:
        return None
    given = lora.model_dump()
    # a pattern of full names, since PEFT takes the names of a list as endings
    pattern = "|".join(re.escape(name) for name in given.pop("target_modules"))
    return LoraConfig(task_type="CAUSAL_LM", target_modules=f"(?:{pattern})", **given)
