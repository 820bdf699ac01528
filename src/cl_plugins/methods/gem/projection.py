"""The projection of GEM, in the space of one number per constraint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...adapters.batched import whole


if TYPE_CHECKING:
    from torch import Tensor


_RIDGE = 1e-10  # on the diagonal of the Gram matrix, relative to its mean: two tasks may have the same gradient


def projected(
    own: Sequence[Tensor], references: Sequence[Sequence[Tensor]], margin: float = 0.0
) -> list[Tensor] | None:
    """The gradient nearest to ``g`` that has no negative product with any reference (Lopez-Paz & Ranzato, GEM, 2017).

    ``g' = g + sum_k v_k r_k`` with ``v = argmin 1/2 v^T R R^T v + (R g)^T v`` subject to ``v_k >= margin``. With one
    reference and ``margin = 0`` it is A-GEM's ``g - (g^T r / r^T r) r`` (Chaudhry et al. 2019).

    Args:
        own: The gradient, in several tensors.
        references: For each constraint a gradient of the same shapes.
        margin: Smallest share of each reference in a gradient that is changed (GEM's gamma).

    Returns:
        The new gradient; None where no product is negative, so that nothing changes.
    """
    dots = [_dot(own, reference) for reference in references]
    if all(dot >= 0 for dot in dots):
        return None
    gram = [[_dot(a, b) for b in references] for a in references]
    shares = coefficients(gram, dots, margin)
    changed = []
    for place, value in enumerate(own):
        total = value
        for share, reference in zip(shares, references, strict=True):
            if share:
                total = total + share * reference[place].to(value)
        changed.append(total)
    return changed


def coefficients(gram: Sequence[Sequence[float]], dots: Sequence[float], margin: float = 0.0) -> list[float]:
    """``argmin 1/2 v^T P v + d^T v`` subject to ``v >= margin``, exact up to rounding.

    With ``u = v - margin`` and ``P = L L^T`` it is the non-negative least squares problem ``min |L^T u + L^-1 c|`` with
    ``c = d + P margin``.

    Args:
        gram: P, positive semidefinite, (constraints, constraints).
        dots: d, (constraints,).
        margin: Lower bound of every entry.

    Returns:
        v; 0 for a constraint whose reference is 0.
    """
    import numpy as np
    from scipy.linalg import solve_triangular
    from scipy.optimize import nnls

    p, d = np.array(gram, dtype=np.float64), np.array(dots, dtype=np.float64)
    there = np.flatnonzero(np.diag(p) > 0)
    found = np.zeros(len(d))
    if len(there):
        p, d = p[np.ix_(there, there)], d[there]
        lower = np.linalg.cholesky(p + _RIDGE * np.trace(p) / len(p) * np.eye(len(p)))
        u, _ = nnls(lower.T, -solve_triangular(lower, d + p.sum(axis=1) * margin, lower=True))
        found[there] = u + margin
    return [float(value) for value in found]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Inner product, accumulated in fp64."""
    return sum(float((whole(x).double() * whole(y).double()).sum()) for x, y in zip(a, b, strict=True))
