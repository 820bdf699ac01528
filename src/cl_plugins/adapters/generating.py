"""Settings of ``generate`` with which a model that chooses per row would choose, or answer, otherwise; they are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import CompatibilityError, Problem


#: Caches that grow with the answer, for which the model gets the attention mask that the caller gave.
_GROWING = (None, "dynamic", "dynamic_full", "offloaded", "quantized")
_ASSISTED = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


def check_generation(model: Any, given: Mapping[str, Any]) -> None:
    """Refuse settings that a routed model cannot be asked with.

    Args:
        model: The base.
        given: The arguments of its ``generate``, by name.

    Raises:
        CompatibilityError: Naming the setting.
    """

    def setting(name: str) -> Any:
        places = (given.get("generation_config"), getattr(model, "generation_config", None))
        values = [given.get(name), *(getattr(place, name, None) for place in places)]
        return next((value for value in values if value is not None), None)

    if setting("prefill_chunk_size") is not None:
        what = "with which the choice would be taken from the first part of a prompt alone."
        raise _refused("prefill_chunk_size", what)
    cache = setting("cache_implementation")
    if cache not in _GROWING or getattr(given.get("past_key_values"), "is_compileable", False):
        what = "whose attention mask does not say which tokens of a prompt are padding; the choice depends on it."
        raise _refused(f"cache_implementation={cache!r}" if cache else "a static cache", what)
    guessing = next((name for name in _ASSISTED if setting(name) is not None), None)
    if guessing is not None:
        what = "with which guessed tokens would stand behind the prompt when the choice is taken from it."
        raise _refused(guessing, what)


def _refused(setting: str, what: str) -> CompatibilityError:
    where = "generate of a model that chooses per row"
    return CompatibilityError(Problem(where, f"was called with `{setting}`, {what}", "Leave it out."))
