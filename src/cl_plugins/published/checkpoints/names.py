"""Names of tensors in the layouts of LLaVA, PEFT and Transformers, brought to one form.

`layers.0.self_attn.q_proj.lora_A.weight` is what the original LLaVA with PEFT saves as
``base_model.model.model.layers.0...``, and Transformers as ``base_model.model.model.language_model.layers.0...`` (version 5)
or ``base_model.model.language_model.model.layers.0...`` (version 4). LLaVA's ``mm_projector.0`` and ``.2`` are
``multi_modal_projector.linear_1`` and ``.linear_2``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ...base.errors import Problem


_OUTER = re.compile(r"^(?:(?:module|base_model|model|language_model)\.)+")
_PROJECTOR = {
    "mm_projector.0.": "multi_modal_projector.linear_1.",
    "mm_projector.2.": "multi_modal_projector.linear_2.",
}


def plain_name(name: str) -> str:
    """A name without the outer modules, with the projector as Transformers calls it.

    Args:
        name: As a file or a model has it.
    """
    inner = _OUTER.sub("", name)
    for theirs, ours in _PROJECTOR.items():
        if inner.startswith(theirs):
            return ours + inner.removeprefix(theirs)
    return inner


def by_plain_name(names: Iterable[str], where: str) -> tuple[dict[str, str], list[Problem]]:
    """Plain name -> name, and a problem for every two names that are one.

    Args:
        names: The names.
        where: The file, for messages.
    """
    found: dict[str, str] = {}
    problems = []
    for name in names:
        plain = plain_name(name)
        if plain in found:
            what = f"is the same as {found[plain]}."
            problems.append(Problem(f"{where}: {name}", what, "Keep one of the two."))
        found[plain] = name
    return found, problems
