"""The prior slot of a recipe: what the filters are assumed to look like."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from convprior.errors import InputError
from convprior.lab.plain import none_or, positive, require, settle


@dataclass(frozen=True)
class PriorRecipe:
    """What the filters are assumed to look like, as weight decay and as initial weights.

    `optimizer.weight_decay` decays every tensor. A law other than `uniform` gives the convolutions'
    share another form with the same mean, so that arms differ by this one key.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

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
