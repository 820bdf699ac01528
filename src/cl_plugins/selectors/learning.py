"""The keys of the selector `keys` while a task trains: parameters of the model, pulled to the features of every batch.

Imports torch at the top; import it where a model is put together.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from ..adapters.features import of_rows
from ..adapters.places import find_tower
from ..adapters.row_features import tower_width
from ..base import ranks
from ..base.errors import CompatibilityError, DataError, Problem


if TYPE_CHECKING:
    from ..adapters.row_features import Rows
    from ..adapters.rows import RowState
    from ..contract.task import TaskContext
    from .keys import Keys


#: Name of a key on the model, with the kind of features behind it.
PREFIX = "cl_key_"
#: Name of the buffer that says whether a row has pulled a key. That it has changed says nothing: weight decay moves every key.
PULLED = "cl_live_pulled_"


class KeyTraining:
    """The keys of one task; registered on the base, so that they train, and are saved, with the model.

    Args:
        selector: The selector.
        context: The task.

    Raises:
        DataError: If the width of a kind of features is not known before there are samples.
    """

    def __init__(self, selector: Keys, context: TaskContext) -> None:
        config = selector.config
        self._config, self._base = config, context.base
        self._looks = dict(zip(config.kinds, selector.looks, strict=True))
        self._latest: dict[str, tuple[Tensor, Tensor]] = {}
        self._pulled: set[str] = set()
        model: Any = context.base.model
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(context.seed)
        self._start: dict[str, Tensor] = {}
        for kind in config.kinds:
            width = width_of(selector, context, kind)
            if width is None:  # a base without a tower
                continue
            start = normalize(torch.randn(width, generator=generator), dim=0)
            self._start[kind] = start
            context.base.register(f"{PREFIX}{kind}", start.to(device, copy=True), trained=True)
            context.base.register(f"{PULLED}{kind}", torch.zeros((), dtype=torch.int64, device=device), trained=False)
        if not self._start:
            what = "looks at pictures only, and this base sees none."
            raise CompatibilityError(Problem("cl.method.selector.features", what, "Use `text`."))

    def see(self, state: RowState, rows: Rows) -> None:
        """Take the features of a batch from its own forward; called between the tower and the language model.

        Args:
            state: The row state.
            rows: The prompts.
        """
        adapted = getattr(self._base, "adapted", None)
        off = adapted.disable_adapter() if adapted is not None and "hidden" in self._start else nullcontext()
        with torch.no_grad(), off:
            self._latest = {kind: of_rows(state, rows, self._looks[kind]) for kind in self._start}
        for kind, (values, there) in self._latest.items():
            if bool(there.any()) and values.shape[1] != len(self._start[kind]):
                what = f"have the width {values.shape[1]}; {len(self._start[kind])} was expected."
                fix = "Use `learn: mean`, or other features."
                raise CompatibilityError(Problem(f"features '{kind}'", what, fix))
            if bool(there.any()):
                self._pulled.add(kind)
                getattr(self._base.model, f"{PULLED}{kind}").fill_(1)

    def terms(self) -> dict[str, Tensor]:
        """``L_align`` of the batch that was seen last."""
        if not self._latest:
            return {}
        keys = {kind: getattr(self._base.model, f"{PREFIX}{kind}") for kind in self._latest}
        return {"keys": self._config.weight * alignment(self._latest, keys, self._config.reduction)}

    def learning_rates(self) -> dict[str, float]:
        """The keys' factor on the recipe's learning rate."""
        return {f"{PREFIX}{kind}": self._config.rate for kind in self._start}

    def learned(self) -> dict[str, Tensor]:
        """The keys as `Anchors.join` lays out features, (1, features x width), fp64; 0 for one that no row has pulled.

        All processes take part.
        """
        width = max(map(len, self._start.values()))
        blocks = []
        for kind in self._config.kinds:
            block = torch.zeros(width, dtype=torch.float64)
            if kind in self._start:
                key = getattr(self._base.model, f"{PREFIX}{kind}").detach().cpu()
                if self._is_pulled(kind):
                    block[: len(key)] = key.double()
            blocks.append(block)
        return {"keys": torch.cat(blocks)[None]}

    def _is_pulled(self, kind: str) -> bool:
        """Whether a row of any process has had the features, in this process or before the checkpoint that it goes on from."""
        # DDP gives the buffer of the first process to the others, so that it alone does not know of theirs
        return ranks.any_true(kind in self._pulled or bool(getattr(self._base.model, f"{PULLED}{kind}")))


def alignment(features: dict[str, tuple[Tensor, Tensor]], keys: dict[str, Tensor], reduction: str = "mean") -> Tensor:
    """``sum over kinds f of mean over rows of (1 - cos(e_f, k_f))`` (BranchLoRA, L_align).

    Args:
        features: Kind -> (rows, width) and which rows have one, (rows,) bool.
        keys: Kind -> (width,).
        reduction: ``mean`` over the rows that have a kind, or ``sum``.

    Returns:
        A scalar. It depends on every key, so that each has a gradient in every step, as DDP demands.
    """
    total: Any = 0.0
    for kind, key in keys.items():
        values, there = features[kind]
        if values.shape[-1] != len(key):  # no row of the batch has it
            total = total + 0.0 * key.sum()
            continue
        values, mask = values.to(key.device, key.dtype), there.to(key.device, key.dtype)
        away = (mask * (1 - cosine_similarity(values, key[None], dim=1))).sum()
        total = total + (away / mask.sum().clamp(min=1) if reduction == "mean" else away)
    return total  # type: ignore[no-any-return]


def width_of(selector: Keys, context: TaskContext, kind: str) -> int | None:
    """Width of a kind of features; None for pictures where the base has no tower.

    Args:
        selector: The selector.
        context: The task.
        kind: One of the selector's `kinds`.

    Raises:
        DataError: If it is not known before there are samples.
    """
    model: Any = context.base.model
    if kind in ("text", "hidden"):
        return int(model.get_input_embeddings().weight.shape[1])
    if kind == "vision":
        return tower_width(model.config) if find_tower(model) is not None else None
    if selector.clip is not None:
        return selector.clip.width(kind)
    what = f"have a width that is not known before there are samples with `{kind}`."
    raise DataError(Problem(f"features '{kind}'", what, "Use `learn: mean`, which learns the keys afterwards."))
