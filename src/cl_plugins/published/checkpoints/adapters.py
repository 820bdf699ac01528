"""What trainings on LLaVA have left, as their code saves it.

* ``cl_lora.bin`` of MSLoRA-CR: the LoRA of one task, ``<layer>.cl_lora_pool.task_<n>_lora.lora_A``, with ``mslora_cfg`` in the
  ``config.json`` next to it;
* a folder of PEFT's (``adapter_config.json``, ``adapter_model.bin``), with LLaVA's ``non_lora_trainables.bin``: one LoRA, and the
  projector;
* such a folder of CoIN's and MCITlib's: several experts for each layer, ``<layer>.lora_A.loraA.<n>.weight``, routers, and anchors
  in ``non_lora_trainables.bin``.

A is (rank, in) and B is (out, rank) in all of them, and the term of a layer is ``alpha / rank * B A x`` with the rank of all
experts together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...base.errors import DataError, Problem
from .files import not_finite, read_json_object, read_tensors, weight_files
from .names import plain_name


if TYPE_CHECKING:
    from torch import Tensor


POOL, CONFIG, WHOLE = "cl_lora.bin", "adapter_config.json", "non_lora_trainables.bin"
_LORA = re.compile(r"^(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
_EXPERT = re.compile(
    r"^(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.lora[AB]\.(?P<number>\d{1,3})(?:\.mlp)?\.weight$"
)
_ROUTER = re.compile(r"^(?P<layer>.+)\.lora_router(?:\.default)?\.weight$")
_IN_POOL = re.compile(r"^(?P<layer>.+)\.cl_lora_pool\.task_(?P<number>\d{1,3})_lora\.lora_(?P<side>[AB])$")
_ANCHOR = re.compile(r"^(?:(?P<kind>image|text)_anchors|global_(?P<other>image|text)_feature)\.(?P<number>\d{1,3})$")
#: What takes no part in answers: how many samples an anchor is of, and MSLoRA-CR's trained weights of the loss.
_LEFT_OUT = re.compile(r"^(?:(?:image|text)_boundary\.\d{1,3}|alpha|beta)$")
_WHOLE = re.compile(r"^(?:multi_modal_projector|lm_head|embed_tokens)\.")


@dataclass
class Checkpoint:
    """What one training has left. Layers and modules have their names of `names.plain_name`.

    Attributes:
        path: The file or folder.
        kind: ``lora`` (one), ``experts`` (several for each layer), or ``pool`` (one, which knows the number of its task).
        files: The files that were read.
        factors: Number of the expert, or of the task -> layer -> ``A`` and ``B``.
        routers: Layer -> router, (experts, in).
        whole: Name of a parameter that was trained as a whole -> value.
        anchors: ``image`` or ``text`` -> number of the task -> (width,).
        scaling: ``alpha / rank``, or ``alpha / sqrt(rank)``; None where no file says it.
    """

    path: Path
    kind: Literal["lora", "experts", "pool"]
    files: tuple[Path, ...]
    factors: dict[int, dict[str, dict[str, Tensor]]] = field(default_factory=dict)
    routers: dict[str, Tensor] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)
    anchors: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    scaling: float | None = None

    @property
    def rank(self) -> int | None:
        """Rank of one expert; None if they differ."""
        ranks = {pair["A"].shape[0] for layers in self.factors.values() for pair in layers.values()}
        return next(iter(ranks)) if len(ranks) == 1 else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what a training has left.

    Args:
        path: A ``cl_lora.bin``, or a folder with one, or with an adapter of PEFT's.

    Raises:
        DataError: With every entry that is damaged, not known, or without its other half.
    """
    pool = path / POOL if path.is_dir() else path
    if path.is_dir() and (path / CONFIG).exists():
        return _peft(path)
    if path.is_file() or pool.is_file():
        return _pool(pool)
    what = f"holds neither {CONFIG} nor {POOL}." if path.is_dir() else "does not exist."
    raise DataError(Problem(str(path), what, "Give the folder of a training, or its file."))


def _pool(file: Path) -> Checkpoint:
    """``cl_lora.bin``."""
    problems: list[Problem] = []
    scaling, files = None, [file]
    config = file.with_name("config.json")
    if config.is_file():
        try:
            scaling = _pool_scaling(read_json_object(config).get("mslora_cfg"), config)
            files.append(config)
        except DataError as error:
            problems += error.problems
    found = Checkpoint(file, "pool", tuple(files), scaling=scaling)
    problems += _take(found, file, pools=True)
    if not problems and len(found.factors) != 1:
        numbers = ", ".join(str(number + 1) for number in sorted(found.factors)) or "none"
        what = f"holds the LoRAs of {len(found.factors)} tasks ({numbers}); one was expected."
        problems.append(Problem(str(file), what, "Give the file that MSLoRA-CR's training of one task has left."))
    return _whole(found, problems)


def _pool_scaling(said: Any, config: Path) -> float | None:
    """``alpha / rank`` of ``mslora_cfg``; None where the file has none.

    Raises:
        DataError: If rank or alpha are no positive numbers.
    """
    if said is None:
        return None
    rank, alpha = (said.get("lora_rank"), said.get("lora_alpha")) if isinstance(said, Mapping) else (None, None)
    if not _positive(rank) or not _positive(alpha):
        what = f"has lora_rank {rank!r} and lora_alpha {alpha!r}, which are no positive numbers."
        raise DataError(Problem(f"{config}: mslora_cfg", what, "Download the file again."))
    return float(alpha) / float(rank)


def _peft(folder: Path) -> Checkpoint:
    """A folder with an adapter of PEFT's, or of a copy of PEFT with experts."""
    problems: list[Problem] = []
    config: dict[str, Any] = {}
    try:
        config = read_json_object(folder / CONFIG)
    except DataError as error:
        problems += error.problems
    kind = str(config.get("peft_type", ""))
    experts = kind.startswith("MOE_LORA")
    if config:
        problems += _config_problems(config, folder / CONFIG)
    weights = weight_files(folder, ("adapter_model",))
    if not weights:
        what = "holds no adapter_model.safetensors or adapter_model.bin."
        problems.append(Problem(str(folder), what, "Download the whole folder."))
    more = [path for path in (folder / WHOLE,) if path.exists()]
    found = Checkpoint(folder, "experts" if experts else "lora", (folder / CONFIG, *weights, *more))
    for file in (*weights, *more):
        problems += _take(found, file)
    if not problems:
        problems += _rank_problems(found, config)
        found.scaling = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    return _whole(found, problems)


def _config_problems(config: Mapping[str, Any], path: Path) -> list[Problem]:
    """What an adapter has beside plain low-rank terms."""
    found = []
    kind = config.get("peft_type")
    if kind != "LORA" and not str(kind).startswith("MOE_LORA"):
        what = f"is {kind!r}, not 'LORA' or one of the MOE_LORA types of CoIN and MCITlib."
        found.append(Problem(f"{path}: peft_type", what, "Only LoRA on linear layers can be imported."))
    for key in ("r", "lora_alpha"):
        if not _positive(config.get(key)):
            found.append(Problem(f"{path}: {key}", f"is {config.get(key)!r}.", "It should be a number above 0."))
    wanted = {"bias": ("none", None), "use_dora": (False, None), "fan_in_fan_out": (False, None)}
    wanted |= {"rank_pattern": ({}, None), "alpha_pattern": ({}, None), "layer_replication": (None,)}
    for key, plain in wanted.items():
        if config.get(key) not in plain:
            what = f"is {config[key]!r}, which a plain LoRA does not have."
            found.append(Problem(f"{path}: {key}", what, "Only LoRA on linear layers can be imported."))
    return found


def _rank_problems(found: Checkpoint, config: Mapping[str, Any]) -> list[Problem]:
    """A rank that the weights do not have."""
    total = {
        sum(layers[name]["A"].shape[0] for layers in found.factors.values() if name in layers)
        for name in {name for layers in found.factors.values() for name in layers}
    }
    if total and total != {config["r"]}:
        what = f"is {config['r']}, and the weights have the rank {', '.join(map(str, sorted(total)))}."
        return [Problem(f"{found.path / CONFIG}: r", what, "Are both files of one training?")]
    return []


def _take(found: Checkpoint, file: Path, *, pools: bool = False) -> list[Problem]:
    """Sort the tensors of a file, and what is wrong with them.

    Args:
        found: Gets the tensors.
        file: The file.
        pools: Whether it is a ``cl_lora.bin``, whose names differ.
    """
    try:
        tensors = read_tensors(file)
    except DataError as error:
        return error.problems
    problems = []
    for name, value in tensors.items():
        where, plain = f"{file}: {name}", plain_name(name)
        problem = not_finite(where, value)
        if problem or not _sort(found, plain, value, pools):
            what = "is not known, or there twice with other values."
            problems += problem or [Problem(where, what, "Is it a file of this kind, complete and unchanged?")]
    return problems


def _sort(found: Checkpoint, name: str, value: Tensor, pools: bool) -> bool:
    """Put a tensor where it belongs; False if that is nowhere."""
    anchor = None if pools else _ANCHOR.match(name)
    if anchor is not None:
        kind = found.anchors.setdefault(anchor["kind"] or anchor["other"], {})
        return _put(kind, int(anchor["number"]), value.flatten())
    if _LEFT_OUT.match(name):
        return True
    router = None if pools else _ROUTER.match(name)
    if router is not None:
        return found.kind == "experts" and _put(found.routers, router["layer"], value)
    pattern = _IN_POOL if pools else _EXPERT if found.kind == "experts" else _LORA
    factor = pattern.match(name)
    if factor is not None and value.dim() == 2:
        number = int(factor["number"]) if "number" in factor.groupdict() else 0
        return _put(found.factors.setdefault(number, {}).setdefault(factor["layer"], {}), factor["side"], value)
    return not pools and _WHOLE.match(name) is not None and _put(found.whole, name, value)


def _put(place: dict[Any, Tensor], key: Any, value: Tensor) -> bool:
    """Keep a tensor; False if another one has its place. CoIN's experts may be saved under two names."""
    import torch

    if key in place:
        return torch.equal(place[key], value)
    place[key] = value
    return True


def _whole(found: Checkpoint, problems: list[Problem]) -> Checkpoint:
    """A checkpoint in which every factor has its other half.

    Raises:
        DataError: If not, or with the problems so far.
    """
    if not problems and not found.factors:
        problems.append(Problem(str(found.path), "holds no LoRA.", "Is it the right folder?"))
    for number, layers in found.factors.items():
        for layer, pair in layers.items():
            where = f"{found.path}: {layer}" + (f", number {number}" if found.kind != "lora" else "")
            if len(pair) < 2:
                what = f"has no {'B' if 'A' in pair else 'A'}."
                problems.append(Problem(where, what, "Download the file again."))
            elif pair["A"].shape[0] != pair["B"].shape[1]:
                what = f"has A of shape {list(pair['A'].shape)} and B of shape {list(pair['B'].shape)}."
                problems.append(Problem(where, what, "Is it the right file?"))
    if problems:
        raise DataError(problems)
    return found


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
