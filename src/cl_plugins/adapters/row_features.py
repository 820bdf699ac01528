"""The rows of one forward and their features: vectors of the prompt from frozen parts of the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.errors import CompatibilityError, Problem
from .modes import looking
from .pictures import Shown, has_sizes, patches_of, vectors_of


if TYPE_CHECKING:
    from torch import Tensor


IGNORED = -100
#: The inputs for which a model calls its tower, in order.
MEDIA = ("pixel_values", "pixel_values_videos")


def places_of(where: Tensor) -> list[Any]:
    """The places of each row.

    Args:
        where: (rows, length), bool; at least one place per row.

    Returns:
        For each row a slice, or an index, (places,), where the places are not next to each other.
    """
    firsts, counts = where.long().argmax(dim=1).tolist(), where.sum(dim=1).tolist()
    ends = (where.shape[1] - where.flip(1).long().argmax(dim=1)).tolist()
    return [
        slice(first, end) if end - first == count else row.nonzero().reshape(-1)
        for row, first, end, count in zip(where, firsts, ends, counts, strict=True)
    ]


@dataclass(frozen=True)
class Seen:
    """One forward of the tower.

    Attributes:
        pictures: Its first tensor; None if it got none.
        output: What it gave.
    """

    pictures: Any
    output: Any

    @classmethod
    def of_call(cls, pictures: Any, output: Any) -> Seen:
        """One call of the tower; models go on to change the output that they get."""
        return cls(pictures, _copied(output))

    def given(self) -> Any:
        """The output, for a model that may change it."""
        return _copied(self.output)

    def of(self, pictures: Any) -> bool:
        """Whether these are the same pictures: a model may call its tower for pictures and again for videos."""
        import torch

        if pictures is None or self.pictures is None:
            return pictures is self.pictures
        return pictures.shape == self.pictures.shape and torch.equal(pictures, self.pictures)


class Rows:
    """What is known of the rows of a forward while their choice is taken.

    Args:
        model: The base.
        inputs: What its ``forward`` was called with.
        fresh: Whether it reads prompts, and not the next tokens of rows that have been given something.
        kept: What the rows have been given.

    Attributes:
        chosen: Whether the choice has been taken.
        shown: What the tower has given, one entry for each of its calls.
        told: The task that all rows are known to belong to, see `RowState.telling`; None where it is to be found out.
        learning: Whether the forward is one that is learned from.
        answers: Token ids and labels of the batches that are at work, see `cl_plugins.adapters.rows.answers_of`.
    """

    #: The inputs that make up a prompt.
    PROMPT: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "pixel_values", "position_ids")

    def __init__(self, model: Any, inputs: Mapping[str, Any], fresh: bool, kept: Any) -> None:
        self.model, self.inputs, self.fresh, self.kept = model, inputs, fresh, kept
        self.chosen = False
        self.told: str | None = None
        self.learning = False
        self.answers: Sequence[tuple[Tensor, Tensor]] = ()
        self.seen: Seen | None = None
        self.shown: list[Shown] = []

    @property
    def ids(self) -> Tensor:
        """(rows, length), the token ids.

        Raises:
            CompatibilityError: If the model was called with embeddings.
        """
        ids: Tensor | None = self.inputs.get("input_ids")
        if ids is None:
            what = "was called with `inputs_embeds`, but it chooses from tokens and pictures."
            raise CompatibilityError(Problem("a model that chooses per row", what, "Give `input_ids`."))
        return ids

    @property
    def count(self) -> int:
        """Number of rows."""
        given = self.inputs.get("input_ids")
        given = given if given is not None else self.inputs["inputs_embeds"]
        return int(given.shape[0])

    @cached_property
    def attended(self) -> Tensor:
        """(rows, length), bool: what is no padding.

        Raises:
            CompatibilityError: If several samples are packed into a row, or the mask has another shape.
        """
        import torch

        mask = self.inputs.get("attention_mask")
        if mask is None:
            return torch.ones_like(self.ids, dtype=torch.bool)
        if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
            what = "got an attention mask that does not say which tokens are padding: not of shape (rows, length), as with packed samples and static caches."
            fix = "Set `packing: false` and `neat_packing: false`, and leave the cache to `generate`."
            raise CompatibilityError(Problem("a model that chooses per row", what, fix))
        if bool((mask > 1).any()):
            what = "has several samples in a row; one of them would choose for the others."
            raise CompatibilityError(Problem("packing", what, "Set `packing: false` and `neat_packing: false`."))
        return mask[:, -self.ids.shape[1] :].bool()

    @property
    def first(self) -> Tensor:
        """(rows,), the first position that is no padding."""
        return self.attended.long().argmax(dim=1)

    @cached_property
    def prompt(self) -> Tensor:
        """(rows, length), bool: the prompt, without padding and without the answer that a training sample has.

        Raises:
            CompatibilityError: If a row has no prompt, or if it is learned from and nobody says where its answer begins.
        """
        labels = self._labels()
        if labels is None:
            return self.attended
        answer = ((labels != IGNORED) & self.attended).long().cumsum(dim=1) > 0
        prompt = self.attended & ~answer
        if not bool(prompt.any(dim=1).all()):
            what = "has a row without a prompt: every token has a label."
            raise CompatibilityError(Problem("training data", what, "Set `train_on_prompt: false`."))
        return prompt

    def _labels(self) -> Tensor | None:
        """The labels of these rows, given to the model or known beside it; None for prompts that have no answer yet."""
        import torch

        labels: Tensor | None = self.inputs.get("labels")
        if labels is not None and labels.shape == self.ids.shape:
            return labels
        for ids, known in reversed(self.answers):
            if ids.shape == self.ids.shape and torch.equal(ids.to(self.ids.device), self.ids):
                return known.to(self.ids.device)
        if self.learning:
            what = "is trained without `labels`, so that its answer would be read as a part of the prompt."
            fix = (
                "Train with `ContinualTrainerMixin`, or call the model with `labels`; around a forward of your own put "
                "`with answers_of(model, batch):` (cl_plugins.adapters.rows)."
            )
            raise CompatibilityError(Problem("a model that chooses per row", what, fix))
        return None

    @cached_property
    def prompt_places(self) -> list[Any]:
        """For each row the places of its prompt: a slice, or an index, (places,), if padding lies within the prompt."""
        return places_of(self.prompt)

    def see(self, seen: Seen) -> None:
        """Take what the tower gave in this forward.

        Args:
            seen: Its pictures and its output.
        """
        self.seen = seen
        given = [self.inputs.get(name) is not None for name in MEDIA]
        video = given[1] and (
            not given[0] or bool(self.shown)
        )  # a model calls its tower for pictures, then for videos
        vectors = patches_of(seen.output) if has_sizes(self.model.config) else vectors_of(seen.output)
        self.shown.append(Shown(self, video, vectors))

    @property
    def waits(self) -> bool:
        """Whether the tower is still to be called for the forward's videos."""
        return len(self.shown) < sum(self.inputs.get(name) is not None for name in MEDIA)

    @property
    def picture_rows(self) -> list[int]:
        """For each picture or video of the forward the number of its row; -1 for one that no row attends to.

        Raises:
            CompatibilityError: If that is not known for this base, see `check_known`.
        """
        return [row for shown in self.shown for row in shown.owners]

    @property
    def vision(self) -> tuple[Tensor, Tensor]:
        """Mean of a row's pictures, (rows, width) in fp32, and which rows have one, (rows,) bool."""
        import torch

        if not self.shown:
            return self.without_pictures(tower_width(self.model.config))
        return self.picture_means(torch.cat([shown.means for shown in self.shown]), self.picture_rows)

    def picture_means(self, pictures: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Mean over the pictures of each row.

        Args:
            pictures: (pictures, width), one vector for each picture.
            rows: For each picture the number of its row, or -1.

        Returns:
            (rows, width), and which rows have a picture, (rows,) bool.
        """
        import torch

        if not any(row >= 0 for row in rows):
            return self.without_pictures(pictures.shape[1])
        owner = torch.tensor(rows, device=pictures.device)
        member = (owner[None, :] == torch.arange(self.count, device=pictures.device)[:, None]).to(pictures.dtype)
        counts = member.sum(dim=1, keepdim=True)
        return member @ pictures / counts.clamp(min=1), counts[:, 0] > 0

    def without_pictures(self, width: int) -> tuple[Tensor, Tensor]:
        """What rows of text alone have: zeros, (rows, width), and that no row has a picture."""
        import torch

        device = self.ids.device
        return torch.zeros(self.count, width, device=device), torch.zeros(self.count, dtype=torch.bool, device=device)

    @property
    def words(self) -> Tensor:
        """(rows, length), bool: the prompt without the tokens of pictures."""
        return self.prompt & ~(self.is_picture(False) | self.is_picture(True))

    @property
    def text(self) -> Tensor:
        """Mean input embedding of the prompt without the tokens of pictures, (rows, hidden) in fp32."""
        embedding = self.model.get_input_embeddings()
        with looking(embedding):  # NEFTune's hook adds noise where the module trains
            return self.mean(embedding(self.ids), self.words)

    @staticmethod
    def mean(values: Tensor, where: Tensor) -> Tensor:
        """Mean over the positions of each row.

        Args:
            values: (rows, length, width).
            where: (rows, length), bool.

        Returns:
            (rows, width) in fp32.
        """
        import torch

        where = where.to(values.device)
        # row by row, so that neither padding nor the other rows of a batch change a bit of a row's mean
        return torch.stack([row[at].detach().float().mean(dim=0) for row, at in zip(values, where, strict=True)])

    def is_picture(self, video: bool) -> Tensor:
        """(rows, length), bool: tokens that stand for pictures, or for videos."""
        import torch

        names = ("video_token_id", "video_token_index") if video else ("image_token_id", "image_token_index")
        found = torch.zeros_like(self.ids, dtype=torch.bool)
        for number in {getattr(self.model.config, name, None) for name in names} - {None}:
            found |= self.ids == number
        return found


def _copied(output: Any) -> Any:
    """The same tensors in an object of their own."""
    return copy(output) if isinstance(output, dict) else output


def tower_width(config: Any) -> int:
    """Width of the tower's output, where a forward has no picture that would show it."""
    vision = getattr(config, "vision_config", None)
    return int(getattr(vision, "out_hidden_size", None) or getattr(vision, "hidden_size", None) or 1)
