"""Features of a CLIP model beside the base: of the pictures that a row shows, and of its question.

Both come from what the base's forward is called with, so that they are the same in training, evaluation, ``generate`` and a
chat: pictures from ``pixel_values``, brought to CLIP's size and scale, and the question from the token ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from ..adapters.pictures import check_whole, has_sizes
from ..base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from torch import Tensor

    from ..adapters.row_features import Rows


_WHERE = "cl.method.selector.clip"


class Clip:
    """A CLIP model, and how prompts are read for it.

    Args:
        folder: Its folder.
        after: The question begins behind the last occurrence of this text; empty for the whole prompt.
        before: The question ends before this text; empty for the end of the prompt.
    """

    def __init__(self, folder: str, after: str = "", before: str = "") -> None:
        self._folder, self._after, self._before = folder, after, before

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the two projections, which tells one CLIP from another."""
        digest = hashlib.sha256()
        for part in (self._model.visual_projection, self._model.text_projection):
            digest.update(part.weight.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()

    def width(self, kind: str) -> int:
        """Width of one of its features."""
        config = self._model.config
        return int(config.text_config.hidden_size if kind == "clip_text_pooled" else config.projection_dim)

    @property
    def _model(self) -> Any:
        return _clip(self._folder)

    def image(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Mean projected embedding of a row's pictures.

        Args:
            rows: The rows of a prompt.

        Returns:
            (rows, width) in fp32, and which rows have a picture, (rows,) bool.

        Raises:
            CompatibilityError: If the base's forward does not get whole pictures.
        """
        import torch

        check_whole(rows.model.config)
        shown = next((shown for shown in rows.shown if not shown.video), None)
        if shown is None:
            return rows.without_pictures(self._model.config.projection_dim)
        pixels, owners = rows.inputs["pixel_values"], shown.owners
        if pixels.dim() != 4 or pixels.shape[1] != 3 or len(pixels) != len(owners):
            what = f"gets pictures as a tensor of shape {tuple(pixels.shape)}, which are not whole pictures."
            raise CompatibilityError(Problem(f"base {type(rows.model).__name__}", what, "Use `vision` features."))
        model = self._model.to(pixels.device)
        sizes = rows.inputs["image_sizes"] if has_sizes(rows.model.config) else None
        with torch.no_grad():
            given = torch.cat([self._as_clip_sees(part, rows.model) for part in _cut(pixels.float(), sizes)])
            return rows.picture_means(_vectors(model.get_image_features(pixel_values=given)), owners)

    def text(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Projected embedding of the question, cut at the length of CLIP.

        Of a question that is not delimited (``after`` and ``before``) the end is kept, else its beginning.

        Args:
            rows: The rows of a prompt.

        Returns:
            (rows, width) in fp32, and that every row has one, (rows,) bool.
        """
        return self._read(rows, pooled=False)

    def text_pooled(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """As `text`, before the projection: not in the space of the pictures. The anchors of MCITlib's HiDe and DISCO are of it."""
        return self._read(rows, pooled=True)

    def _read(self, rows: Rows, *, pooled: bool) -> tuple[Tensor, Tensor]:
        import torch

        device = rows.ids.device
        model, tokenizer = self._model.to(device), _tokenizer(self._folder)
        tokenizer.truncation_side = "right" if self._after or self._before else "left"
        inputs = tokenizer(
            self.questions(rows),
            padding=True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(device)
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            values = _vectors(model.text_model(**given) if pooled else model.get_text_features(**given), pooled=pooled)
        return values, torch.ones(len(values), dtype=torch.bool, device=device)

    def questions(self, rows: Rows) -> list[str]:
        """The questions of rows as text."""
        tokenizer = _tokenizer(_folder_of(rows.model))
        texts = [
            tokenizer.decode(ids[words].tolist(), skip_special_tokens=True)
            for ids, words in zip(rows.ids, rows.words, strict=True)
        ]
        if self._after:
            texts = [text.rpartition(self._after)[2] for text in texts]
        if self._before:
            texts = [text.partition(self._before)[0] for text in texts]
        return [text.strip() for text in texts]

    def _as_clip_sees(self, pixels: Tensor, base: Any) -> Tensor:
        """Pictures of the base in the size and scale of CLIP; unchanged where both are the same."""
        from torch.nn.functional import interpolate

        own, theirs = _scale(_folder_of(base)), _scale(self._folder)
        if own != theirs:
            mean, std = (pixels.new_tensor(x)[None, :, None, None] for x in own)
            pixels = (pixels * std + mean).clamp(0, 1)
        size = self._model.config.vision_config.image_size
        if tuple(pixels.shape[-2:]) != (size, size):
            pixels = interpolate(pixels, (size, size), mode="bicubic", antialias=True)
        if own != theirs:
            mean, std = (pixels.new_tensor(x)[None, :, None, None] for x in theirs)
            pixels = (pixels - mean) / std
        return pixels


def _vectors(output: Any, *, pooled: bool = False) -> Tensor:
    """The embeddings; Transformers 5 gives also projected ones inside an output object."""
    value = output if hasattr(output, "dim") and not pooled else output.pooler_output
    found: Tensor = value.detach().float()
    return found


def _cut(pixels: Tensor, sizes: Any) -> list[Tensor]:
    """Pictures as batches: all at once, or one by one without their padding, which depends on the others of the batch.

    Args:
        pixels: (pictures, 3, height, width).
        sizes: (pictures, 2), the height and width of each; None where all have the same.
    """
    if sizes is None:
        return [pixels]
    return [one[None, :, :height, :width] for one, (height, width) in zip(pixels, sizes.tolist(), strict=True)]


def _folder_of(base: Any) -> str:
    """Where the base's tokenizer and image processor are.

    Raises:
        CompatibilityError: If the base was not loaded from a folder or a hub.
    """
    name = getattr(base.config, "_name_or_path", "")
    if not name:
        what = "does not say where it was loaded from, so that its tokenizer cannot be found."
        raise CompatibilityError(Problem("base", what, "Load it with `from_pretrained`, or use `vision` and `text`."))
    return str(name)


@contextmanager
def _said(folder: str) -> Iterator[None]:
    """What cannot be loaded from a folder, as a problem of the selector."""
    try:
        yield
    except (OSError, ValueError) as error:
        what = f"needs a part of {folder!r} that cannot be loaded ({error})."
        fix = "Give the folder of a CLIP model with tokenizer and image processor."
        raise CompatibilityError(Problem(_WHERE, what, fix)) from error


@lru_cache(maxsize=2)
def _clip(folder: str) -> Any:
    """The CLIP model of a folder, frozen, in fp32; loaded once per process."""
    from transformers import AutoConfig, CLIPModel

    with _said(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != "clip":
        what = f"{folder!r} holds a model of type {config.model_type!r}."
        raise CompatibilityError(Problem(_WHERE, what, "Give the folder of a CLIP model."))
    with _said(folder):
        model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
    return model.float().eval().requires_grad_(False)


@lru_cache(maxsize=4)
def _tokenizer(folder: str) -> Any:
    """The tokenizer of a folder."""
    from transformers import AutoTokenizer

    with _said(folder):
        return AutoTokenizer.from_pretrained(folder)


@lru_cache(maxsize=4)
def _scale(folder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that pictures are scaled with."""
    from transformers import AutoImageProcessor

    with _said(folder):
        processor = AutoImageProcessor.from_pretrained(folder)
    return tuple(processor.image_mean), tuple(processor.image_std)
