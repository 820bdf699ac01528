"""A base of the original LLaVA in the layout of Transformers: configuration, weights, tokenizer and image processor.

The weights keep their values. The original has no token for a picture; Transformers needs one, and an embedding with its row.
New rows, of the embedding and of the output layer, are copies of those of the unknown token, so that the new tokens are never
the most probable one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from ...base.errors import DataError, ExportError, Problem
from ...base.files import write_with
from ...base.hashes import cached_sha256
from .files import not_finite, read_files, weight_files
from .llava_config import Layout, read_layout


if TYPE_CHECKING:
    from torch import Tensor


#: The token that stands for a picture.
PICTURE = "<image>"
_SHARD = 4_000_000_000  # bytes of one file of weights
_EMBEDDING, _OUTPUT = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
_LANGUAGE = re.compile(r"^model\.(?=layers\.|embed_tokens\.|norm\.)")
_PROJECTOR = {"model.mm_projector.0.": "linear_1", "model.mm_projector.2.": "linear_2"}
_TOWER = re.compile(r"^(?:model\.vision_tower\.(?:vision_tower\.)?)?vision_model\.")
#: Buffers that follow from the configuration, which older versions have saved.
_DERIVED = re.compile(r"\.(?:rotary_emb\.inv_freq|embeddings\.position_ids)$")
#: Parts of a CLIP that are no part of its tower.
_NOT_TOWER = re.compile(r"^(?:text_model|text_projection|visual_projection|logit_scale)\b")
_TOKENIZER = (
    "added_tokens.json", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json",
)  # fmt: skip


@dataclass(frozen=True)
class ConvertedBase:
    """What was written.

    Attributes:
        parameters: Number of parameters.
        dtype: Dtype of the language model's weights.
        tower: Where the weights of the vision tower come from: ``folder`` or ``checkpoint``.
        rows: Rows of the embedding, and how many of them are new.
        notes: What the reader should know.
    """

    parameters: int
    dtype: str
    tower: str
    rows: tuple[int, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Source:
    """A tensor, and where it was read."""

    path: Path
    name: str
    value: Tensor

    @property
    def where(self) -> str:
        return f"{self.path}: {self.name}"


def convert_base(
    source: Path, tower: Path, out: Path, *, tower_weights: Literal["folder", "checkpoint"] | None = None
) -> ConvertedBase:
    """Write a checkpoint of the original LLaVA as `transformers.LlavaForConditionalGeneration` reads it.

    Args:
        source: Folder of the checkpoint: ``config.json``, weights, tokenizer.
        tower: Folder of the CLIP model that is its vision tower.
        out: A new folder.
        tower_weights: Which weights of the tower are used. None: as LLaVA's code does, those of the checkpoint where
            ``unfreeze_mm_vision_tower`` is true, else those of the folder.

    Raises:
        DataError: With everything that cannot be converted; nothing is written then.
        ExportError: If the disk is too small.
    """
    layout = read_layout(source, tower)
    own = layout.own_tower if tower_weights is None else tower_weights == "checkpoint"
    layout = replace(layout, own_tower=own)
    tensors, notes = _tensors(source, tower, layout)
    tokenizer = _tokenizer(source)
    picture = int(tokenizer.convert_tokens_to_ids(PICTURE))
    known = _rows(tensors, _EMBEDDING) or layout.text["vocab_size"]
    rows = max(known, len(tokenizer))
    config = layout.config(rows, picture)
    _check(config, tensors, source)
    unknown = tokenizer.unk_token_id
    unknown = unknown if isinstance(unknown, int) and unknown < known else 0
    dtype = str(tensors[_EMBEDDING].value.dtype).removeprefix("torch.")
    _check_room(out, sum(each.value.nbytes for each in tensors.values()))

    def produce(folder: Path) -> None:
        folder.mkdir(parents=True)
        _write_weights(folder, tensors, rows, unknown)
        tokenizer.save_pretrained(folder)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        ids = {key: value for key, value in ids.items() if value is not None}
        _write_json(folder / "config.json", {**config, "torch_dtype": dtype, **ids})
        _write_json(folder / "generation_config.json", ids)
        _write_json(folder / "preprocessor_config.json", layout.pictures)
        _write_json(folder / "processor_config.json", _processor(layout))
        (folder / "README.md").write_text(_card(source, tower, layout), encoding="utf-8")

    write_with(out, produce)
    count = sum(each.value.numel() for each in tensors.values())
    return ConvertedBase(count, dtype, "checkpoint" if own else "folder", (rows, rows - known), tuple(notes))


def _tensors(source: Path, tower: Path, layout: Layout) -> tuple[dict[str, _Source], list[str]]:
    """Name in the layout of Transformers' hub -> tensor, and what the reader should know.

    Raises:
        DataError: With every file that is missing or cannot be read, and every name that is not known.
    """
    problems: list[Problem] = []
    read: dict[Path, dict[str, tuple[Path, Tensor]]] = {}
    for folder in dict.fromkeys((source, tower)):
        files = weight_files(folder, ("model", "pytorch_model"))
        if not files:
            what = "holds no weights (model.safetensors, pytorch_model.bin, or shards of them)."
            problems.append(Problem(str(folder), what, "Download the whole folder."))
            continue
        try:
            read[folder] = read_files(files)
        except DataError as error:
            problems += error.problems
    found: dict[str, _Source] = {}
    others: dict[str, _Source] = {}
    for name, (path, value) in read.get(source, {}).items():
        ours = _our_name(name)
        if ours is None:
            if not _DERIVED.search(name):
                what = "is no tensor of a LLaVA with two projector layers."
                problems.append(Problem(f"{path}: {name}", what, "Is it the right checkpoint?"))
        else:
            (others if ours.startswith("vision_tower.") else found)[ours] = _Source(path, name, value)
    notes = []
    if layout.own_tower and others:
        found |= others
    else:
        if layout.own_tower and source in read:
            what = "has no weights of a vision tower."
            problems.append(Problem(str(source), what, "Use those of the folder: `--tower-weights folder`."))
        for name, (path, value) in read.get(tower, {}).items():
            ours = _our_name(name) or _our_name(f"vision_model.{name}")
            if ours is not None and ours.startswith("vision_tower.") and not _NOT_TOWER.match(name):
                found[ours] = _Source(path, name, value)
    if others and not layout.own_tower:
        unlike = [n for n, each in others.items() if n in found and not _equal(each.value, found[n].value)]
        if unlike:
            notes.append(
                f"The checkpoint has weights of a vision tower of its own, {len(unlike)} of which differ from those in {tower}. They "
                "are not used, as in LLaVA's code without `unfreeze_mm_vision_tower`; `--tower-weights checkpoint` uses them."
            )
    if problems:
        raise DataError(problems)
    return found, notes


def _our_name(name: str) -> str | None:
    """A tensor's name in the layout of Transformers' hub; None if it is no part of a model, or a derived buffer."""
    if _DERIVED.search(name):
        return None
    if name == "lm_head.weight":
        return _OUTPUT
    if _LANGUAGE.match(name):
        return f"language_model.{name}"
    for theirs, ours in _PROJECTOR.items():
        if name.startswith(theirs):
            return f"multi_modal_projector.{ours}.{name.removeprefix(theirs)}"
    if _TOWER.match(name):
        return f"vision_tower.vision_model.{_TOWER.sub('', name)}"
    return None


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have equal values in the lower of their precisions."""
    import torch

    if a.shape != b.shape:
        return False
    dtype = min(a.dtype, b.dtype, key=lambda each: each.itemsize)
    return torch.equal(a.to(dtype), b.to(dtype))


def _check(config: Mapping[str, Any], tensors: Mapping[str, _Source], source: Path) -> None:
    """Compare names, shapes and values with the model that Transformers makes of the configuration.

    Raises:
        DataError: With every tensor that is missing, not known, of another shape, or has no finite values.
    """
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    try:
        with torch.device("meta"):
            model = LlavaForConditionalGeneration(LlavaConfig.from_dict(json.loads(json.dumps(config))))
    except Exception as error:  # a configuration from outside: any exception of the library says what is wrong with it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise DataError(
            Problem(str(source / "config.json"), f"makes no model ({reason}).", "Download it again.")
        ) from error
    wanted = {_in_memory(name): tuple(value.shape) for name, value in model.state_dict().items()}
    given = {_in_memory(name): each for name, each in tensors.items()}
    problems = []
    for name in sorted(wanted.keys() - given.keys()):
        problems.append(Problem(f"{source}: {name}", "is missing.", "Download all files of weights."))
    for name, each in given.items():
        if name not in wanted:
            what = "is no tensor of the model that config.json describes."
            problems.append(Problem(each.where, what, "Compare the files with their source."))
            continue
        shape, there = list(wanted[name]), list(each.value.shape)
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):  # rows may be added
            shape = [there[0] if there and there[0] <= shape[0] else shape[0], *shape[1:]]
        if there != shape:
            what = f"has the shape {there}; {shape} was expected."
            problems.append(Problem(each.where, what, "Compare the files with their source."))
        elif not each.value.is_floating_point():
            problems.append(Problem(each.where, "holds no floating-point numbers.", "Download the file again."))
        else:
            problems += not_finite(each.where, each.value)
    rows = {
        len(tensors[name].value) for name in (_EMBEDDING, _OUTPUT) if name in tensors and tensors[name].value.dim()
    }
    if len(rows) > 1:
        what = f"input embedding and output layer have different numbers of rows: {sorted(rows)}."
        problems.append(Problem(str(source), what, "Compare the files with their source."))
    if problems:
        raise DataError(problems)


def _rows(tensors: Mapping[str, _Source], name: str) -> int:
    """Rows of a matrix; 0 where it is missing."""
    return tensors[name].value.shape[0] if name in tensors and tensors[name].value.dim() else 0


def _in_memory(name: str) -> str:
    """A name without what differs between versions of Transformers."""
    name = name.replace("vision_model.", "").removeprefix("model.")
    return name.replace("language_model.model.", "language_model.").replace("language_model.lm_head.", "lm_head.")


def _tokenizer(source: Path) -> Any:
    """The checkpoint's tokenizer with a token for a picture, and with one for padding, as LLaVA's training sets it.

    Raises:
        DataError: If there is none, or it cannot be read without code that comes with it.
    """
    from transformers import AddedToken, AutoTokenizer

    files = [source / name for name in _TOKENIZER if (source / name).is_file()]
    # apart from `config.json`, whose `model_type` Transformers does not know
    with TemporaryDirectory(prefix="cl-plugins-") as scratch:
        for path in files:
            shutil.copyfile(path, Path(scratch) / path.name)
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(scratch, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # whatever the libraries say of files from outside
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300].replace(scratch, str(source))
            names = "tokenizer.model or tokenizer.json, tokenizer_config.json, special_tokens_map.json"
            fix = f"Download the files of the tokenizer: {names}."
            raise DataError(Problem(str(source), f"has no tokenizer that can be read ({reason}).", fix)) from error
    if tokenizer.pad_token is None and tokenizer.unk_token is not None:
        tokenizer.pad_token = tokenizer.unk_token
    tokenizer.add_tokens([AddedToken(PICTURE, special=True, normalized=False)], special_tokens=True)
    return tokenizer


def _write_weights(folder: Path, tensors: Mapping[str, _Source], rows: int, unknown: int) -> None:
    """Write safetensors files of at most `_SHARD` bytes, and their index if there are several."""
    from safetensors.torch import save_file

    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensors):
        size = tensors[name].value.nbytes
        if filled and filled + size > _SHARD:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    index: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        part = {}
        for name in names:
            value = tensors[name].value
            if name in (_EMBEDDING, _OUTPUT):
                value = _with_rows(value, rows, unknown)
            part[name] = value.contiguous()
            total += part[name].nbytes
            index[name] = file
        save_file(part, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def _with_rows(value: Tensor, rows: int, unknown: int) -> Tensor:
    """A matrix with copies of one of its rows at its end."""
    import torch

    added = rows - len(value)
    return value if not added else torch.cat([value, value[unknown : unknown + 1].expand(added, -1)])


def _processor(layout: Layout) -> dict[str, Any]:
    """``processor_config.json``."""
    return {
        "processor_class": "LlavaProcessor",
        "image_token": PICTURE,
        "patch_size": layout.vision["patch_size"],
        "vision_feature_select_strategy": layout.common["vision_feature_select_strategy"],
        "num_additional_image_tokens": 1,  # CLIP's class token
    }


def _card(source: Path, tower: Path, layout: Layout) -> str:
    """``README.md``: where the weights come from. Names of folders, without the places on this machine."""
    files = weight_files(source, ("model", "pytorch_model"))
    files += [] if layout.own_tower else weight_files(tower, ("model", "pytorch_model"))
    lines = [f"| {path.parent.resolve().name}/{path.name} | {cached_sha256(path)} |" for path in files]
    used = "the checkpoint's own" if layout.own_tower else "those of the folder"
    return (
        f"# {source.resolve().name} in the layout of Transformers\n\n"
        "Converted by `cl-plugins import base`. The values of the weights are unchanged; a token for pictures was added. "
        f"The weights of the vision tower are {used}. The licence is that of the sources.\n\n"
        "| file | SHA-256 |\n| --- | --- |\n" + "\n".join(lines) + "\n"
    )


def _check_room(out: Path, needed: int) -> None:
    """Refuse to begin what does not fit on the disk.

    Raises:
        ExportError: If it does not.
    """
    place = next((p for p in (out, *out.absolute().parents) if p.exists()), Path.cwd())
    free = shutil.disk_usage(place).free
    if free < needed * 1.05:
        what = f"needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free on its disk."
        raise ExportError(Problem(str(out), what, "Free some space, or choose another disk."))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
