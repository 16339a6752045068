"""One process of a data-parallel run with local layers: weights after three steps, to a file."""

import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed import destroy_process_group, init_process_group

from convprior.local import LocalConv2d, LowRankLocalConv2d, param_groups


def weights_after(rank, world):
    torch.manual_seed(0)
    plain = nn.Sequential(
        LowRankLocalConv2d(2, 4, 3, padding=1, input_size=6, rank=3),
        nn.Tanh(),
        LowRankLocalConv2d(4, 4, 3, input_size=6, rank=2, weights="rows"),
        nn.Tanh(),
        LowRankLocalConv2d(4, 4, 3, padding=1, input_size=4, rank=2, weights="input"),
        nn.Tanh(),
        LocalConv2d(4, 2, 3, input_size=4),
    ).double()
    model = nn.parallel.DistributedDataParallel(plain) if world > 1 else plain
    groups = param_groups(model, 1e-3, lr=0.1, basis_lr_scale="rank")
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _ in range(3):
        x = torch.randn(8, 2, 6, 6, dtype=torch.float64).chunk(world)[rank]
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in plain.named_parameters()}


if __name__ == "__main__":
    meeting, rank, world, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    save_file(weights_after(rank, world), path)
    destroy_process_group()
