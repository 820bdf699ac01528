"""What a recipe would read if it were started now: the content of its data sets, its base, and the carry it begins with.

The same functions say it that a start compares with ``run.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import ClPluginsError, Problem
from ..contract.carry import Carry, carry_directory
from ..contract.packed import Pack
from ..recipe import expanded, parse_cl
from ..run.data_sets import FileHashes, absent_data, data_records
from ..run.state import RunState


if TYPE_CHECKING:
    from ..config import CLConfig
    from ..contract.host import Host

_NOWHERE = "no-such-directory"  # nothing is written; the host refuses a directory that holds an adapter


def read_all(
    recipes: Sequence[Mapping[str, Any]], hashes: Path, host_of: Callable[[Mapping[str, Any]], Host]
) -> list[dict[str, Any]]:
    """What recipes would read now.

    Args:
        recipes: Host keys and ``cl``.
        hashes: Where hashes of data files are kept from one time to the next; each file is hashed once for all recipes.
        host_of: Gives the host of a recipe.

    Returns:
        For each ``base``, ``data`` and ``carry`` as ``run.json`` has them; or ``problems``, if it cannot be said.
    """
    known, bases = FileHashes(hashes), dict[str, Any]()
    found = []
    for raw in recipes:
        try:
            found.append(_read(host_of(raw), raw, known, bases))
        except ClPluginsError as error:
            problems = getattr(error, "problems", None) or [Problem("cl", str(error), "")]
            found.append({"problems": [asdict(problem) for problem in problems]})
        except Exception as error:  # any exception of the host and its libraries
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            what = f"data and base cannot be read here ({reason})."
            found.append({"problems": [asdict(Problem("recipe", what, "Run `cl-plugins validate` with it."))]})
    known.save()
    return found


def _read(host: Host, raw: Mapping[str, Any], hashes: FileHashes, bases: dict[str, Any]) -> dict[str, Any]:
    keys = expanded({k: v for k, v in raw.items() if k != "cl"} | {"output_dir": _NOWHERE}, host.path_keys)
    config = parse_cl(raw.get("cl"), path_keys=host.path_keys).with_defaults(keys)
    if problems := absent_data(host, keys, config):
        return {"problems": [asdict(problem) for problem in problems]}
    about = json.dumps({k: v for k, v in keys.items() if k != "seed"}, sort_keys=True, default=str)
    if about not in bases:
        state = RunState.to_look(host, Path(_NOWHERE), host.looking_keys(keys), config)
        bases[about] = host.fingerprint(state.run_args)
    return {"base": bases[about], "data": data_records(host, keys, config, hashes), "carry": _carry(config)}


def _carry(config: CLConfig) -> str | None:
    """Which carry ``carry_from`` names; None without one, and where a pack is gone, which is not needed any more."""
    if config.block.carry_from is None:
        return None
    source = Path(config.block.carry_from)
    if source.is_dir():
        return Carry.open(carry_directory(source)).identity
    return Pack.open(source).record.identity if source.is_file() else None
