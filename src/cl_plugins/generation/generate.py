"""Greedy generation with the model in memory: batches sorted by length, stopping at EOS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..adapters.rows import state_of
from .answers import Answer, read_answers
from .beginning import common_beginning
from .decode import PREFILL_TOKENS, Decoder, Tokens, is_plain
from .prefetch import ahead


if TYPE_CHECKING:
    import torch


#: Settings of configs -> what they are while a model answers. With the logits of a mixture of experts' routers, Transformers
#: would compute their loss in every forward, which fails for the next token of a prompt.
_ANSWERING = {"use_cache": True, "output_router_logits": False}


@contextmanager
def answering(model: Any, tokenizer: Any) -> Iterator[None]:
    """Put model and tokenizer into the state for generation, and back afterwards.

    Left padding must not leak into training (it changes what is learned), and neither must settings or the mode.
    """
    side, training = tokenizer.padding_side, model.training
    tokenizer.padding_side = "left"
    model.eval()
    before = set_to_answer(model)
    try:
        yield
    finally:
        tokenizer.padding_side = side
        model.train(training)
        for config, name, value in before:
            setattr(config, name, value)


def set_to_answer(model: Any) -> list[tuple[Any, str, Any]]:
    """Set a model's configs, those of its parts included, so that it can generate.

    Args:
        model: A Transformers model, with or without adapters.

    Returns:
        Config, setting and former value of everything that was another.
    """
    owners = [getattr(module, "config", None) for module in model.modules()]
    owners += [getattr(owner, "text_config", None) for owner in owners]
    changed = []
    for config in {id(owner): owner for owner in owners}.values():
        for name, value in _ANSWERING.items():
            if hasattr(config, name) and getattr(config, name) != value:
                changed.append((config, name, getattr(config, name)))
                setattr(config, name, value)
    return changed


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first (so that memory runs out early or never).

    Args:
        lengths: Prompt lengths in tokens.
        batch_size: Largest batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def parts_by_tokens(batch: Sequence[int], lengths: Sequence[int], limit: int) -> list[list[int]]:
    """A batch cut where its prompts, padded to the longest of their part, would exceed ``limit`` tokens.

    Args:
        batch: Indices, longest prompt first.
        lengths: Prompt lengths in tokens.
        limit: Most tokens of a part; a prompt that is longer stands alone.
    """
    parts: list[list[int]] = []
    for i in batch:
        if parts and (len(parts[-1]) + 1) * lengths[parts[-1][0]] <= limit:
            parts[-1].append(i)
        else:
            parts.append([i])
    return parts


def generate(
    model: Any,
    tokenizer: Any,
    collator: Callable[[list[dict[str, Any]]], Any],
    features: Sequence[dict[str, Any]],
    prompts: Sequence[Tokens],
    *,
    batches: Sequence[Sequence[int]],
    max_new_tokens: int,
    eos_token_ids: Sequence[int],
    media_token_ids: Sequence[int] = (),
    thought_words: tuple[str, str] | None = None,
    autocast_dtype: torch.dtype | None = None,
    synced: bool = False,
    on_batch: Callable[[int, list[Answer]], None],
) -> None:
    """Answer every prompt greedily.

    Plain decoders (`is_plain`) are answered by `Decoder`, all others by the model's own ``generate``. Which prompts share a
    batch, and what they have in common, depends on the arguments alone, so that a batch gives the same texts in whichever
    process and order it is answered.

    Args:
        model: A model with ``generate``, in memory.
        tokenizer: Its tokenizer.
        collator: Makes a batch out of features; pads on the side that the tokenizer says.
        features: One per prompt, with ``input_ids``; asked for in a thread when the batch before theirs is answered, so that
            pictures are in memory two batches at a time.
        prompts: Token ids of all prompts, also of those that are in none of the batches.
        batches: Numbers of the prompts that are answered together, see `length_sorted_batches`.
        max_new_tokens: Longest answer in tokens.
        eos_token_ids: Tokens that end an answer.
        media_token_ids: Tokens that stand for pictures, videos or sounds.
        thought_words: See `cl_plugins.generation.answers.decode`.
        autocast_dtype: Compute in this dtype where the model mixes precisions.
        synced: All ranks must take part in every forward (partitioned weights).
        on_batch: Given the position of each batch and its answers; may raise to stop.
    """
    import torch

    device = next(model.parameters()).device
    plain = not synced and is_plain(model)
    state = state_of(model)
    shares = plain and (state is None or state.decided_by is not None)
    beginning = common_beginning(prompts, media_token_ids) if shares else []
    lengths = [len(prompt) - len(beginning) for prompt in prompts]
    limit = PREFILL_TOKENS["cpu" if device.type == "cpu" else "accelerator"]

    using = Lock()  # a fast tokenizer serves one thread at a time

    def collated(numbers: Sequence[int]) -> dict[str, Any]:
        rows = [dict(features[i]) for i in numbers]
        for row in rows:
            for key in ("input_ids", "attention_mask"):
                row[key] = row[key][len(beginning) :]
        with using:
            return dict(collator(rows))

    def placed(inputs: dict[str, Any]) -> dict[str, Any]:
        return {k: v.to(device) if hasattr(v, "to") else v for k, v in inputs.items() if k != "labels"}

    decoder = Decoder(
        model,
        beginning,
        max_new_tokens=max_new_tokens,
        eos_token_ids=eos_token_ids,
        pad_token_id=tokenizer.pad_token_id,
    )
    cuts = [parts_by_tokens(batch, lengths, limit) if plain else [list(batch)] for batch in batches]
    with (
        answering(model, tokenizer),
        torch.no_grad(),
        ahead(collated, [part for parts in cuts for part in parts]) as collated_parts,
    ):
        for position, parts in enumerate(cuts):
            recording: Any = nullcontext([]) if state is None else state.recording()
            autocast = torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None)
            with recording as chosen, autocast:
                ids: Any
                if plain:
                    ids = decoder.answer(map(placed, islice(collated_parts, len(parts))))
                else:
                    ids = _by_the_model(
                        model,
                        placed(next(collated_parts)),
                        synced,
                        do_sample=False,
                        num_beams=1,
                        max_new_tokens=max_new_tokens,
                        eos_token_id=list(eos_token_ids),
                        pad_token_id=tokenizer.pad_token_id,
                        bos_token_id=tokenizer.bos_token_id,
                        use_cache=True,
                    )
            with using:
                found = read_answers(
                    ids,
                    tokenizer,
                    max_new_tokens=max_new_tokens,
                    eos_token_ids=eos_token_ids,
                    thought_words=thought_words,
                )
            routes = [route for kept in chosen for route in kept.get("route", ())]
            if routes:
                found = [one._replace(route=route) for one, route in zip(found, routes, strict=True)]
            on_batch(position, found)


def _by_the_model(model: Any, inputs: dict[str, Any], synced: bool, **settings: Any) -> torch.Tensor:
    """Token ids of the answers, from the model's own ``generate``."""
    from transformers import GenerationConfig

    output = model.generate(**inputs, generation_config=GenerationConfig(**settings), synced_gpus=synced)
    answers: torch.Tensor = output[:, inputs["input_ids"].shape[1] :]
    return answers
