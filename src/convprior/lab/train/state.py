"""Everything that changes while a network is trained, in memory and in one file.

Order, augmentation, dropout and learning rate are functions of the examples seen, so that weights,
optimizer, average and a few numbers are all there is to save.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convprior._files import load_tensors, save_tensors
from convprior._random import mix
from convprior._version import __version__
from convprior.errors import RunError
from convprior.filters import LocoReg
from convprior.lab.data import Prepared
from convprior.lab.train.average import WeightAverage
from convprior.lab.train.connectivity import connect, model_arguments
from convprior.lab.train.distributed import World, join_batch_norm
from convprior.lab.train.meter import Meter
from convprior.lab.train.objective import Objective
from convprior.lab.train.optimizers import build_optimizer
from convprior.lab.train.precision import compute_dtype
from convprior.lab.train.priors import build_prior, shape_filters_
from convprior.lab.train.recipe import Recipe, recipe_key
from convprior.models import create_model

FORMAT = 1
"""Of the state file; another number is refused."""

# Keep the initial weights' random numbers apart from those of order and augmentation.
_MODEL = 0x30DE1
_CONNECTIVITY = 0x10CA1

SMALL = 64
"""Side of the largest images in pixels that get a network's small form by default."""

# Side of the images of a network that no image is known for.
TRIAL = 32

# Losses read at once where reading one means waiting for the device or for other processes.
_WINDOW = 50


@dataclass
class Training:
    """A network in training: :meth:`start` it, then :func:`~convprior.lab.train.fit` it."""

    recipe: Recipe
    world: World
    model: nn.Module
    prior: LocoReg | None
    objective: Objective
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    meter: Meter
    dtype: torch.dtype
    """Of the network's arithmetic."""
    examples: int = 0
    """Training images seen so far."""
    seconds: float = 0.0
    """Time spent in training so far."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Points of the learning curve so far."""

    @classmethod
    def start(cls, recipe: Recipe, model: nn.Module, world: World) -> "Training":
        """Puts a fresh network on the device with its prior, loss, optimizer and average."""
        model = model.to(world.device).to(memory_format=torch.channels_last)
        if world.size > 1:
            model = join_batch_norm(model, world.device)
        prior = build_prior(model, recipe)
        optimizer = build_optimizer(model, recipe, prior)
        objective = Objective(recipe, world).to(world.device)
        ema = recipe.optimizer.ema
        average = None if ema is None else WeightAverage(model, ema)
        eager = world.device.type == "cpu" and world.size == 1
        meter = Meter(world, 1 if eager else _WINDOW)
        dtype = compute_dtype(recipe.budget.precision, world.device)
        return cls(recipe, world, model, prior, objective, optimizer, average, meter, dtype)

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return -(-self.examples // self.recipe.budget.batch_size)

    @property
    def finished(self) -> bool:
        """Whether the budget is spent."""
        return self.examples >= self.recipe.budget.examples

    def save(self, path: Path) -> None:
        """Writes the state atomically; every process calls it, the leading one writes.

        Raises:
            RunError: the disk is full; the previous state is intact.
            Diverged: the loss is no number; nothing is written.
        """
        self.meter.flush()
        header = {
            "format": FORMAT,
            "version": __version__,
            "key": recipe_key(self.recipe),
            "examples": self.examples,
            "seconds": self.seconds,
            "curve": self.curve,
            "sums": [self.meter.loss, self.meter.correct, self.meter.count],
        }
        if self.world.leads:
            save_tensors(path, self._tensors(), header)

    def load(self, path: Path) -> None:
        """Goes on from where :meth:`save` was called.

        Raises:
            RunError: the state is of another recipe or format, or is damaged.
        """
        tensors, header = load_tensors(path)
        found = header.get("format") if isinstance(header, dict) else None
        if found != FORMAT:
            raise RunError(
                f"{path} has format {found}, this is convprior {__version__} with format {FORMAT}: "
                "finish it with the version that wrote it, or delete it to start over"
            )
        key = recipe_key(self.recipe)
        if header["key"] != key:
            raise RunError(
                f"{path} belongs to recipe {header['key']}, not to {key}: choose another folder, "
                "or delete it to start over"
            )
        self._create_optimizer_state(tensors)
        own = self._tensors()
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())[0]
            raise RunError(f"{path} does not fit the network at {odd}: delete it to start over")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])
        self.examples = header["examples"]
        self.seconds = header["seconds"]
        self.curve = header["curve"]
        self.meter.loss, self.meter.correct, self.meter.count = header["sums"]

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the state by name; the live ones, so that copying into them restores."""
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{kind}.{name}"] = value
        if self.average is not None:
            tensors |= {f"average.{n}": t for n, t in self.average.mean.items()}
        tensors |= {f"objective.{n}": t for n, t in self.objective.state_dict().items()}
        return tensors

    def _create_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Makes the optimizer's tensors, which it would make at its first step."""
        parameters = dict(self.model.named_parameters())
        for full, saved in tensors.items():
            if full.startswith("optimizer."):
                _, kind, name = full.split(".", 2)
                parameter = parameters[name]
                # The layout of the parameter (channels_last), as the optimizer itself chooses.
                like = parameter if saved.shape == parameter.shape else saved
                made = torch.empty_like(like, dtype=saved.dtype, device=parameter.device)
                self.optimizer.state[parameter][kind] = made


def build_model(recipe: Recipe, data: Prepared) -> nn.Module:
    """The network of a recipe with the initial weights of its seed.

    Raises:
        InputError: an unknown network or option, or a network that cannot be connected so.
    """
    small = recipe.model.small_input
    if small is None:
        small = max(data.train.size) <= SMALL and not recipe.model.name.startswith("timm:")
    channels, size = data.train.channels, data.train.size
    model = create_network(recipe, len(data.classes), channels, small, size)
    shape_filters_(model, recipe)
    return model


def create_network(
    recipe: Recipe,
    classes: int,
    channels: int,
    small_input: bool,
    size: tuple[int, int] = (TRIAL, TRIAL),
) -> nn.Module:
    """The network of a recipe as it is before a prior shapes its filters.

    Args:
        recipe: names the network and its connectivity.
        classes: number of logits.
        channels: of the images.
        small_input: form of the network.
        size: of the images; it matters where positions have weights of their own.
    """
    chosen: dict[str, Any] = {"width": recipe.model.width, "batch_norm": recipe.model.batch_norm}
    options = {name: value for name, value in chosen.items() if value is not None}
    slot, seed = recipe.connectivity, mix(recipe.seed, _MODEL)
    options |= model_arguments(slot, recipe.model.name, channels)
    network = create_model(
        recipe.model.name, classes, small_input=small_input, seed=seed, **options
    )
    return connect(network, slot, channels, size, mix(recipe.seed, _CONNECTIVITY))
