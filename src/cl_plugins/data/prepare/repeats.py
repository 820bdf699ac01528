"""Ids that occur more than once, found with eight bytes per record."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from typing import Any

from .extras import library


def key(identity: str) -> int:
    """64 bits that stand for an id."""
    # A lone surrogate has no UTF-8; raw files may hold one, and ids are not checked yet where they are counted.
    return int.from_bytes(hashlib.blake2b(identity.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def repeated(identities: Iterable[str]) -> Any:
    """The keys of ids that were seen before, once for each time.

    Args:
        identities: The ids; read once, not kept.

    Returns:
        A numpy array of uint64, sorted; its length is the number of repetitions.
    """
    numpy: Any = library("numpy")
    keys = array("Q", (key(identity) for identity in identities))
    if len(keys) < 2:
        return numpy.empty(0, dtype=numpy.uint64)
    ordered = numpy.frombuffer(keys, dtype=numpy.uint64)
    ordered.sort()  # in place: the array is not needed in its order
    return ordered[1:][ordered[1:] == ordered[:-1]]
