"""One process of a data-parallel run with LocoReg: every law in every form, weights to a file."""

import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed import destroy_process_group, init_process_group

from convprior.filters import FilterPrior, LocoReg

LAWS = {"diagonal": "quadratic", "full": FilterPrior.correlated(3, "matern32", 1.0)}
FORMS = ("penalty", "add_gradient_", "decay_")


def weights_after(law, form, rank, world):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3, bias=False)).double()
    model = nn.parallel.DistributedDataParallel(plain) if world > 1 else plain
    reg = LocoReg(model, 0.05, law)
    optimizer = torch.optim.SGD(LocoReg.param_groups(model, 0.0, law=law), lr=0.1, momentum=0.9)
    for _ in range(3):
        x = torch.randn(8, 2, 6, 6, dtype=torch.float64).chunk(world)[rank]
        loss = model(x).square().mean() + (reg() if form == "penalty" else 0.0)
        optimizer.zero_grad()
        loss.backward()
        if form == "add_gradient_":
            reg.add_gradient_()
        if form == "decay_":
            reg.decay_(optimizer)
        optimizer.step()
    return {"0": plain[0].weight.detach(), "2": plain[2].weight.detach()}


def all_weights(rank, world):
    return {
        f"{name} {form} {layer}": weight
        for name, law in LAWS.items()
        for form in FORMS
        for layer, weight in weights_after(law, form, rank, world).items()
    }


if __name__ == "__main__":
    meeting, rank, world, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    save_file(all_weights(rank, world), path)
    destroy_process_group()
