"""What each of two processes does; test_distributed.py starts them and reads what they write."""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from conftest import TinyNetwork, tiny_data
from test_distributed import RECIPES, WHOLE
from torch import Tensor, nn

from convprior._files import save_tensors, write_json
from convprior.lab.train import Interrupted, Training, fit, train, world
from convprior.lab.train.distributed import join_batch_norm


def joint_normalization(rank: int, shares: list[int], momentum: float | None) -> dict[str, Tensor]:
    """Two updates with this process's part of a batch; the parts of the result that it knows."""
    generator = torch.Generator().manual_seed(1)
    layer = nn.BatchNorm2d(4, momentum=momentum).double()
    layer.weight.data = torch.rand(4, generator=generator, dtype=torch.float64)
    layer.bias.data = torch.rand(4, generator=generator, dtype=torch.float64)
    layer = join_batch_norm(nn.Sequential(layer), torch.device("cpu"))[0]
    for _ in range(2):
        x = torch.rand(sum(shares), 4, 3, 3, generator=generator, dtype=torch.float64)
        g = torch.rand(sum(shares), 4, 3, 3, generator=generator, dtype=torch.float64)
        part = x.split(shares)[rank].clone().requires_grad_()
        layer.zero_grad()
        y = layer(part)
        y.backward(g.split(shares)[rank])
    for parameter in layer.parameters():
        dist.all_reduce(parameter.grad)
    return {
        "y": y,
        "x.grad": part.grad,
        "weight.grad": layer.weight.grad,
        "bias.grad": layer.bias.grad,
        **layer.state_dict(),
    }


def main(out: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    with world("cpu") as here:
        assert here.size == 2
        assert here.leads == (here.rank == 0)
        for shares in ([3, 2], [0, 4]):
            for momentum in (0.1, None):
                found = joint_normalization(here.rank, shares, momentum)
                save_tensors(out / f"norm-{shares[0]}-{momentum}-{here.rank}", found)
        for name, recipe in RECIPES.items():
            torch.manual_seed(7)
            training = Training.start(recipe, TinyNetwork(), here)
            fit(training, tiny_data())
            with training.average.applied() if training.average else torch.no_grad():
                save_tensors(out / f"{name}-{here.rank}", training.model.state_dict())
            sums = [training.meter.loss, training.meter.correct, training.meter.count]
            if training.objective.weights is not None:
                sums += map(float, training.objective.weights.state_dict().values())
            write_json(out / f"{name}-{here.rank}.json", sums)
        # One process alone wishes to stop; all do, and nobody else writes.
        stop = here.rank == 1
        told: list[Any] = []
        try:
            train(
                WHOLE,
                out / "interrupted",
                device="cpu",
                on_progress=told.append,
                should_stop=lambda: stop,
            )
        except Interrupted as error:
            write_json(out / f"stopped-{here.rank}.json", str(error))
        metrics = train(WHOLE, out / "whole", device="cpu", on_progress=told.append)
        assert here.leads or not told
        write_json(out / f"metrics-{here.rank}.json", metrics)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
