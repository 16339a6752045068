"""What a training step minimizes: the recipe's loss, with the features it looks at."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor, nn

from convprior._random import mix
from convprior.errors import InputError
from convprior.lab.train.distributed import World
from convprior.lab.train.loss_recipe import LossRecipe
from convprior.lab.train.recipe import Recipe
from convprior.losses import (
    BiasLoss,
    FeatureTap,
    FocalLoss,
    GeneralizedCrossEntropy,
    Poly1Loss,
    SymmetricCrossEntropy,
    TaylorCrossEntropy,
)
from convprior.losses.targets import Reduction

# Keeps the draws of shuffled weights apart from those of order, augmentation and dropout.
_SHUFFLE = 0x5F1E


class Objective(nn.Module):
    """The mean loss of a global batch, of which every process computes its part.

    Args:
        recipe: its loss slot and its seed.
        world: the processes that share a batch.
    """

    def __init__(self, recipe: Recipe, world: World) -> None:
        super().__init__()
        # Unequal shares of several processes weigh by their images: each sums its own and
        # DistributedDataParallel divides by the number of processes.
        self.processes = world.size
        self.loss = build_loss(recipe, "mean" if world.size == 1 else "sum")
        self.weights = WeightRecord() if recipe.loss.name == "bias" else None
        self.layer = recipe.loss.features
        self.tap: FeatureTap | None = None

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Within it, the loss sees the features of the model's last forward pass, if it needs any.

        Raises:
            InputError: the layer of the recipe does not exist, or none is found.
        """
        if self.weights is None:
            yield
            return
        with _named_slot():
            tap = FeatureTap(model, self.layer)
        with tap as self.tap:
            yield
        self.tap = None

    def forward(self, logits: Tensor, labels: Tensor, images: int) -> Tensor:
        """The loss to go backward from.

        Args:
            logits: (n, classes), of this process's share.
            labels: (n,), class indices.
            images: of the batch, over all processes.
        """
        if self.weights is None:
            loss: Tensor = self.loss(logits, labels)
        else:
            loss = self.loss(logits, labels, self.tap)
            assert isinstance(self.loss, BiasLoss)
            self.weights.add(self.loss.mean_weight, self.loss.largest_weight, images)
        return loss if self.processes == 1 else loss * (self.processes / images)


class _Common(TypedDict):
    """Arguments of every loss."""

    reduction: Reduction
    label_smoothing: float


class WeightRecord(nn.Module):
    """How much images counted so far: sums on the device, which no step waits for."""

    total: Tensor
    recent: Tensor
    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "recent", "largest"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def add(self, mean: Tensor, largest: Tensor, images: int) -> None:
        """Takes in the weights of a global batch."""
        self.total.add_(mean, alpha=images)
        self.recent.add_(mean, alpha=images)
        torch.maximum(self.largest, largest.to(self.largest.dtype), out=self.largest)

    def take(self, images: int) -> float:
        """The mean weight of the last ``images`` images, which are then forgotten."""
        mean = float(self.recent) / images
        self.recent.zero_()
        return mean


def build_loss(recipe: Recipe, reduction: Reduction) -> nn.Module:
    """The loss of a recipe, called with logits and labels; that named ``bias``, with features."""
    slot = recipe.loss
    common: _Common = {"reduction": reduction, "label_smoothing": slot.label_smoothing}
    match slot.name:
        case "cross_entropy":
            return nn.CrossEntropyLoss(**common)
        case "bias":
            return BiasLoss(
                slot.alpha,
                slot.beta,
                slot.normalize,
                **common,
                mean_one=slot.mean_one,
                max_weight=slot.max_weight,
                control=slot.control,
                seed=mix(recipe.seed, _SHUFFLE),
            )
        case "focal":
            return FocalLoss(slot.gamma, **common)
        case "poly1":
            return Poly1Loss(slot.epsilon, **common)
        case "gce":
            return GeneralizedCrossEntropy(slot.q, **common)
        case "sce":
            return SymmetricCrossEntropy(slot.sce_alpha, slot.sce_beta, **common)
        case "taylor":
            return TaylorCrossEntropy(slot.order, **common)


def check_features(model: nn.Module, slot: LossRecipe, images: Tensor) -> None:
    """Looks whether a network has the features that a recipe's loss asks for.

    Raises:
        InputError: the layer does not exist, or none is found.
    """
    if slot.name == "bias":
        with _named_slot(), FeatureTap(model, slot.features, example_input=images):
            pass


@contextmanager
def _named_slot() -> Iterator[None]:
    """An error about features says that the recipe's key decides them."""
    try:
        yield
    except InputError as error:
        raise InputError(f"loss.features: {error}") from error
