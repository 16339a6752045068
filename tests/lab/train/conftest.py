"""A training run small enough to be repeated many times: 30 images of 6x6 pixels, two channels."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from convprior.lab.data import Augment, ImageSet, Prepared, statistics
from convprior.lab.train import Recipe, Training, World

Start = Callable[..., Training]


class TinyNetwork(nn.Sequential):
    """Convolutions with and without groups, batch normalization, dropout and a linear layer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(2, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(8, 8, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 3),
        )


def tiny_data() -> Prepared:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(30) % 3
    images = torch.randint(0, 200, (30, 6, 6, 2), generator=generator, dtype=torch.uint8)
    images[:, :, :, 0] += (20 * labels).to(torch.uint8)[:, None, None]
    train = ImageSet(images, labels, ("a", "b", "c"))
    mean, std = statistics(train)
    return Prepared(train, train, mean, std, train.classes, Augment(flip=True, crop=1))


def start_tiny(recipe: Recipe, dropout: float = 0.0) -> Training:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = TinyNetwork(dropout)
    return Training.start(recipe, model, World(0, 1, torch.device("cpu")))


@pytest.fixture(scope="session")
def data() -> Prepared:
    return tiny_data()


@pytest.fixture(scope="session")
def start() -> Start:
    return start_tiny
