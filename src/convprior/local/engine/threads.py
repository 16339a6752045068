"""Work on rows in as many threads as PyTorch uses."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="convprior")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork, nor would their pool
    os.register_at_fork(after_in_child=_pool.cache_clear)

_kept = threading.local()
_KEPT_BYTES = 4 << 20


def scratch(size: int) -> Tensor:
    """So many bytes, zero, for this thread until it asks again.

    They are kept, where they are few: each call for new ones would make the process larger.
    """
    if size > _KEPT_BYTES:
        return torch.zeros(size, dtype=torch.uint8)
    memory: Tensor | None = getattr(_kept, "memory", None)
    if memory is None or len(memory) < size:
        with torch.inference_mode(mode=False):  # else nothing could write to it outside
            _kept.memory = memory = torch.empty(size, dtype=torch.uint8)
    return memory[:size].zero_()


def parts(rows: int) -> list[tuple[int, int]]:
    """Consecutive ranges of rows, one a thread, of nearly equal length."""
    count = max(1, min(rows, torch.get_num_threads()))
    bounds = [rows * part // count for part in range(count + 1)]
    return list(pairwise(bounds))


def run(work: Callable[[int, int, int], None], ranges: list[tuple[int, int]]) -> None:
    """Calls ``work(index, first, last)`` for every range, each in a thread; errors are raised."""
    calls = [(index, first, last) for index, (first, last) in enumerate(ranges)]
    if len(calls) == 1:
        work(*calls[0])
        return
    for future in [_pool(len(calls)).submit(work, *call) for call in calls]:
        future.result()
