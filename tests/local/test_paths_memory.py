"""What a training step allocates does not grow with the rank, but for the bases themselves."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from convprior.local.geometry import Geometry
from convprior.local.paths import mix, recompute

GEOMETRY = Geometry((32, 32), (3, 3), padding=(1, 1, 1, 1))
OUTPUT = 16 * 32 * 32 * 32 * 4  # bytes
BASIS = 32 * 32 * 3 * 3 * 4


def most_allocated(path: str, rank: int, kind: str) -> int:
    """Bytes of a training step at their highest, by the allocator's own count."""
    x = torch.randn(16, 32, 32, 32).contiguous(memory_format=torch.channels_last)
    bases = torch.randn(rank, 32, 32, 3, 3)
    weights = torch.rand(*((16,) if kind == "input" else ()), rank, 32, 32)
    parts = [part.requires_grad_() for part in (x, bases, weights)]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        y = mix(parts[0], parts[1], parts[2], GEOMETRY, path)
        grads = torch.autograd.grad(y, parts, y)
    assert recorded.profiler is not None
    assert len(grads) == 3
    now = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("path", "kind"), [("kernels_first", "map"), ("recompute", "map"), ("recompute", "input")]
)
def test_memory_hardly_grows_with_the_rank(path: str, kind: str) -> None:
    """Six more bases cost their copies, sums and gradients, and the weights theirs; no outputs."""
    few, many = (most_allocated(path, rank, kind) for rank in (2, 8))
    weights = 6 * 32 * 32 * 4 * (16 if kind == "input" else 1)
    assert many - few < 6 * 4 * BASIS + 4 * weights + OUTPUT // 4
    assert many < 2 * OUTPUT + 3 * recompute.CHUNK_BYTES  # output, input gradient, work
    if kind == "map":
        kept = most_allocated("plain", 8, kind) - most_allocated("plain", 2, kind)
        assert kept > 5 * OUTPUT  # what is measured is there to be seen
