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


def gather(values: Tensor, group: Group) -> Tensor:
    """The equally shaped values of all processes, stacked in the order of their ranks."""
    world = number_of_processes(group)
    everything = values.new_empty(world * values.numel())  # one row: not every backend stacks
    distributed.all_gather_into_tensor(everything, values.flatten(), group)
    return everything.view(world, *values.shape)


def gather_rows(values: Tensor, group: Group) -> tuple[Tensor, int]:
    """The rows of all processes in the order of their ranks, and where one's own begin.

    Shares may have different sizes, which the host has to know: this waits for the device.
    """
    counts = gather(values.new_tensor(len(values), dtype=torch.int64), group).tolist()
    mine = values.new_zeros(max(counts), *values.shape[1:])
    mine[: len(values)] = values
    parts = [part[:count] for part, count in zip(gather(mine, group), counts, strict=True)]
    return torch.cat(parts), sum(counts[: distributed.get_rank(group)])
