"""Slow oracle of the tap profile: float64, tap by tap. Only the tests import it."""

import itertools
import math

from torch import Tensor


def reference_taps(weight: Tensor) -> dict[str, float | None]:
    """Center, edge and corner of a filter bank by their definition.

    Args:
        weight: (filters, channels, *kernel_size).

    Returns:
        ``centre_edge``, ``centre_corner`` and ``centre_share``; None where there is no such tap.
    """
    sizes = weight.shape[2:]
    squares: dict[tuple[int, ...], float] = {}
    for tap in itertools.product(*(range(k) for k in sizes)):
        values = [float(filter_[(c, *tap)]) for filter_ in weight for c in range(weight.shape[1])]
        squares[tap] = math.fsum(v * v for v in values) / len(values)
    # Distance along each axis from the middle, as a share of the largest, and at its least.
    offsets = {
        tap: [abs(2 * t - (k - 1)) for t, k in zip(tap, sizes, strict=True)] for tap in squares
    }
    nearest = [0 if k % 2 else 1 for k in sizes]
    long = [axis for axis, k in enumerate(sizes) if k > 2]
    center, edge, corner = [], [], []
    for tap, offset in offsets.items():
        middle = [o == n for o, n in zip(offset, nearest, strict=True)]
        end = [o == k - 1 for o, k in zip(offset, sizes, strict=True)]
        if all(middle):
            center.append(squares[tap])
        if any(end[a] and all(m for b, m in enumerate(middle) if b != a) for a in long):
            edge.append(squares[tap])
        if len(long) > 1 and all(end[a] for a in long):
            corner.append(squares[tap])

    def ratio(outer: list[float]) -> float | None:
        if not outer:
            return None
        return math.sqrt(_mean(center) / _mean(outer))

    share = math.fsum(center) / math.fsum(squares.values())
    return {
        "centre_edge": ratio(edge),
        "centre_corner": ratio(corner),
        "centre_share": share if long else None,
    }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
