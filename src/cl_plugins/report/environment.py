"""Where runs were made: the versions and machines behind a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .run_data import Run


@dataclass(frozen=True)
class Environment:
    """Versions and hardware that some runs of a comparison share.

    Attributes:
        versions: Package to version, as in ``run.json``.
        hardware: As in ``run.json``.
        runs: The names of the runs.
    """

    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    runs: tuple[str, ...]

    def __str__(self) -> str:
        """One line: the packages, then the machine."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return "; ".join(part for part in (packages, _machine(self.hardware)) if part) or "not recorded"


def environments(runs: Iterable[tuple[str, Run]]) -> tuple[Environment, ...]:
    """The distinct environments of named runs, in order of appearance.

    Args:
        runs: Name and run.
    """
    found: dict[str, tuple[Mapping[str, str], Mapping[str, Any], list[str]]] = {}
    for name, run in runs:
        versions, hardware = run.info.get("versions") or {}, run.info.get("hardware") or {}
        key = repr((sorted(versions.items()), sorted(hardware.items(), key=str)))
        found.setdefault(key, (versions, hardware, []))[2].append(name)
    return tuple(Environment(versions, hardware, tuple(names)) for versions, hardware, names in found.values())


def _machine(hardware: Mapping[str, Any]) -> str:
    """The machine as text; devices where there are any, else its processors."""
    system = str(hardware.get("platform") or hardware.get("machine") or "").partition("-")[0]
    kind = str(hardware.get("machine") or "")
    gpus = hardware.get("gpus") or ()
    counted = [", ".join(map(str, gpus))] if gpus else [f"{hardware['cpus']} CPUs"] if "cpus" in hardware else []
    processes = hardware.get("processes", 1)
    several = [f"{processes} processes"] if isinstance(processes, int) and processes > 1 else []
    return ", ".join(part for part in (" ".join(dict.fromkeys((system, kind))).strip(), *counted, *several) if part)
