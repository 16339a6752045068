"""The global batch of several processes: the few numbers that they exchange."""

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

Group = ProcessGroup | None


def number_of_processes(group: Group) -> int:
    """Processes of the group (None: all); 1 where torch.distributed is not in use."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size(group)


def largest_of_all(values: Tensor, group: Group) -> Tensor:
    """Elementwise maximum over the processes."""
    distributed.all_reduce(values, distributed.ReduceOp.MAX, group)
    return values


def sum_of_all(values: Tensor, group: Group) -> Tensor:
    """Elementwise sum over the processes."""
    distributed.all_reduce(values, distributed.ReduceOp.SUM, group)
    return values


def gather_rows(values: Tensor, group: Group) -> tuple[Tensor, int]:
    """The rows of all processes in the order of their ranks, and where one's own begin.

    Shares may have different sizes, which the host has to know: this waits for the device.
    """
    world = number_of_processes(group)
    sizes = torch.empty(world, dtype=torch.int64, device=values.device)
    distributed.all_gather_into_tensor(sizes, torch.full_like(sizes[:1], len(values)), group)
    counts = sizes.tolist()
    longest = max(counts)
    mine = values.new_zeros(longest, *values.shape[1:])
    mine[: len(values)] = values
    everything = values.new_empty(world * longest, *values.shape[1:])
    distributed.all_gather_into_tensor(everything, mine, group)
    parts = [everything[i * longest :][:count] for i, count in enumerate(counts)]
    return torch.cat(parts), sum(counts[: distributed.get_rank(group)])
