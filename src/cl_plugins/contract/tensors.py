"""The header of a safetensors file: names, dtypes and shapes of its tensors, without loading one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO, Any

from ..base.errors import Problem, RunStateError
from ..base.outside import parse_json
from ..records.pack import AGAIN
from ..records.record import shown


_LONGEST = 32 * 2**20  # bytes of a header, which is held in memory
_SIZES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor.

    Attributes:
        name: Its name.
        dtype: Its dtype, as safetensors writes it (``F32``).
        shape: Its shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


def read_header(file: IO[bytes], size: int, where: str) -> tuple[list[TensorInfo], dict[str, str]]:
    """The tensors of a safetensors file, and the texts that its header contains in addition.

    Args:
        file: The file, at its beginning.
        size: Its size in bytes.
        where: Its name, for messages.

    Returns:
        The tensors in the order of their bytes, and the header's ``__metadata__``.

    Raises:
        RunStateError: If it is no such file, or the tensors overlap or leave bytes that belong to none.
    """

    def refused(what: str) -> RunStateError:
        return RunStateError(Problem(where, f"is no safetensors file: {what}.", AGAIN))

    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _LONGEST):
        raise refused("its header is longer than the file")
    try:
        header = parse_json(file.read(length))
    except ValueError as error:
        raise refused(f"its header is not JSON ({shown(str(error), 200)})") from error
    if not isinstance(header, dict):
        raise refused("its header is no JSON object")
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(v, str) for v in texts.values()):
        raise refused("'__metadata__' is no mapping of texts")
    places = []
    for name, entry in header.items():
        info, begin, end = _tensor(name, entry, refused)
        if end - begin != math.prod(info.shape) * _SIZES[info.dtype]:
            raise refused(f"tensor {shown(repr(name))} has another size than its shape")
        places.append((begin, end, info))
    at = 0
    for begin, end, info in sorted(places, key=lambda place: place[:2]):
        if begin != at:
            raise refused(f"tensor {shown(repr(info.name))} does not follow the one before it")
        at = end
    if at != size - 8 - length:
        raise refused("it has bytes that belong to no tensor")
    return [info for _, _, info in sorted(places, key=lambda place: place[:2])], texts


def _tensor(name: str, entry: Any, refused: Any) -> tuple[TensorInfo, int, int]:
    """One entry of the header."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0

    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    right = isinstance(dtype, str) and dtype in _SIZES and isinstance(shape, list) and all(map(whole, shape))
    if not right or not isinstance(offsets, list) or len(offsets) != 2 or not all(map(whole, offsets)):
        raise refused(f"the entry of tensor {shown(repr(name))} cannot be read")
    return TensorInfo(name, str(dtype), tuple(shape)), offsets[0], offsets[1]  # type: ignore[arg-type]
