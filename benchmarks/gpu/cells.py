"""What `benchmarks.gpu.run` measures: one cell per row of its table, the most important first.

A cell is a process of its own (a killed run needs three). What is refused together with ``cl:`` today stands in ``unchecked``: keys that
are added to the recipe after it was checked, so that the code below the check is measured with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from benchmarks.gpu.shapes import FULL, TINY, Scale
from benchmarks.step.routed import OPTIONS


LARGE, SMALL = "7b", "1b"
PLAIN = "plain LoRA"
#: Relative L2 distance that the updates of a resumed run may have from those of an uninterrupted one, unless two uninterrupted runs are
#: farther apart. On the CPU, and where every kernel is deterministic, the distance is 0.
TOLERANCE = 1e-3
#: LLaMA-Factory against itself: as many of its texts are equal when other items share a batch, and pad it, as rounding lets be equal.
FLOOR = "answers, llamafactory-cli, batches of 3"


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        name: The row, and its file: letters, digits and what `file_name` replaces.
        kind: ``base`` (make a model), ``train``, ``host answers``, ``our answers`` or ``resume``.
        model: ``7b`` or ``1b``.
        method: Method of the recipe; None for LLaMA-Factory without ``cl:``.
        options: The method's options.
        keys: LLaMA-Factory's keys beside the common ones.
        unchecked: Keys that are added below the check of the recipe (with a method), or plainly (without one).
        against: Name of the cell that the row is compared with.
        alike: Name of a cell whose losses it should have, up to rounding.
        packages: Modules that have to be installed.
        gpu: Whether the CPU twin leaves it out.
        seconds: About how long it takes on an H100-class card, for the time budget; those of an H200 with slow CPU cores.
        version: Of how it is measured; counts from 1.
    """

    name: str
    kind: str
    model: str = LARGE
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    unchecked: dict[str, Any] = field(default_factory=dict)
    against: str | None = None
    alike: str | None = None
    packages: tuple[str, ...] = ()
    gpu: bool = False
    seconds: int = 32
    version: int = 1

    @property
    def file_name(self) -> str:
        """Name of its record, without the ending."""
        return "".join(c if c.isalnum() else "_" for c in self.name.lower()).strip("_")

    def missing(self, has: Callable[[str], bool] | None = None) -> list[str]:
        """The packages that are not installed.

        Args:
            has: Whether a module can be imported; by default looks for it without importing it.
        """
        has = has or (lambda name: find_spec(name) is not None)
        return [name for name in self.packages if not has(name)]

    def digest(self, scale: Scale) -> str:
        """A hash over what is measured; a record with another one does not count as measured.

        Args:
            scale: Sizes of models and trainings.
        """
        content = {key: value for key, value in asdict(self).items() if key not in ("seconds", "version")}
        content |= {"version": self.version} if self.version > 1 else {}
        text = json.dumps([content, scale.plain()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _trained(name: str, method: str | None, **more: Any) -> Cell:
    return Cell(name, "train", method=method, **{"against": PLAIN if method else None, **more})


_STACK = {"consolidate": "stack"}
_FULL = {"finetuning_type": "full"}


def _pair(feature: str, keys: dict[str, Any], model: str, *, refused: bool = False, **more: Any) -> list[Cell]:
    """Plain LoRA and IncLoRA with a feature; what is refused today is added below the check."""
    given = {"unchecked" if refused else "keys": keys}
    plain = f"plain LoRA {model}, {feature}"
    short = {"seconds": 20, **more} if model == SMALL else more
    alike = {LARGE: ("inclora, stack", PLAIN), SMALL: ("inclora 1b, bf16", "plain LoRA 1b, bf16")}[model]
    own, host = alike if plain not in alike else (None, None)
    name = f"inclora {model}, {feature}"
    return [
        _trained(name, "inclora", options=_STACK, model=model, against=plain, alike=own, **given, **short),
        _trained(plain, None, model=model, keys=keys, alike=host, **short),
    ]


#: All cells in the order of their importance.
CELLS: tuple[Cell, ...] = (
    Cell("base 7b", "base", seconds=60),
    _trained(PLAIN, None),
    _trained("inclora, stack", "inclora", options=_STACK),
    Cell("base 1b", "base", SMALL, seconds=20),
    Cell("killed and resumed, inclora 1b", "resume", SMALL, "inclora", _STACK, seconds=100, version=2),
    Cell("answers, llamafactory-cli", "host answers"),
    Cell("answers, cl_plugins", "our answers", method="seqlora", against="answers, llamafactory-cli"),
    Cell(FLOOR, "host answers", keys={"per_device_eval_batch_size": 3}, against="answers, llamafactory-cli", seconds=60),
    _trained("seqlora", "seqlora"),
    _trained("olora, stack", "olora", options=_STACK),
    _trained("mslora_cr, stack", "mslora_cr", options=_STACK),
    _trained("moelora (routed)", "moelora", options=OPTIONS["moelora"]),
    *_pair("NF4", {"quantization_bit": 4}, LARGE, packages=("bitsandbytes",), gpu=True),
    _trained("seqfull 1b", "seqfull", model=SMALL, keys=_FULL, against="plain full 1b", seconds=25),
    _trained("plain full 1b", None, model=SMALL, keys=_FULL, seconds=20),
    *_pair("bf16", {}, SMALL),
    *_pair("fp16", {"fp16": True, "bf16": False}, SMALL, gpu=True),
    *_pair("Liger", {"enable_liger_kernel": True}, SMALL, refused=True, packages=("liger_kernel",), gpu=True),
    *_pair("gradient checkpointing", {"disable_gradient_checkpointing": False}, LARGE),
    *_pair("flash_attn: fa2", {"flash_attn": "fa2"}, LARGE, packages=("flash_attn",), gpu=True),
    *_pair("flash_attn: sdpa", {"flash_attn": "sdpa"}, SMALL),
    *_pair("torch_compile", {"torch_compile": True}, SMALL, refused=True, packages=("triton",), gpu=True, seconds=60),
    *_pair("Unsloth", {"use_unsloth": True}, SMALL, refused=True, packages=("unsloth",), gpu=True, seconds=40),
    *_pair("fp8", {"fp8": True}, SMALL, refused=True, packages=("torchao",), gpu=True, seconds=40),
    _trained(
        "olora 1b, fp16", "olora", options=_STACK, model=SMALL, unchecked={"fp16": True, "bf16": False},
        against="plain LoRA 1b, fp16", gpu=True, seconds=22,
    ),
    _trained("plain LoRA, once more", None, against=PLAIN),
)  # fmt: skip

SCALES = {"full": FULL, "tiny": TINY}


def by_name(cells: tuple[Cell, ...] = CELLS) -> dict[str, Cell]:
    """Cells by name."""
    return {cell.name: cell for cell in cells}


def base_of(cell: Cell) -> str:
    """Name of the cell that makes a cell's model."""
    return f"base {cell.model}"
