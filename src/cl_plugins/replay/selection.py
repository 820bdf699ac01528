"""Which samples of a task are worth keeping: pure functions that put them in order, the best one first.

A buffer that shrinks keeps the beginning of each order, so every prefix is a selection of its own. Of samples that are
equally good the earliest is taken; distances of features closer than `TIE` count as equal, so that rounding, which
differs between machines, does not choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from numpy.typing import NDArray


FEATURES = ("herding", "k_center")
LOSSES = ("highest_loss", "lowest_loss")
TIE = 1e-9  # rows have length 1; rounding is about 1e-15


def random_order(keys: Sequence[float], count: int) -> list[int]:
    """``count`` samples by ascending key: a uniformly random sample in random order."""
    return sorted(range(len(keys)), key=lambda i: (keys[i], i))[:count]


def class_balanced(labels: Sequence[str], keys: Sequence[float], count: int) -> list[int]:
    """Round robin over the classes, random within a class and in the order of the classes.

    Args:
        labels: Class of each sample (here: the text of its answer).
        keys: A random number per sample.
        count: How many.
    """
    queues: dict[str, list[int]] = {}
    for i in random_order(keys, len(keys)):
        queues.setdefault(labels[i], []).append(i)
    order: list[int] = []
    turn = 0
    while len(order) < min(count, len(labels)):
        order += [queue[turn] for queue in queues.values() if turn < len(queue)]
        turn += 1
    return order[:count]


def _unit_rows(features: Any) -> NDArray[Any]:
    import numpy as np

    rows = np.asarray(features, dtype=np.float64)
    lengths: NDArray[Any] = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    unit: NDArray[Any] = rows / lengths
    return unit


def _earliest(distances: NDArray[Any]) -> int:
    """Index of the smallest distance; of equal ones the first."""
    return int((distances <= distances.min() + TIE).argmax())


def herding(features: Any, count: int) -> list[int]:
    """Greedily keep the mean of the kept samples close to the mean of all (Rebuffi et al., iCaRL, CVPR 2017, alg. 4).

    ``p_k = argmin_x | mu - (phi(x) + sum_{j<k} phi(p_j)) / k |`` over the samples that are left, phi of length 1.

    Args:
        features: (samples, width).
        count: How many.
    """
    import numpy as np

    rows = _unit_rows(features)
    mean, total = rows.mean(axis=0), np.zeros(rows.shape[1])
    left = np.ones(len(rows), dtype=bool)
    order: list[int] = []
    for k in range(1, min(count, len(rows)) + 1):
        distance = np.linalg.norm(mean - (rows + total) / k, axis=1)
        distance[~left] = np.inf
        best = _earliest(distance)
        order.append(best)
        left[best] = False
        total += rows[best]
    return order


def k_center(features: Any, count: int) -> list[int]:
    """Farthest-first traversal (Gonzalez 1985; Sener and Savarese, ICLR 2018), from the sample closest to the mean.

    Args:
        features: (samples, width); compared at length 1.
        count: How many.
    """
    import numpy as np

    rows = _unit_rows(features)
    if not len(rows) or count < 1:
        return []
    best = _earliest(np.linalg.norm(rows - rows.mean(axis=0), axis=1))
    nearest = np.full(len(rows), np.inf)
    order = [best]
    while len(order) < min(count, len(rows)):
        nearest = np.minimum(nearest, np.linalg.norm(rows - rows[best], axis=1))
        nearest[order] = -1.0
        best = _earliest(-nearest)
        order.append(best)
    return order


def by_loss(losses: Sequence[float], count: int, *, highest: bool) -> list[int]:
    """The samples with the highest or the lowest loss."""
    return sorted(range(len(losses)), key=lambda i: (-losses[i] if highest else losses[i], i))[:count]
