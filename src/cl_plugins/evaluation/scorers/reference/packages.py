"""Packages that the original implementations use: the code that runs has to be theirs, in their version."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from types import ModuleType

from ....base.errors import CompatibilityError, Problem


def need(module: str, package: str, where: str) -> ModuleType:
    """Import a module that only one scorer needs, from the package that it belongs to.

    Two packages may install the same folder: rouge-chinese has a folder ``rouge`` with code of its own. So the files
    next to the module are compared with what the package has installed.

    Args:
        module: Name of the module.
        package: The package, perhaps with the version that the original uses (``rouge==1.0.1``).
        where: The scorer.

    Raises:
        CompatibilityError: The package is not installed, has another version, or the module is another package's.
    """
    reason = _wrong(module, package)
    if reason is None:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            reason = str(error), True
    what, again = reason
    what = f"needs the package {package}, as the original does ({what})."
    raise CompatibilityError(Problem(where, what, f"pip install {'--force-reinstall ' if again else ''}{package}"))


@functools.cache
def _wrong(module: str, package: str) -> tuple[str, bool] | None:
    """What is wrong with a package, and whether it has to be installed again; None if nothing is."""
    name, _, version = package.partition("==")
    spec = importlib.util.find_spec(module.partition(".")[0])
    try:
        distribution = importlib.metadata.distribution(name)
    except PackageNotFoundError:
        return f"it is not installed{f'; {spec.origin} is of another package' if spec else ''}", False
    if version and distribution.version != version:
        return f"version {distribution.version} is installed", False
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        return str(error), True
    if spec is None or spec.origin is None or not _theirs(Path(spec.origin), distribution):
        found = f", {spec.origin}," if spec and spec.origin else ""
        return f"the module {module!r} that is found{found} is not the one that it has installed", True
    return None


def _theirs(file: Path, distribution: Distribution) -> bool:
    """Whether the Python files in the folder of ``file`` are as the package has installed them.

    A package without a list of its files (of a Linux distribution), or that is installed for editing, is trusted.
    """
    if distribution.files is None or _editable(distribution):
        return True
    folder, found = file.resolve().parent, False
    for listed in distribution.files:
        path = Path(str(distribution.locate_file(listed))).resolve()
        if path.parent != folder or path.suffix != ".py":
            continue
        found = found or path == file.resolve()
        if not path.is_file():
            return False
        if listed.hash is not None and _digest(path, listed.hash.mode) != listed.hash.value:
            return False
    return found


def _digest(path: Path, mode: str) -> str:
    """The hash of a file as lists of installed files write it."""
    return base64.urlsafe_b64encode(hashlib.new(mode, path.read_bytes()).digest()).rstrip(b"=").decode()


def _editable(distribution: Distribution) -> bool:
    try:
        return bool(json.loads(distribution.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return False
