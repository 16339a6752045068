"""Panels: the N x C matrix of one position, contiguous, as the micro-kernel wants to read it.

In a channels-last tensor the rows of that matrix lie H * W * C elements apart, often a power of two:
every row in another page, all in the same few sets of the cache. So the rows of an image are copied
into panels before use, each once.
"""

from convprior.local.engine.compiling import compiled
from convprior.local.engine.copying import copy, interleave, widen
from convprior.local.engine.plan import Plan, Table


@compiled
def keep_rows(
    plan: Plan,
    needed: Table,
    kept: Table,
    place: Table,
    image: int,
    panels: int,
    first: int,
    count: int,
    along_batch: bool,
    zeros: int,
) -> None:
    """Makes sure that the ``needed`` rows of the image are in slots, and says in which (``place``).

    ``kept[slot]`` is the row in a slot. A row that is not needed makes room, the oldest first.
    """
    row_bytes = row_size(plan, count, along_batch)
    for tap in range(len(needed)):
        place[tap] = -1
        for slot in range(len(kept)):
            if needed[tap] >= 0 and kept[slot] == needed[tap]:
                place[tap] = slot
    for tap in range(len(needed)):
        if needed[tap] < 0 or place[tap] >= 0:
            continue
        victim = -1
        for slot in range(len(kept)):
            free = True
            for other in range(len(needed)):
                if needed[other] >= 0 and kept[slot] == needed[other]:
                    free = False
            if free and (victim < 0 or kept[slot] < kept[victim]):
                victim = slot
        kept[victim] = needed[tap]
        place[tap] = victim
        target = panels + victim * row_bytes
        if along_batch:
            load_pairs(plan, image, needed[tap], target, first, count, zeros)
        else:
            load_row(plan, image, needed[tap], target, first, count)


@compiled
def panel_size(plan: Plan, count: int, along_batch: bool) -> int:
    """Bytes from one panel to the next; never a multiple of a page, for the cache's sake."""
    if along_batch:
        return (count + 1) // 2 * plan.source_channels * 4 + 64
    return count * plan.words * 4 + 64


@compiled
def row_size(plan: Plan, count: int, along_batch: bool) -> int:
    """Bytes of the panels of a row."""
    return plan.source_width * panel_size(plan, count, along_batch)


@compiled
def load_row(plan: Plan, image: int, row: int, panels: int, first: int, count: int) -> None:
    """Copies a row of ``count`` images into panels (W, N, C)."""
    size = panel_size(plan, count, False)
    pixel = plan.source_channels * plan.itemsize
    whole = plan.source_height * plan.source_width * pixel
    for n in range(count):
        source = image + (first + n) * whole + row * plan.source_width * pixel
        target = panels + n * plan.words * 4
        for _ in range(plan.source_width):
            if plan.itemsize == 2 and not plan.pairs:
                widen(target, source, plan.source_channels)
            else:
                copy(target, source, pixel // 2)
            source += pixel
            target += size


@compiled
def load_pairs(
    plan: Plan, image: int, row: int, panels: int, first: int, count: int, zeros: int
) -> None:
    """Copies a row of ``count`` bfloat16 images into panels of pairs of images (W, N / 2, C, 2)."""
    size = panel_size(plan, count, True)
    pixel = plan.source_channels * plan.itemsize
    whole = plan.source_height * plan.source_width * pixel
    for n in range(0, count, 2):
        low = image + (first + n) * whole + row * plan.source_width * pixel
        target = panels + n // 2 * plan.source_channels * 4
        for column in range(plan.source_width):
            high = low + whole if n + 1 < count else zeros
            interleave(target, low, high, plan.source_channels)
            low += pixel
            target += size
