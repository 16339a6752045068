"""A recipe: everything that decides the outcome of one training run, as plain data.

One slot a face: data, model, prior, connectivity, loss, optimizer, budget. Two runs with equal
recipes are the same experiment; :func:`recipe_key` names it. The classes are ordinary frozen
dataclasses, so that training needs nothing but torch; where pydantic is installed it validates
them as they are.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from convprior.lab.data import DataRecipe
from convprior.lab.plain import as_dict, from_dict, none_or, positive, require, settle
from convprior.lab.train.connectivity import ConnectivityRecipe
from convprior.lab.train.loss_recipe import LossRecipe
from convprior.lab.train.prior_recipe import PriorRecipe

__all__ = [
    "BudgetRecipe",
    "ConnectivityRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "PriorRecipe",
    "Recipe",
    "as_dict",
    "canonical",
    "from_dict",
    "recipe_key",
]

_PYDANTIC: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True)
class ModelRecipe:
    """The network; its class count and input channels follow from the data."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    name: str = "plain_cnn"
    """A name of `convprior list`: plain_cnn, wrn16_2, resnet18, ..., or timm:NAME."""
    small_input: bool | None = None
    """Use the stem that keeps the resolution of small images; unset: for images of up to 64 pixels,
    where the network offers it (timm's do not)."""
    width: int | None = None
    """Channels of the first stage, for the networks that offer it; none: the network's own."""
    batch_norm: bool | None = None
    """Batch normalization, for the networks that offer the choice; none: the network's own."""

    def __post_init__(self) -> None:
        settle(self, "model")
        require(bool(self.name), "model.name", self.name, "must not be empty")
        require(self.width is None or self.width > 0, "model.width", self.width, "must be > 0")


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer and its schedule, which depends on the examples seen and on nothing else."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    name: Literal["sgd", "adamw"] = "sgd"
    """Momentum SGD, or AdamW with PyTorch's betas."""
    lr: float = 0.1
    """The peak learning rate."""
    momentum: float = 0.9
    """SGD's momentum, in [0, 1)."""
    nesterov: bool = True
    """SGD with Nesterov's look-ahead (used only when the momentum is positive)."""
    weight_decay: float = 5e-4
    """As in torch.optim: SGD adds `weight_decay * w` to the gradient, AdamW shrinks `w`."""
    warmup: float = 0.05
    """Share of the budget over which the learning rate rises linearly, in [0, 1)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up: half a cosine to zero at the end of the budget, or no change."""
    clip: float | None = None
    """Largest norm of the whole gradient; none: no clipping."""
    ema: float | None = None
    """Decay of the average of the weights that is evaluated and kept, in (0, 1); none: off."""

    def __post_init__(self) -> None:
        settle(self, "optimizer")
        require(positive(self.lr), "optimizer.lr", self.lr, "must be > 0")
        require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "must be in [0, 1)")
        decay = self.weight_decay
        require(none_or(decay, 0), "optimizer.weight_decay", decay, "must be >= 0")
        require(0 <= self.warmup < 1, "optimizer.warmup", self.warmup, "must be in [0, 1)")
        clip, ema = self.clip, self.ema
        require(clip is None or positive(clip), "optimizer.clip", clip, "must be > 0")
        require(ema is None or 0 < ema < 1, "optimizer.ema", ema, "must be in (0, 1)")


@dataclass(frozen=True)
class BudgetRecipe:
    """What a run may cost, in examples seen, so that every arm of a study costs the same."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    examples: int = 20_000
    """Training images shown, repetitions counted; the last batch is cut to hit this exactly."""
    batch_size: int = 50
    """Images of one optimizer step, over all processes."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the network's arithmetic; `auto`: bf16 where the hardware has it. Weights stay fp32."""
    evaluations: int = 10
    """Points of the learning curve; each is an evaluation only if `data.evaluate = "validation"`,
    since the test images are looked at once, at the end."""

    def __post_init__(self) -> None:
        settle(self, "budget")
        require(self.examples > 0, "budget.examples", self.examples, "must be > 0")
        require(self.batch_size > 0, "budget.batch_size", self.batch_size, "must be > 0")
        require(self.evaluations >= 0, "budget.evaluations", self.evaluations, "must be >= 0")


@dataclass(frozen=True)
class Recipe:
    """One training run, complete."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    data: DataRecipe = field(default_factory=DataRecipe)
    """Which images, which split, which augmentation."""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    """The network."""
    prior: PriorRecipe = field(default_factory=PriorRecipe)
    """The spatial prior of its filters."""
    connectivity: ConnectivityRecipe = field(default_factory=ConnectivityRecipe)
    """Whether the filters are the same everywhere."""
    loss: LossRecipe = field(default_factory=LossRecipe)
    """The loss."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    """The optimizer and its schedule."""
    budget: BudgetRecipe = field(default_factory=BudgetRecipe)
    """The cost."""
    seed: int = 0
    """Of initial weights, sample order, augmentation and dropout. Runs that differ in another slot
    alone share all of these, which pairs them."""

    def __post_init__(self) -> None:
        settle(self)


# Slots and keys that version 0.1.0 did not have; at their default they are not part of the key.
_LATER = (
    "connectivity",
    *(f"loss.{e.name}" for e in fields(LossRecipe) if e.name not in ("name", "label_smoothing")),
)


def canonical(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data of which equal experiments have equal ones, in every version."""
    data, usual = as_dict(from_dict(type(recipe), as_dict(recipe))), as_dict(Recipe())
    for key in _LATER:
        *path, last = key.split(".")
        own, default = data, usual
        for part in path:
            own, default = own[part], default[part]
        if own[last] == default[last]:
            del own[last]
    return data


def recipe_key(recipe: Recipe) -> str:
    """The name of the experiment: 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    data = canonical(recipe)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
