"""The rows of one forward and their features: vectors of the prompt from frozen parts of the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.errors import CompatibilityError, Problem
from .modes import looking


if TYPE_CHECKING:
    from torch import Tensor


IGNORED = -100
_PICTURES = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


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
        self._pictures: Tensor | None = None

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
            CompatibilityError: If several samples are packed into a row.
        """
        import torch

        mask = self.inputs.get("attention_mask")
        if mask is None:
            return torch.ones_like(self.ids, dtype=torch.bool)
        if mask.dim() != 2 or bool((mask > 1).any()):
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
        """Take what the tower gave in this forward: the pooled vector of each picture, or the mean of its last hidden states.

        Args:
            seen: Its pictures and its output.
        """
        self.seen, output = seen, seen.output
        pooled = getattr(output, "pooler_output", None)
        if pooled is None or not hasattr(pooled, "dim") or pooled.dim() != 2:
            last = output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0]
            pooled = last.mean(dim=1) if last.dim() == 3 else last
        self._pictures = pooled.detach().float()

    @cached_property
    def picture_rows(self) -> list[int]:
        """For each picture of the forward the number of its row; -1 for one that no row attends to.

        Raises:
            CompatibilityError: If the pictures do not have the same number of tokens, so that they cannot be told apart.
        """
        if self._pictures is None:
            return []
        tokens = self._is_picture()
        total, count = int(tokens.sum()), len(self._pictures)
        if not count or total % count:
            what = f"has {count} pictures with {total} tokens; pictures of different sizes cannot be told apart."
            raise CompatibilityError(Problem("features", what, "Use features of the text, or another base."))
        places = tokens.nonzero()[:: total // count]
        return [int(row) if bool(self.attended[row, at]) else -1 for row, at in places.tolist()]

    @property
    def vision(self) -> tuple[Tensor, Tensor]:
        """Mean of a row's pictures, (rows, width) in fp32, and which rows have one, (rows,) bool."""
        if self._pictures is None:
            return self.without_pictures(tower_width(self.model.config))
        return self.picture_means(self._pictures)

    def picture_means(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over the pictures of each row.

        Args:
            pictures: (pictures, width), one vector for each picture of the forward.

        Returns:
            (rows, width), and which rows have a picture, (rows,) bool.
        """
        import torch

        rows = self.picture_rows
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
        return self.prompt & ~self._is_picture()

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

    def _is_picture(self) -> Tensor:
        """(rows, length), bool: tokens that stand for pictures."""
        import torch

        numbers = {getattr(self.model.config, name, None) for name in _PICTURES} - {None}
        found = torch.zeros_like(self.ids, dtype=torch.bool)
        for number in numbers:
            found |= self.ids == number
        return found


def tower_width(config: Any) -> int:
    """Width of the tower's output, where a forward has no picture that would show it."""
    vision = getattr(config, "vision_config", None)
    return int(getattr(vision, "out_hidden_size", None) or getattr(vision, "hidden_size", None) or 1)
