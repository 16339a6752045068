"""Panels: the N x C matrix of one position, contiguous, as the micro-kernel likes to read it.

In a channels-last tensor the rows of that matrix lie H * W * C elements apart, often a power of
two: each row in another page, all in the same few sets of the cache. So the rows of an image are
copied into panels just before use, each once, into a slot that a row no longer needed leaves.
"""

from convprior.local.engine.compiling import compiled
from convprior.local.engine.copying import copy, interleave, interleave_zeros, widen
from convprior.local.engine.plan import OUTSIDE, Plan, Share, Table

_APART = 64  # bytes between panels, lest their size be a multiple of the cache's period


@compiled
def panel_bytes(plan: Plan, images: int) -> int:
    """From a panel to the next."""
    if plan.pairs and plan.along_batch:
        return (images + 1) // 2 * plan.source_channels * 4 + _APART
    return images * plan.words * 4 + _APART


@compiled
def row_bytes(plan: Plan, share: Share) -> int:
    """From a row of panels to the next."""
    return share.sources * panel_bytes(plan, share.images)


@compiled
def keep_rows(
    plan: Plan, needed: Table, kept: Table, slots: Table, image: int, panels: int, share: Share
) -> None:
    """Makes sure that the rows ``needed[tap]`` have panels.

    Args:
        plan: the problem.
        needed: rows of the image, or ``OUTSIDE``.
        kept: the row in each slot; changed.
        slots: the slot of each needed row; written.
        image: its address.
        panels: the address of the slots.
        share: which images.
    """
    for tap in range(len(needed)):
        slots[tap] = _find(kept, needed[tap]) if needed[tap] != OUTSIDE else OUTSIDE
    for tap in range(len(needed)):
        if needed[tap] == OUTSIDE or slots[tap] != OUTSIDE:
            continue
        oldest = -1
        for slot in range(len(kept)):
            free = kept[slot] == OUTSIDE or _find(needed, kept[slot]) == OUTSIDE
            if free and (oldest < 0 or kept[slot] < kept[oldest]):
                oldest = slot
        kept[oldest], slots[tap] = needed[tap], oldest
        _load_row(plan, image, needed[tap], panels + oldest * row_bytes(plan, share), share)


@compiled
def _find(rows: Table, row: int) -> int:
    for index in range(len(rows)):
        if rows[index] == row:
            return index
    return OUTSIDE


@compiled
def _load_row(plan: Plan, image: int, row: int, panels: int, share: Share) -> None:
    """Copies a row (N, W, C) into panels: (W, N, C), or (W, N / 2, C, 2) of pairs of images.

    W are the columns that the share reads.
    """
    pixel = plan.source_channels * plan.itemsize
    whole = plan.source_height * plan.source_width * pixel
    channels = plan.source_channels
    apart = panel_bytes(plan, share.images)
    by_twos = plan.pairs and plan.along_batch
    for n in range(0, share.images, 2 if by_twos else 1):
        source = image + (share.first_image + n) * whole
        source += (row * plan.source_width + share.first_source) * pixel
        target = panels + (n // 2 * channels * 4 if by_twos else n * plan.words * 4)
        for _ in range(share.sources):
            load(plan, target, source, whole if n + 1 < share.images else 0, channels)
            source += pixel
            target += apart


@compiled
def load(plan: Plan, target: int, source: int, next_image: int, channels: int) -> None:
    """Copies the channels of one pixel as the micro-kernel takes them.

    With pairs of images, ``next_image`` is the distance to the other one, 0 if there is none.
    """
    if plan.itemsize == 4:
        copy(target, source, 2 * channels)
    elif not plan.pairs:
        widen(target, source, channels)
    elif not plan.along_batch:
        copy(target, source, channels)
    elif next_image:
        interleave(target, source, source + next_image, channels)
    else:
        interleave_zeros(target, source, channels)
