"""How many tokens and tower vectors each picture of a forward has, so that it is known which row a picture belongs to.

A model puts the features of its pictures, in order, in the place of the picture tokens of its rows, in order. The number of tokens
of a picture follows from what the processor gives with it (sizes, grids, tiles) in a way that differs between models. It is written
down here for those that are known; for all others it would be a guess, which is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from torch import Tensor

    from .row_features import Rows


#: The same number of tokens for everything that the tower reads: pictures, or tiles that are pictures of their own.
_ALIKE = ("aya_vision", "gemma3", "idefics3", "internvl", "llava", "paligemma", "smolvlm", "vipllava")
#: Tiles of a picture that the model packs into fewer tokens than they have features.
_TILES = ("llava_next", "llava_next_video", "llava_onevision")
#: Patches in a row, with a grid for each picture.
_GRIDS = (
    "glm4v", "glm4v_moe", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe",
    "qwen3_omni_moe_thinker", "qwen3_vl", "qwen3_vl_moe",
)  # fmt: skip
#: Models whose tower may be that of Pixtral: patches in a row, with a size for each picture.
_SIZES = ("llava", "mistral3")
_WHERE = "features of pictures"
_UNCUT = "Give what the processor of this base makes, uncut."
_FIX = "Use features of the text, or a base such as LLaVA, LLaVA-NeXT, Pixtral, Qwen-VL, InternVL or Gemma 3."


@dataclass(frozen=True)
class Layout:
    """What belongs to each picture of one call of the tower, in order.

    Attributes:
        parts: The numbers of vectors of the tower: 1, tiles, or patches.
        tokens: The numbers of tokens.
    """

    parts: tuple[int, ...]
    tokens: tuple[int, ...]


def has_sizes(config: Any) -> bool:
    """Whether a base has the tower of Pixtral: pictures of their own sizes, their patches in one row."""
    return config.model_type in _SIZES and getattr(config.vision_config, "model_type", "") == "pixtral"


def check_known(config: Any) -> None:
    """The pictures of a base can be told apart.

    Args:
        config: Its configuration.

    Raises:
        CompatibilityError: If not.
    """
    kind = getattr(config, "model_type", "")
    if kind not in (*_ALIKE, *_TILES, *_GRIDS) and not has_sizes(config):
        what = f"cannot be had from this base ({kind}): how many tokens each of its pictures has is not known, so that it cannot be said which row one belongs to."
        raise CompatibilityError(Problem(_WHERE, what, _FIX))


def check_whole(config: Any) -> None:
    """The forward of a base gets whole pictures, which another model can look at as well.

    Args:
        config: Its configuration.

    Raises:
        CompatibilityError: If not.
    """
    check_known(config)
    if config.model_type in (*_TILES, *_GRIDS, "idefics3", "smolvlm"):
        what = f"cannot be had from this base ({config.model_type}): its forward gets tiles or patches, which are not whole pictures."
        raise CompatibilityError(Problem("features `clip_image`", what, "Use `vision` features."))


@dataclass(frozen=True, eq=False)
class Shown:
    """What one call of the tower has given for pictures, or for videos.

    Attributes:
        rows: The rows of the forward.
        video: Whether it was called for videos.
        vectors: (parts, width) in fp32.
    """

    rows: Rows
    video: bool
    vectors: Tensor

    @cached_property
    def layout(self) -> Layout:
        """What belongs to each picture.

        Raises:
            CompatibilityError: If that is not known for this base, or does not fit tokens and vectors.
        """
        total = int(self.rows.is_picture(self.video).sum())
        found = _layout(self.rows.model, self.rows.inputs, self.video, len(self.vectors), total)
        if sum(found.parts) != len(self.vectors) or sum(found.tokens) != total:
            what = (
                f"do not fit: {len(found.tokens)} pictures should have {sum(found.tokens)} tokens and {sum(found.parts)} vectors, "
                f"and there are {total} tokens and {len(self.vectors)} vectors."
            )
            raise CompatibilityError(Problem(_WHERE, what, _UNCUT))
        return found

    @cached_property
    def owners(self) -> list[int]:
        """For each picture the number of its row; -1 for one that no row attends to.

        Raises:
            CompatibilityError: As for `layout`; also if the tokens of a picture lie in several rows.
        """
        places = self.rows.is_picture(self.video).nonzero()
        found, at = [], 0
        for count in self.layout.tokens:
            rows = places[at : at + count, 0]
            if not count or bool((rows != rows[0]).any()):
                what = "do not fit: a picture has its tokens in several rows, or none."
                raise CompatibilityError(Problem(_WHERE, what, _UNCUT))
            row, first = places[at].tolist()
            found.append(row if bool(self.rows.attended[row, first]) else -1)
            at += count
        return found

    @cached_property
    def means(self) -> Tensor:
        """(pictures, width), the mean of each picture's vectors."""
        import torch

        return torch.stack([part.mean(dim=0) for part in self.vectors.split(list(self.layout.parts))])

    def owners_of(self, shape: tuple[int, ...]) -> tuple[int, list[int]]:
        """Whose the entries of a tensor are that is computed from the tower's output.

        Args:
            shape: Its shape.

        Returns:
            The dimension, the first or the second, that holds tiles, patches or tokens of all pictures; and the row of each.

        Raises:
            CompatibilityError: If there is no such dimension.
        """
        for dim in (0, 1) if len(shape) > 2 and shape[0] == 1 else (0,):
            for counts in (self.layout.parts, self.layout.tokens):
                if shape[dim] == sum(counts):
                    pairs = zip(self.owners, counts, strict=True)
                    return dim, [row for row, count in pairs for _ in range(count)]
        what = f"get a tensor of shape {shape} for {len(self.owners)} pictures of {sum(self.layout.parts)} parts."
        raise CompatibilityError(Problem("modules with a version per task", what, "Leave the projector frozen."))


def vectors_of(output: Any) -> Tensor:
    """The vectors of a tower's output, one for each tile or patch that it gives as one: pooled, or the mean of its last hidden states.

    Args:
        output: What the tower gave.

    Returns:
        (parts, width) in fp32.
    """
    pooled = getattr(output, "pooler_output", None)
    if pooled is None or not hasattr(pooled, "dim") or pooled.dim() != 2:
        last = getattr(output, "last_hidden_state", None)
        last = last if last is not None else output if hasattr(output, "dim") else output[0]
        pooled = last.mean(dim=1) if last.dim() == 3 else last
    found: Tensor = pooled.detach().float()
    return found


def patches_of(output: Any) -> Tensor:
    """(patches, width) in fp32, of a tower that gives the patches of all pictures as one row."""
    last = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
    found: Tensor = last.detach().float().flatten(0, -2)
    return found


def _layout(model: Any, inputs: Mapping[str, Any], video: bool, count: int, total: int) -> Layout:
    """See `Shown.layout`."""
    config = model.config
    check_known(config)
    if config.model_type in _GRIDS:
        given = inputs.get("video_grid_thw" if video else "image_grid_thw")
        patches = int(config.vision_config.spatial_merge_size) ** 2  # of a token
        sizes = tuple(int(n) // patches for n in _given(given, config).prod(dim=-1).tolist())
        return Layout(sizes, sizes)
    if has_sizes(config) and not video:
        grids = _given(inputs.get("image_sizes"), config) // int(config.vision_config.patch_size)
        merged = grids // int(getattr(config, "spatial_merge_size", 1))
        return Layout(tuple(grids.prod(dim=-1).tolist()), tuple(merged.prod(dim=-1).tolist()))
    if config.model_type in _TILES:
        return _videos(inputs, total) if video else _tiles(model, inputs)
    if video:
        what = f"cannot be had from the videos of this base ({config.model_type})."
        raise CompatibilityError(Problem(_WHERE, what, _FIX))
    each, rest = divmod(total, count)
    if rest:
        what = f"do not fit: {count} pictures of the same number of tokens have {total} together."
        raise CompatibilityError(Problem(_WHERE, what, _UNCUT))
    return Layout((1,) * count, (each,) * count)


def _given(value: Any, config: Any) -> Tensor:
    import torch

    if value is None:
        what = f"cannot be had: the forward of this base ({config.model_type}) did not get the sizes of its pictures."
        raise CompatibilityError(Problem(_WHERE, what, "Give all that its processor makes."))
    return torch.as_tensor(value)


def _tiles(model: Any, inputs: Mapping[str, Any]) -> Layout:
    """Pictures cut into tiles; the model's own code says into how many tokens it packs them."""
    import torch
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    config = model.config
    sizes = _given(inputs.get("image_sizes"), config).cpu()
    vision = config.vision_config
    per_row = inputs.get("batch_num_images")  # several pictures of a row are not cut
    cut = (
        [True] * len(sizes)
        if per_row is None
        else [n == 1 for n in torch.as_tensor(per_row).tolist() for _ in range(n)]
    )
    tiles = [
        int(image_size_to_num_patches(size, config.image_grid_pinpoints, vision.image_size)) if one else 1
        for size, one in zip(sizes.tolist(), cut, strict=True)
    ]
    inner = model.model if hasattr(model.model, "pack_image_features") else model
    wanted = inspect.signature(inner.pack_image_features).parameters
    settings = {
        name: inputs.get(name) or getattr(config, name)
        for name in ("vision_feature_select_strategy", "vision_aspect_ratio")
        if name in wanted
    }
    patches = (vision.image_size // vision.patch_size) ** 2
    blank = [torch.zeros(count, patches, 1) for count in tiles]
    packed, _ = inner.pack_image_features(blank, sizes, image_newline=torch.zeros(1), **settings)
    return Layout(tuple(tiles), tuple(len(one) for one in packed))


def _videos(inputs: Mapping[str, Any], total: int) -> Layout:
    """Videos of the same number of frames, and so of tokens."""
    count, frames = inputs["pixel_values_videos"].shape[:2]
    return Layout((int(frames),) * int(count), (total // int(count),) * int(count))
