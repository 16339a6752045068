"""One process of a data-parallel run with Bias Loss: weights after some steps, to a file."""

import sys

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed import destroy_process_group, init_process_group

from convprior.losses import BiasLoss

CLASS_WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0], dtype=torch.float64)
CASES = {
    "batch": {},
    "running": {"normalize": "running", "max_weight": 2.0},
    "mean one": {"mean_one": True, "label_smoothing": 0.1},
    "constant": {"control": "constant"},
    "shuffled": {"control": "shuffled", "seed": 3},
    "inverted": {"control": "inverted", "normalize": "running"},
    "2021": {"control": "2021"},
    "classes": {"weight": CLASS_WEIGHT, "ignore_index": 1},
    "shuffled, ignored": {"control": "shuffled", "ignore_index": 1, "mean_one": True},
    "sum": {"reduction": "sum"},
    "soft": {"mean_one": True},
}
# Where the second share begins: equal, unequal, and each of them empty once.
CUTS = (5, 3, 10, 0, 6)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.Tanh())
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        features = self.body(x)
        return self.head(features.mean((2, 3))), features


def results_of(case, rank, world):
    plain = Network().double()
    model = nn.parallel.DistributedDataParallel(plain) if world > 1 else plain
    loss = BiasLoss(**CASES[case])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    shown = []
    for step, cut in enumerate(CUTS):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(10, 2, 7, 7, dtype=torch.float64, generator=generator)
        x = x * torch.rand(10, 1, 1, 1, dtype=torch.float64, generator=generator)
        y = torch.randint(5, (10,), generator=generator)
        if case == "soft":
            y = torch.softmax(torch.randn(10, 5, generator=generator).double(), 1)
        share = slice(None) if world == 1 else slice(0, cut) if rank == 0 else slice(cut, 10)
        logits, features = model(x[share])
        value = loss(logits, y[share], features)
        if CASES[case].get("reduction") == "sum":
            value = value * world / 10
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        shown += [loss.mean_weight, loss.largest_weight]
    loss.eval()
    if rank == 0:  # exchanges nothing, or it would wait for the other process
        logits, features = plain(x)
        loss(logits, y, features)
    return {
        **{name: parameter.detach() for name, parameter in plain.named_parameters()},
        "shown": torch.stack(shown).double(),
        "smallest": loss.smallest.double(),
        "calls": loss.calls,
    }


def all_results(rank, world):
    return {
        f"{case}: {name}": value
        for case in CASES
        for name, value in results_of(case, rank, world).items()
    }


if __name__ == "__main__":
    meeting, rank, world, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    save_file(all_results(rank, world), path)
    destroy_process_group()
