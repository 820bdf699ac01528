"""Query vectors: what a row is compared with keys by, from frozen parts of the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, DataError, Problem
from .features import KINDS, of_rows
from .pictures import check_known


if TYPE_CHECKING:
    from torch import Tensor

    from ..contract.base_model import BaseModel
    from .row_features import Rows
    from .rows import RowState


OPTION = "cl.method.query"


class Queries:
    """Makes one vector per row out of several kinds of features, each of length 1.

    Args:
        base: The base.
        kinds: See `BaseModel.features`. A base without a tower has no ``vision``, which is then left out.

    Raises:
        CompatibilityError: If nothing is left, or the pictures of the base cannot be told apart.
    """

    def __init__(self, base: BaseModel, kinds: Sequence[str]) -> None:
        model: Any = base.model
        words = int(model.get_input_embeddings().weight.shape[1])
        seen = getattr(getattr(model.config, "vision_config", None), "hidden_size", None)
        #: Kind -> width.
        self.widths = {
            kind: int(seen or 0) if kind == "vision" else words for kind in kinds if kind != "vision" or seen
        }
        if not self.widths:
            what = "is `vision`, and the base sees no pictures."
            raise CompatibilityError(Problem(OPTION, what, "Add `text`."))
        if "vision" in self.widths:
            check_known(model.config)
        self._base = base

    @property
    def width(self) -> int:
        """Width of a query."""
        return sum(self.widths.values())

    def of_rows(self, state: RowState, rows: Rows) -> dict[str, Tensor]:
        """The parts of the rows of a prompt whose choice is being taken, see `parts`."""
        return self.parts({kind: of_rows(state, rows, kind) for kind in self.widths})

    def of_batch(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The parts of a collated batch, see `parts`."""
        return self.parts({kind: self._base.features(inputs, kind) for kind in self.widths})

    def parts(self, values: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Unit vectors of each kind.

        Args:
            values: For each kind (rows, width) and which rows have it.

        Returns:
            Kind -> (rows, width) in fp32; 0 where a row does not have it.

        Raises:
            DataError: If a row has none of them.
            CompatibilityError: If a feature has another width than the base's configuration says.
        """
        import torch
        from torch.nn.functional import normalize

        if not bool(torch.stack([has for _, has in values.values()]).any(dim=0).all()):
            what = "is `vision`, and there is a row without a picture."
            raise DataError(Problem(OPTION, what, "Add `text`."))
        found = {}
        for kind, (value, has) in values.items():
            if value.shape[1] != self.widths[kind]:
                if bool(has.any()):
                    what = f"features of the kind {kind} have the width {value.shape[1]}, expected is {self.widths[kind]}."
                    raise CompatibilityError(Problem("the base model", what, f"Leave `{kind}` out of `{OPTION}`."))
                value = value.new_zeros(len(value), self.widths[kind])  # no row of the batch has a picture
            found[kind] = torch.where(has[:, None], normalize(value.float(), dim=1), 0.0)
        return found


def kind_problems(kinds: Sequence[str], where: str) -> list[Problem]:
    """What is wrong with the kinds of features that an option names."""
    from ..base.schema import nearest

    found = []
    for kind in kinds:
        if kind not in KINDS:
            fix = f"{nearest(kind, KINDS)} Use {', '.join(KINDS)}.".strip()
            found.append(Problem(where, f"there are no features called {kind!r}.", fix))
    if not kinds or len(set(kinds)) < len(kinds):
        found.append(Problem(where, "is empty or names something twice.", "Name each once."))
    return found
