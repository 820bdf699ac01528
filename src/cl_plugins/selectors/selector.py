"""What a selector is asked: what it measures on a task, what it carries, how it scores rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..adapters.features import of_rows
from ..base.errors import CompatibilityError, Problem
from ..base.schema import nearest, option


if TYPE_CHECKING:
    from torch import Tensor

    from ..adapters.features import Kind
    from ..adapters.row_features import Rows
    from ..adapters.rows import RowState
    from ..contract.phase import Phase
    from ..contract.task import TaskContext
    from .clip import Clip


FEATURES = ("vision", "text", "hidden", "clip_image", "clip_text", "clip_text_pooled")
_SHORT = {"clip": ("clip_image", "clip_text")}


@dataclass(frozen=True)
class SelectorConfig:
    """Options that every selector has.

    Attributes:
        features: See `cl_plugins.contract.base_model.BaseModel.features`; several vectors are concatenated.
    """

    features: tuple[str, ...] = option(
        ("vision", "text"),
        help="What it looks at: `vision`, `text`, `hidden`, `clip_image`, `clip_text`, `clip` (the last two), "
        "`clip_text_pooled` (the text before its projection, as in MCITlib), or a list.",
    )
    clip: str | None = option(None, help="Folder of the CLIP model that `clip` features come from.")
    question_after: str = option(
        "",
        help="`clip_text` and `clip_text_pooled` read the prompt behind the last occurrence of this text, e.g. `USER:`; empty: all of it.",
    )
    question_before: str = option(
        "", help="`clip_text` and `clip_text_pooled` read up to this text, e.g. `ASSISTANT:`; empty: to the end."
    )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The features, short names written out."""
        return tuple(kind for name in self.features for kind in _SHORT.get(name, (name,)))

    def value_problems(self, where: str) -> list[Problem]:
        """Features that do not exist, and a CLIP that is missing or not used."""
        found, known = [], (*FEATURES, *_SHORT)
        for name in self.features:
            if name not in known:
                fix = f"{nearest(name, known)} Use {', '.join(known)}.".strip()
                found.append(Problem(f"{where}.features", f"there are no features called {name!r}.", fix))
        if not self.features or len(set(self.kinds)) < len(self.kinds):
            found.append(Problem(f"{where}.features", "is empty or names something twice.", "Name each once."))
        used = any(kind.startswith("clip_") for kind in self.kinds)
        if used and not self.clip:
            fix = "Give the folder of a CLIP model: `clip: models/clip-vit-large-patch14-336`."
            found.append(Problem(f"{where}.clip", "is missing, but `features` names `clip`.", fix))
        if self.clip and not used:
            fix = "Add `clip` to `features`, or leave it out."
            found.append(Problem(f"{where}.clip", "is given, but `features` does not use it.", fix))
        return found


class Selector(ABC):
    """Base class of all selectors.

    Attributes:
        kind: Name in recipes and in the entry point.
        config_class: Frozen dataclass of its options, a subclass of `SelectorConfig`.
        told: Whether the task is given at test; nothing is measured then.
        trained: Whether it learns in a further training of a task and measures no features, see
            `cl_plugins.selectors.trained.TrainedSelector`; it is a subclass.
        reveals: What its statistics could tell about the training data, in words.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type[SelectorConfig]] = SelectorConfig
    told: ClassVar[bool] = False
    trained: ClassVar[bool] = False
    reveals: ClassVar[str] = ""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def trains(self) -> bool:
        """Whether it has tensors that train with a task, see `training`; nothing is measured afterwards then."""
        return False

    def training(self, context: TaskContext) -> Any:
        """Put fresh tensors on the base of a task, see `cl_plugins.selectors.learning.KeyTraining`.

        Raises:
            CompatibilityError: If it trains nothing.
        """
        raise CompatibilityError(Problem(f"selector '{self.kind}'", "trains nothing.", "Use `measure`."))

    @cached_property
    def clip(self) -> Clip | None:
        """The CLIP that ``clip`` features come from, loaded at the first use; None without them."""
        from .clip import Clip

        config = self.config
        return Clip(config.clip, config.question_after, config.question_before) if config.clip else None

    @cached_property
    def looks(self) -> list[Kind]:
        """What is asked of a base about its rows, one entry for each of the features."""
        found: dict[str, Kind] = {}
        if self.clip is not None:
            clip = self.clip
            found = {"clip_image": clip.image, "clip_text": clip.text, "clip_text_pooled": clip.text_pooled}
        return [found.get(kind, kind) for kind in self.config.kinds]

    def identity(self) -> dict[str, Any]:
        """What statistics depend on besides the data, as JSON: those of another selector are refused."""
        found: dict[str, Any] = {"kind": self.kind, "features": list(self.config.kinds)}
        if self.clip is not None and not self.told:
            config = self.config
            found |= {"clip": self.clip.fingerprint, "question": [config.question_after, config.question_before]}
        return found

    def problems(self, where: str, keys: Mapping[str, Any]) -> list[Problem]:
        """What speaks against a run with these host keys, before anything loads."""
        found = []
        if self.config.clip and not Path(self.config.clip).is_dir():
            fix = "Download the model, and give its folder."
            found.append(Problem(f"{where}.clip", f"there is no folder {self.config.clip!r} here.", fix))
        if keys.get("streaming") and not self.told:
            what = "are streamed, but the selector reads each sample again after the training."
            found.append(Problem("streaming", f"training samples {what}", "Set `streaming: false`."))
        return found

    def join(self, values: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The features of rows as one vector each, which `measure` and `scores` get.

        Args:
            values: For each of the features (rows, width) in fp32, and which rows have it, (rows,) bool.

        Returns:
            (rows, width), fp64 on the CPU. By default the features next to each other, see `collect.vectors_of`.
        """
        from .collect import vectors_of

        return vectors_of(values)

    @abstractmethod
    def measure(self, vectors: Tensor) -> dict[str, Tensor]:
        """What adds up over the rows of a task.

        Args:
            vectors: (rows, width), fp64.

        Returns:
            Name -> tensor, fp64; sums over the rows.
        """

    @abstractmethod
    def merge(self, carried: dict[str, Tensor] | None, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is carried once a further task is learned.

        Args:
            carried: What was carried so far.
            own: The sums of `measure` over the task.
        """

    @abstractmethod
    def prepare(self, carried: dict[str, Tensor]) -> dict[str, Tensor]:
        """What scores rows, computed once when a model is put together."""

    @abstractmethod
    def scores(self, prepared: dict[str, Tensor], vectors: Tensor) -> Tensor:
        """How much rows are like each task.

        Args:
            prepared: What `prepare` gave, fp64 on the CPU.
            vectors: (rows, width), fp64 on the CPU.

        Returns:
            (rows, tasks), in the order in which the tasks were learned; the largest wins.
        """

    def of_rows(self, prepared: dict[str, Tensor], state: RowState, rows: Rows) -> Tensor:
        """Scores of the rows of a forward whose choice is being taken, see `scores`.

        Args:
            prepared: What `prepare` gave.
            state: The row state.
            rows: The rows.
        """
        return self.scores(prepared, self.join([of_rows(state, rows, look) for look in self.looks]))

    @property
    def phase(self) -> Phase | None:
        """The further training of a task in which it learns; None for selectors that only measure."""
        return None
