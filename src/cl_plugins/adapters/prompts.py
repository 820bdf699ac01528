"""Soft prompts: vectors that are put into the language model behind the first token of each row.

They are put in before the inner model (the one without the output layer) and cut from its last hidden state, so that labels,
logits and loss outside of it have the length that the caller knows. With a cache of keys and values the prompts are in the
cache, and following tokens only get a longer mask and later positions. Which vectors a row gets is chosen by its row state.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem
from .places import find_decoder


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract.base_model import BaseModel
    from .row_features import Rows
    from .rows import RowState


#: What a row keeps: the number of its prompt tokens.
LENGTH = "prompt_tokens"
_WIDENED = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "cache_position")
_FIX = "Use a base with one position per token (LLaVA-1.5, LLaMA, Mistral, Qwen3), or a method without prompts."


def put_in(base: BaseModel, state: RowState, vectors: Callable[[Rows], Tensor]) -> None:
    """Put soft prompts into the language model of a base; `BaseModel.reset` takes them off.

    Args:
        base: The base.
        state: Its row state, from `BaseModel.rows`; its choice is taken before ``vectors`` is called.
        vectors: Gets the rows of a forward that reads prompts, returns (rows, count, hidden). Without a cache it is called at
            every token; what it returns must depend on `Rows.kept` and parameters only.

    Raises:
        CompatibilityError: If the positions of the base cannot be widened.
    """
    require_positions(base)
    decoder = find_decoder(base.model)
    name = next(n for n, module in base.model.named_modules() if module is decoder)
    prompts = _Prompts(state, vectors)
    base.hook(name, prompts.before, before=True)
    base.hook(name, prompts.after)


def require_positions(base: BaseModel) -> None:
    """Refuse a base between whose tokens no prompt can be put, see `position_problem`.

    Raises:
        CompatibilityError: If its positions cannot be widened.
    """
    problem = position_problem(base.model.config, f"the base model ({type(base.model).__name__})")
    if problem is not None:
        raise CompatibilityError(problem)


def position_problem(config: Any, where: str) -> Problem | None:
    """Why no prompt can be put between the tokens of a base; None where nothing speaks against it.

    Args:
        config: The base's Transformers configuration.
        where: The base, for the message.
    """
    kind = getattr(config, "model_type", "")
    if getattr(config, "is_encoder_decoder", False):
        what = f"is an encoder-decoder ({kind}); soft prompts are put into decoders only."
        return Problem(where, what, _FIX)
    if _holds(config.to_dict(), "mrope_section"):
        what = (
            f"has multimodal rotary positions ({kind}): time, height and width of every token. "
            "Soft prompts have none, so that the tokens behind them cannot be moved."
        )
        return Problem(where, what, _FIX)
    return None


def recipe_problems(keys: Mapping[str, Any]) -> list[Problem]:
    """`position_problem` of the base that a recipe names, where its configuration is on this machine.

    Args:
        keys: The recipe's host keys.
    """
    from transformers import AutoConfig

    name = str(keys.get("model_name_or_path") or "")
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=True)
    except Exception:  # a missing or unreadable configuration is reported by the host; `put_in` checks again
        return []
    problem = position_problem(config, "model_name_or_path")
    return [] if problem is None else [problem]


def _holds(value: Any, key: str) -> bool:
    """Whether a nested configuration has a key."""
    if not isinstance(value, dict):
        return False
    return bool(value.get(key)) or any(_holds(inner, key) for inner in value.values())


class _Prompts:
    """Hooks around the inner model.

    Args:
        state: The row state.
        vectors: See `put_in`.
    """

    def __init__(self, state: RowState, vectors: Callable[[Rows], Tensor]) -> None:
        self._state, self._vectors = state, vectors
        self._threads = threading.local()

    def before(self, module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Put the prompts in, or make room for those that are in the cache."""
        self._threads.keep = None
        if self._state.off:
            return args, kwargs
        rows = self._state.current
        given = {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}
        _check(given)
        cache = given.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()) > 0:
            return (), _lengthened(given, rows.kept[LENGTH][0])
        vectors = self._vectors(rows)
        rows.kept[LENGTH] = [int(vectors.shape[1])] * rows.count
        found, self._threads.keep = _widened(module, given, vectors)
        return (), found

    def after(self, module: Module, args: Any, output: Any) -> Any:
        """Cut the prompts from what the inner model gives."""
        keep = getattr(self._threads, "keep", None)
        if keep is None:
            return output
        self._threads.keep = None
        if isinstance(output, tuple):
            return (taken(output[0], keep), *output[1:])
        output["last_hidden_state"] = taken(output["last_hidden_state"], keep)
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(taken(one, keep) for one in output["hidden_states"])
        return output


def _check(given: Mapping[str, Any]) -> None:
    """Refuse inputs that cannot be widened.

    Raises:
        CompatibilityError: Naming the input.
    """
    import torch

    where = "soft prompts"
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if mask is not None and (not isinstance(mask, torch.Tensor) or mask.dim() != 2):
        what = "need an attention mask of shape (batch, length); this model or its cache makes another one."
        fix = "Use the default cache of Transformers, and samples that are not packed; or a method without prompts."
        raise CompatibilityError(Problem(where, what, fix))
    if positions is not None and positions.dim() != 2:
        what = f"need one position per token; this model has positions of shape {tuple(positions.shape)}."
        raise CompatibilityError(Problem(where, what, _FIX))
    other = [
        name
        for name, value in given.items()
        if isinstance(value, torch.Tensor) and value.dim() > 0 and name not in _WIDENED
    ]
    if other:
        what = f"do not go with this model, whose language model is also given '{other[0]}'."
        raise CompatibilityError(Problem(where, what, _FIX))


def _widened(module: Any, given: dict[str, Any], vectors: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The inputs of a forward over prompts with the vectors in them, and where the tokens are now, (rows, length)."""
    import torch

    found = dict(given)
    embedded = given.get("inputs_embeds")
    if embedded is None:
        embedded = module.get_input_embeddings()(found.pop("input_ids"))
    found.pop("input_ids", None)
    rows, length, _ = embedded.shape
    count = vectors.shape[1]
    mask = given.get("attention_mask")
    attended = torch.ones(rows, length, dtype=torch.bool, device=embedded.device) if mask is None else mask.bool()
    source, keep = places(attended, count)
    both = torch.cat([embedded, vectors.to(embedded.device, embedded.dtype)], dim=1)
    found["inputs_embeds"] = taken(both, source)
    if mask is not None:
        found["attention_mask"] = _with_ones(mask, count)
    positions = given.get("position_ids")
    if positions is not None:
        positions = positions.expand(rows, -1)
        first = _first(attended)[:, None]
        moved = torch.where(torch.arange(length, device=embedded.device) > first, positions + count, positions)
        own = positions.gather(1, first) + 1 + torch.arange(count, device=embedded.device)
        found["position_ids"] = torch.cat([moved, own], dim=1).gather(1, source)
    slots = given.get("cache_position")
    if slots is not None:
        found["cache_position"] = torch.cat([slots, slots[-1] + 1 + torch.arange(count, device=slots.device)])
    return found, keep


def _lengthened(given: dict[str, Any], count: int) -> dict[str, Any]:
    """The inputs of a following token, whose prompts are in the cache."""
    found = dict(given)
    mask, positions, slots = (given.get(name) for name in ("attention_mask", "position_ids", "cache_position"))
    if mask is not None:
        found["attention_mask"] = _with_ones(mask, count)
    if positions is not None:
        found["position_ids"] = positions + count
    if slots is not None:
        found["cache_position"] = slots + count
    return found


def _first(attended: Tensor) -> Tensor:
    """(rows,), the first position that is no padding."""
    return attended.long().argmax(dim=1)


def _with_ones(mask: Tensor, count: int) -> Tensor:
    """A mask, (rows, slots), with ``count`` attended slots behind the first one of each row."""
    import torch

    ones = mask.new_ones(len(mask), count)
    return torch.cat([mask, ones], dim=1).gather(1, places(mask.bool(), count)[0])


def places(attended: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where tokens and prompts come from and go to.

    Args:
        attended: (rows, length), bool; padding on either side.
        count: Number of prompt vectors of a row.

    Returns:
        For each position of the widened rows the position in ``[tokens; prompts]`` that stands there, (rows, length + count);
        and for each token its position in the widened rows, (rows, length). Both int64.
    """
    import torch

    rows, length = attended.shape
    first = _first(attended)[:, None]
    at = torch.arange(length + count, device=attended.device).expand(rows, -1)
    behind = torch.where(at <= first + count, length + at - first - 1, at - count)
    source = torch.where(at <= first, at, behind)
    tokens = at[:, :length]
    return source, torch.where(tokens <= first, tokens, tokens + count)


def taken(values: Tensor, index: Tensor) -> Tensor:
    """Some positions of each row.

    Args:
        values: (rows, length, width).
        index: (rows, positions), int64.

    Returns:
        (rows, positions, width).
    """
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[-1]))
