"""A recipe: everything that decides the outcome of one training run, as plain data.

One slot a face: data, model, prior, loss, optimizer, budget. Two runs with equal recipes are the
same experiment; :func:`recipe_key` names it. The classes are ordinary frozen dataclasses, so that
training needs nothing but torch; where pydantic is installed it validates them as they are.
"""

import hashlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from convprior.errors import InputError
from convprior.lab.data import DataRecipe
from convprior.lab.plain import as_dict, from_dict, none_or, positive, require, settle

__all__ = [
    "BudgetRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "PriorRecipe",
    "Recipe",
    "as_dict",
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
class PriorRecipe:
    """What the filters are assumed to look like, as weight decay and as initial weights.

    `optimizer.weight_decay` decays every tensor. A law other than `uniform` gives the convolutions'
    share another form with the same mean, so that arms differ by this one key.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    law: Literal[
        "uniform", "quadratic", "linear", "geometric", "gaussian", "two_level", "correlated", "file"
    ] = "uniform"
    """`uniform`: plain decay; five laws of a tap's distance from the filter's center; `correlated`:
    the smooth-kernel penalty of `family`; `file`: a prior measured before."""
    floor: float = 0.0
    """Share of the cost that is uniform, in [0, 1]; 0 leaves the center of an odd filter free."""
    family: Literal["squared_exponential", "matern32", "exponential"] = "matern32"
    """How the correlation of two taps falls with their distance, for `correlated`."""
    lengthscale: float = 1.0
    """In taps, > 0, for `correlated`."""
    file: str | None = None
    """For `file`: what FilterPrior.save or save_priors wrote, for one kernel size or by layer; a
    convolution that it does not cover gets plain decay."""
    digest: str | None = None
    """SHA-256 of that file, filled in when the recipe is made: other content is another recipe."""
    uncorrelated: bool = False
    """Of the file, use the variances of the taps alone."""
    control: Literal["reversed", "permuted"] | None = None
    """`reversed`: the costs turned around, dearest at the center; `permuted`: the same costs on
    shuffled taps."""
    regularize: bool = True
    """Decay by the law; `false` leaves plain decay, so that `init` acts alone."""
    form: Literal["auto", "penalty", "decoupled"] = "auto"
    """`penalty` adds to the gradient, `decoupled` shrinks the weights; `auto`: as the optimizer's
    own weight decay, which is a penalty in SGD and decoupled in AdamW."""
    strength: float | None = None
    """Factor of the penalty on the convolutions; none: `optimizer.weight_decay` / 2."""
    init: bool = False
    """Also draw the initial filters from the prior (of a law: variances 1 / (cost of the tap))."""
    init_floor: float = 0.25
    """The floor of that prior, in (0, 1]: a draw needs a finite variance at the center."""

    def __post_init__(self) -> None:
        settle(self, "prior")
        require(0 <= self.floor <= 1, "prior.floor", self.floor, "must be in [0, 1]")
        require(0 < self.init_floor <= 1, "prior.init_floor", self.init_floor, "must be in (0, 1]")
        require(none_or(self.strength, 0), "prior.strength", self.strength, "must be >= 0")
        require(positive(self.lengthscale), "prior.lengthscale", self.lengthscale, "must be > 0")
        require(
            self.control is None or self.law != "uniform",
            "prior.control",
            self.control,
            "changes nothing under the uniform law; set prior.law too",
        )
        require(
            self.control != "reversed" or self.law not in ("correlated", "file"),
            "prior.control",
            self.control,
            f"turns a law of distance around and prior.law = {self.law!r} is none; use 'permuted'",
        )
        require(
            not self.init or self.law != "uniform",
            "prior.init",
            self.init,
            "changes nothing under the uniform law; set prior.law too",
        )
        require(
            self.regularize or self.init,
            "prior.regularize",
            self.regularize,
            "leaves the prior without effect; set prior.init = true too",
        )
        by_distance = self.law not in ("uniform", "correlated", "file")
        require(
            self.floor < 1 or self.control is None or self.init,
            "prior.floor",
            self.floor,
            "makes every tap cost the same, so that prior.control changes nothing; lower it",
        )
        require(
            self.init_floor < 1 or self.regularize or not by_distance,
            "prior.init_floor",
            self.init_floor,
            "draws plain initial filters, so that the prior has no effect; lower it",
        )
        if self.law == "file":
            require(self.file is not None, "prior.file", self.file, "must name a file of priors")
        self._drop_unused(by_distance)
        if self.law == "file" and self.digest is None:
            object.__setattr__(self, "digest", content_digest(str(self.file)))

    def _drop_unused(self, by_distance: bool) -> None:
        """Keys without effect take their defaults, so that equal experiments are equal recipes."""
        used = {
            "floor": self.law != "uniform" and self.regularize,
            "family": self.law == "correlated",
            "lengthscale": self.law == "correlated",
            "file": self.law == "file",
            "digest": self.law == "file",
            "uncorrelated": self.law == "file",
            "init_floor": self.init and by_distance,
        }
        for entry in fields(self):
            if not used.get(entry.name, True):
                object.__setattr__(self, entry.name, entry.default)


def content_digest(path: str) -> str:
    """The SHA-256 of a file of priors, in hexadecimal digits.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"prior.file = {path!r} cannot be read ({error.strerror or error}); name a file that "
            "FilterPrior.save or `convprior inspect --save-prior` wrote"
        ) from error


@dataclass(frozen=True)
class LossRecipe:
    """What is minimized, besides the prior."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    name: Literal["cross_entropy"] = "cross_entropy"
    """The loss of one example; a batch takes the mean."""
    label_smoothing: float = 0.0
    """Probability spread evenly over all classes, in [0, 1)."""

    def __post_init__(self) -> None:
        settle(self, "loss")
        value = self.label_smoothing
        require(0 <= value < 1, "loss.label_smoothing", value, "must be in [0, 1)")


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


def recipe_key(recipe: Recipe) -> str:
    """The name of the experiment: 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    canonical = as_dict(from_dict(type(recipe), as_dict(recipe)))
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
