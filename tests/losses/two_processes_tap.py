"""One of two processes that train a tapped network together, wrapped before and after the tap."""

import sys

import torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from convprior.losses import FeatureTap


def check(rank: int, before: bool, layer: str | None) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    tap = FeatureTap(network, layer) if before else None
    wrapped = DistributedDataParallel(network)
    tap = tap or FeatureTap(wrapped, layer)
    for step in range(2):
        share = torch.full((rank + 1, 3, 6, 6), float(rank + step))
        wrapped(share).sum().backward()
        assert tap.layer == "1"
        torch.testing.assert_close(tap.features, network[:2](share).detach())


if __name__ == "__main__":
    meeting, rank = sys.argv[1], int(sys.argv[2])
    init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for before in (False, True):
        for layer in (None, "1"):
            check(rank, before, layer)
    destroy_process_group()
