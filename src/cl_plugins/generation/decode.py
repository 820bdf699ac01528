"""Greedy decoding for plain decoders: shared prefix computed once, prompts in parts, finished rows removed.

`transformers`' ``generate`` reads the beginning that all prompts share (a system prompt) again for every item, and
keeps a finished row in the batch until the longest answer is done. Both cost more than they need if answers of one
letter are mixed with captions. What is done here is the same greedy search on the same model; only the order of the
arithmetic differs, so that the texts can differ where two tokens are equally likely up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..adapters.kept import Kept, keep_on, kept_of
from .beginning import Beginning


if TYPE_CHECKING:
    import numpy as np
    import torch


#: Token ids of one prompt.
Tokens: TypeAlias = "Sequence[int] | np.ndarray"
#: Text decoders with rotary positions counted from the attention mask and a cache of all past keys and values.
TEXT_MODELS = ("llama", "mistral", "qwen2", "qwen3")
#: Models that put picture features in place of tokens and are such a decoder otherwise.
VISION_MODELS = ("llava",)
#: Towers that get pictures of one size, and nothing but them.
TOWERS = ("clip_vision_model", "dinov2", "dinov2_with_registers", "siglip_vision_model")
#: Settings of a model's own generation config that change greedy search, with the values at which they do nothing.
GREEDY_RULES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "guidance_scale", "num_beams"), (None, 1)),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length"), (None, 0)),
    **dict.fromkeys(("remove_invalid_values", "renormalize_logits", "token_healing"), (None, False)),
    **dict.fromkeys(
        ("bad_words_ids", "begin_suppress_tokens", "constraints", "dola_layers", "exponential_decay_length_penalty",
         "force_words_ids", "forced_bos_token_id", "forced_eos_token_id", "max_time", "min_new_tokens", "penalty_alpha",
         "prompt_lookup_num_tokens", "sequence_bias", "stop_strings", "suppress_tokens", "watermarking_config"),
        (None,),
    ),
}  # fmt: skip
_INPUTS = {"input_ids", "attention_mask", "pixel_values"}
#: Prompt tokens, padding included, that are read in one forward: on a CPU what stays in its cache, elsewhere what keeps
#: an accelerator busy without filling its memory with activations.
PREFILL_TOKENS = {"cpu": 4096, "accelerator": 32768}


def is_plain(model: Any) -> bool:
    """Whether `Decoder` may be used: a known architecture without windows, and no rule that changes greedy search.

    Args:
        model: The model that answers, with or without adapters.
    """
    config = model.config
    text = getattr(config, "text_config", None) or config
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    sees = config.model_type in VISION_MODELS and tower in TOWERS
    known = config.model_type in TEXT_MODELS or (sees and text.model_type in TEXT_MODELS)
    if not known or getattr(text, "sliding_window", None) is not None:
        return False
    if getattr(text, "_attn_implementation", None) not in ("sdpa", "eager"):
        return False
    rules = getattr(model, "generation_config", None)
    return all(getattr(rules, name, None) in neutral for name, neutral in GREEDY_RULES.items())


@dataclass
class _Rows:
    """Rows that are being answered: cache of keys and values, attention mask (rows, slots), logits of the next token."""

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor


class Decoder:
    """Answers batches of prompts with one model.

    Args:
        model: A model for which `is_plain` holds, in evaluation mode.
        beginning: From `common_beginning`; the prompts are given without it. A model that chooses per row must say what
            alone decides (`RowState.decided_by`).
        max_new_tokens: Longest answer in tokens.
        eos_token_ids: Tokens that end an answer.
        pad_token_id: Fed to rows that are finished but still in the batch.
    """

    def __init__(
        self,
        model: Any,
        beginning: Sequence[int],
        *,
        max_new_tokens: int,
        eos_token_ids: Sequence[int],
        pad_token_id: int,
    ) -> None:
        self._model = model
        self._beginning = Beginning(model, beginning)
        self._max_new_tokens = max_new_tokens
        self._eos = set(eos_token_ids)
        self._pad = pad_token_id

    def answer(self, parts: Iterable[dict[str, Any]]) -> list[list[int]]:
        """Answer one batch.

        Args:
            parts: Collated inputs of some of the prompts each, on the model's device, padded on the left.

        Returns:
            Token ids of the answers in the order of the parts, the closing token included.
        """
        return self._decode(_together([self._read(part) for part in parts]))

    def _read(self, inputs: dict[str, Any]) -> _Rows:
        """One forward over prompts."""
        import torch

        unknown = inputs.keys() - _INPUTS
        if unknown:
            raise ValueError(f"inputs that a plain decoder does not take: {', '.join(sorted(unknown))}")
        rows, begun = inputs["input_ids"].shape[0], len(self._beginning.tokens)
        cache, reading = self._beginning.before(inputs)
        mask = torch.cat([inputs["attention_mask"].new_ones(rows, begun), inputs["attention_mask"]], dim=1)
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, begun:]
        with reading:
            output = self._model(
                **{**inputs, "attention_mask": mask},
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return _Rows(output.past_key_values, mask, output.logits[:, -1].float())

    def _decode(self, rows: _Rows) -> list[list[int]]:
        import torch

        answers: list[list[int]] = [[] for _ in range(rows.logits.shape[0])]
        owners = list(range(len(answers)))  # whose answer each row of the batch is
        open_rows = set(owners)
        next_position = rows.mask.long().sum(-1)
        cache, mask, logits = rows.cache, rows.mask, rows.logits
        for step in range(1, self._max_new_tokens + 1):
            tokens = logits.argmax(-1)
            for owner, token in zip(owners, tokens.tolist(), strict=True):
                if owner in open_rows:
                    answers[owner].append(token)
                    if token in self._eos:
                        open_rows.discard(owner)
            if not open_rows or step == self._max_new_tokens:
                break
            if 4 * len(open_rows) <= 3 * len(owners):  # copying the cache pays when a quarter of it goes
                kept = [i for i, owner in enumerate(owners) if owner in open_rows]
                index = torch.tensor(kept, device=tokens.device)
                cache.batch_select_indices(index)
                carried = kept_of(cache)
                keep_on(cache, None if carried is None else carried.select(kept))
                tokens, mask, next_position = tokens[index], mask[index], next_position[index]
                owners = [owners[i] for i in kept]
            closed = [owner not in open_rows for owner in owners]
            if any(closed):
                tokens = tokens.masked_fill(torch.tensor(closed, device=tokens.device), self._pad)
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
            output = self._model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=next_position[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache, logits, next_position = output.past_key_values, output.logits[:, -1].float(), next_position + 1
        return answers


def _together(parts: list[_Rows]) -> _Rows:
    """The rows of several parts in one batch: shorter ones get unused slots on the left."""
    import torch
    from transformers import DynamicCache

    if len(parts) == 1:
        return parts[0]
    slots = max(part.mask.shape[1] for part in parts)
    missing = [slots - part.mask.shape[1] for part in parts]
    cache = DynamicCache()
    for number in range(len(parts[0].cache.layers)):
        layers = [part.cache.layers[number] for part in parts]
        both = []
        for name in ("keys", "values"):
            widened = [
                torch.nn.functional.pad(getattr(layer, name), (0, 0, n, 0))
                for layer, n in zip(layers, missing, strict=True)
            ]
            both.append(torch.cat(widened))
        cache.update(both[0], both[1], number)
        for layer in layers:  # one layer at a time is in memory twice, never the whole cache
            layer.keys = layer.values = None
    carried = [found for part in parts if (found := kept_of(part.cache)) is not None]
    keep_on(cache, Kept.join(carried) if carried else None)
    mask = torch.cat([torch.nn.functional.pad(p.mask, (n, 0)) for p, n in zip(parts, missing, strict=True)])
    return _Rows(cache, mask, torch.cat([part.logits for part in parts]))
