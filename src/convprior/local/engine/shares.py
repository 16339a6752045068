"""How a thread's rows are cut into shares whose panels stay small and in the cache."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from convprior.local.engine.panels import panel_bytes
from convprior.local.engine.plan import OUTSIDE, POSITIONS, Plan, Share, Table

IMAGES = 160  # at once: enough to hide mixing, few enough for the panels to stay in the cache
PANELS = 2 << 20  # bytes of panels that a thread may keep, if a few columns need no more


def shares_of(plan: Plan, images: int, rows: tuple[int, int], columns: Table) -> Iterator[Share]:
    """Some rows of all images, in parts of nearly as many images, and of as many columns as fit.

    Gradients of given kernels are written, not added to: one part of images.

    Args:
        plan: the problem.
        images: how many there are.
        rows: the first row of targets and the one after the last.
        columns: the source column of each target column and column of taps.
    """
    parts = 1 if plan.given and plan.along_batch else -(-images // IMAGES)
    for first, last in pairwise(images * part // parts for part in range(parts + 1)):
        column_bytes = plan.slots * panel_bytes(plan, last - first)
        width = _width(columns, PANELS // column_bytes)
        for column in range(0, plan.target_width, width):
            after = min(column + width, plan.target_width)
            yield Share(first, last - first, *rows, column, after, *_sources(columns[column:after]))


def _width(columns: Table, fit: int) -> int:
    """Columns of targets, the most of equal parts, that read no more than ``fit`` of sources."""
    blocks = -(-len(columns) // POSITIONS)
    for parts in range(1, blocks):
        width = -(-blocks // parts) * POSITIONS
        starts = range(0, len(columns), width)
        if all(_sources(columns[start : start + width])[1] <= fit for start in starts):
            return width
    return POSITIONS


def _sources(columns: Table) -> tuple[int, int]:
    """The first source column that some targets read, and how many from there to the last."""
    read = columns[columns != OUTSIDE]
    if not len(read):
        return 0, 0
    return int(read.min()), int(np.ptp(read)) + 1
