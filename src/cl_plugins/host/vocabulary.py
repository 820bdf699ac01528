"""Words that a template adds to the tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RecipeError


if TYPE_CHECKING:
    from .task_args import HostArgs


def check_added_tokens(args: HostArgs, tokenizer: Any, known: int) -> None:
    """Refuse a template whose words the base has no embeddings for; the training would stop at the first of them.

    Args:
        args: The host's arguments.
        tokenizer: The tokenizer, with the words of the template.
        known: Its size before.

    Raises:
        RecipeError: Naming the words.
    """
    from llamafactory.model import load_config

    config = load_config(args.model)
    rows = getattr(getattr(config, "text_config", None) or config, "vocab_size", None)
    if rows is None or len(tokenizer) <= rows:
        return
    words = ", ".join(tokenizer.convert_ids_to_tokens(range(known, len(tokenizer))))
    what = f"is {args.data.template!r}, whose words {words} are not in the base's vocabulary of {rows}."
    fix = "Use the base's own template, or add the words once (`resize_vocab`) and name the folder of that base."
    raise RecipeError(Problem("template", what, fix))
