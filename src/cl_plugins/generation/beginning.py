"""What all prompts begin with: computed once, or once for every part that answers them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ..adapters.rows import RowState, state_of


if TYPE_CHECKING:
    from torch import Tensor

    from .decode import Tokens


#: Keys and values of each layer, (1, heads, tokens, width).
_Layers = list[tuple["Tensor", "Tensor"]]


def common_beginning(prompts: Sequence[Tokens], never: Sequence[int]) -> list[int]:
    """Tokens with which every prompt begins; every prompt keeps at least one further token.

    Args:
        prompts: Token ids.
        never: Tokens that stand for pictures, videos or sounds; the beginning ends before the first of them.
    """
    if len(prompts) < 2:
        return []
    first = [int(token) for token in prompts[0]]
    shared = min(map(len, prompts)) - 1
    shared = next((i for i, token in enumerate(first[:shared]) if token in never), shared)
    for prompt in prompts:
        same = (int(a) == b for a, b in zip(prompt[:shared], first, strict=False))
        shared = next((i for i, equal in enumerate(same) if not equal), shared)
    return first[:shared]


class Beginning:
    """Keys and values of what all prompts begin with.

    A model that chooses per row (`RowState.decided_by`) takes its choice from the whole prompts first. Then the beginning is
    computed once for each number that a row was given.

    Args:
        model: The model that answers.
        tokens: From `common_beginning`.
    """

    def __init__(self, model: Any, tokens: Sequence[int]) -> None:
        self._model = model
        self.tokens = list(tokens)
        self._state: RowState | None = state_of(model) if self.tokens else None
        self._computed: dict[int, _Layers] = {}

    def before(self, inputs: dict[str, Any]) -> tuple[Any, AbstractContextManager[None]]:
        """A cache with the beginning of each prompt.

        Args:
            inputs: Collated prompts without their beginning, padded on the left.

        Returns:
            The cache, and the context in which the model reads the prompts.
        """
        from transformers import DynamicCache

        cache = DynamicCache()
        if not self.tokens:
            return cache, nullcontext()
        ids = inputs["input_ids"]
        if self._state is None:
            self._fill(cache, [0] * len(ids), ids)
            return cache, nullcontext()
        kept, seen = self._state.choose(self._whole(inputs))
        numbers = kept[str(self._state.decided_by)].tolist()
        for row, number in enumerate(numbers):
            if number not in self._computed:
                with self._state.giving(kept.select([row]), None):
                    self._compute(number, ids)
        self._fill(cache, numbers, ids)
        return cache, self._state.giving(kept, seen)

    def _whole(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The prompts with their beginning.

        What stands in the padding stays there: LLaMA-Factory's collator gives a batch of texts a picture in it.
        """
        import torch

        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        added, ones = ids.new_tensor(self.tokens), mask.new_ones(len(self.tokens))
        firsts = mask.argmax(dim=1).tolist()
        whole = torch.stack([torch.cat([row[:at], added, row[at:]]) for row, at in zip(ids, firsts, strict=True)])
        attended = torch.stack([torch.cat([row[:at], ones, row[at:]]) for row, at in zip(mask, firsts, strict=True)])
        positions = (attended.long().cumsum(-1) - 1).clamp(min=0)
        return {**inputs, "input_ids": whole, "attention_mask": attended, "position_ids": positions}

    def _compute(self, number: int, like: Tensor) -> None:
        from transformers import DynamicCache

        ids = like.new_tensor([self.tokens])
        filled = self._model(input_ids=ids, past_key_values=DynamicCache(), use_cache=True, logits_to_keep=1)
        self._computed[number] = [(layer.keys, layer.values) for layer in filled.past_key_values.layers]

    def _fill(self, cache: Any, numbers: Sequence[int], like: Tensor) -> None:
        """Give a cache the beginning of each row."""
        import torch

        if self._state is None and not self._computed:
            self._compute(0, like)
        first = numbers[0]
        same = all(number == first for number in numbers)
        for place, layer in enumerate(self._computed[first]):
            if same:
                both = [part.expand(len(numbers), -1, -1, -1) for part in layer]
            else:
                both = [torch.cat([self._computed[n][place][i] for n in numbers]) for i in range(2)]
            cache.update(both[0], both[1], place)
