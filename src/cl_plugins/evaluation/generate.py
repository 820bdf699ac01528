"""Greedy generation with the model in memory: batches sorted by length, stopping at EOS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch


@contextmanager
def answering(model: Any, tokenizer: Any) -> Iterator[None]:
    """Put model and tokenizer into the state for generation, and back afterwards.

    Left padding must not leak into training (it changes what is learned), and neither must ``use_cache`` or the mode.
    """
    side, training = tokenizer.padding_side, model.training
    config = getattr(model.config, "text_config", None) or model.config
    caches = [(c, c.use_cache) for c in {id(c): c for c in (model.config, config)}.values() if hasattr(c, "use_cache")]
    tokenizer.padding_side = "left"
    model.eval()
    for owner, _ in caches:
        owner.use_cache = True
    try:
        yield
    finally:
        tokenizer.padding_side = side
        model.train(training)
        for owner, value in caches:
            owner.use_cache = value


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of similar length, longest first (so that memory runs out early or never).

    Args:
        lengths: Prompt lengths in tokens.
        batch_size: Largest batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generate(
    model: Any,
    tokenizer: Any,
    collator: Callable[[list[dict[str, Any]]], Any],
    features: Sequence[dict[str, Any]],
    *,
    max_new_tokens: int,
    batch_size: int,
    eos_token_ids: Sequence[int],
    autocast_dtype: torch.dtype | None = None,
    synced: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """Answer every prompt greedily.

    Args:
        model: A model with ``generate``, in memory.
        tokenizer: Its tokenizer.
        collator: Makes a batch out of features; pads on the side that the tokenizer says.
        features: One per prompt, with ``input_ids``.
        max_new_tokens: Longest answer in tokens.
        batch_size: Largest batch.
        eos_token_ids: Tokens that end an answer.
        autocast_dtype: Compute in this dtype where the model mixes precisions.
        synced: All ranks must take part in every forward (partitioned weights).
        on_batch: Called with the number of answers after each batch; may raise to stop.

    Returns:
        The texts in the order of ``features``, special tokens removed.
    """
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(eos_token_ids),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        use_cache=True,
    )
    device = next(model.parameters()).device
    texts: list[str] = [""] * len(features)
    lengths = [len(feature["input_ids"]) for feature in features]
    with answering(model, tokenizer), torch.no_grad():
        for batch in length_sorted_batches(lengths, batch_size):
            inputs = collator([dict(features[i]) for i in batch])
            inputs = {k: v.to(device) if hasattr(v, "to") else v for k, v in dict(inputs).items() if k != "labels"}
            with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                output = model.generate(**inputs, generation_config=config, synced_gpus=synced)
            answers = output[:, inputs["input_ids"].shape[1] :]
            for i, text in zip(batch, tokenizer.batch_decode(answers, skip_special_tokens=True), strict=True):
                texts[i] = text
            if on_batch is not None:
                on_batch(len(batch))
    return texts
