"""What data a run sees: the ``data`` table of a recipe file."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from convprior.errors import InputError
from convprior.lab.plain import none_or, require, settle


@dataclass(frozen=True)
class DataRecipe:
    """Which images train and evaluate a network; every field is plain data.

    Two equal recipes give the same images in the same order on every machine: nothing here is
    drawn from the seed of a run, so that arms and seeds of a study share their data.

    Raises:
        InputError: a field is outside its range.
    """

    source: str = "digits"
    """`digits`, a path, a name in the folder CONVPRIOR_DATA, or a Hugging Face Hub name."""
    per_class: int | None = None
    """Training images of each class (train and validation part together); unset: all of them."""
    split: int = 0
    """Which disjoint choice of `per_class` images a class: 0, 1, 2, ..."""
    rule: Literal["consecutive", "random"] = "consecutive"
    """`consecutive`: in file order (the DEIC/GEM benchmark); `random`: in a fixed shuffle."""
    validation: float = 0.4
    """Share of each class's training images held back when `evaluate` is `validation`."""
    evaluate: Literal["test", "validation"] = "test"
    """`test`: train on all chosen images; `validation`: hold some back, leave the test alone."""
    image_size: int | None = None
    """Side in pixels: shorter side resized to it, central square cut out; unset: as stored."""
    channels: Literal[1, 3] | None = None
    """1 converts every image to grey, 3 to RGB; unset: as stored."""
    flip: bool = False
    """Augmentation: mirror left-right with probability 1/2."""
    crop: int = 0
    """Augmentation: pad by this many reflected pixels, then crop at random."""
    cutout: int = 0
    """Augmentation: blank a random square with this side in pixels."""
    color: float = 0.0
    """Augmentation: brightness and contrast factors uniform in `1 - color` to `1 + color`."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "use_attribute_docstrings": True}

    def __post_init__(self) -> None:
        settle(self, "data")
        require(bool(self.source), "data.source", self.source, "must name a source, e.g. 'digits'")
        least = {"per_class": 1, "split": 0, "image_size": 2, "crop": 0, "cutout": 0}
        for name, low in least.items():
            value = getattr(self, name)
            require(none_or(value, low), f"data.{name}", value, f"must be >= {low}")
        share, color = self.validation, self.color
        require(0 < share < 1, "data.validation", share, "must be a share between 0 and 1")
        require(0 <= color < 1, "data.color", color, "must be in [0, 1)")
        if self.per_class is None and self.split != 0:
            raise InputError(
                f"data.split = {self.split} needs data.per_class: without it every split is the "
                "whole training set; set data.per_class or data.split = 0"
            )
        if self.evaluate == "validation" and self.per_class is not None:
            kept = fitted_share(self.per_class, self.validation)
            if not 0 < kept < self.per_class:
                raise InputError(
                    f"data.validation = {self.validation} of data.per_class = {self.per_class} "
                    f"leaves {kept} images a class to train on and {self.per_class - kept} to "
                    "validate on, but both parts need one: change either"
                )


def fitted_share(count: int, validation: float) -> int:
    """Returns how many of ``count`` images are trained on when a share is held back."""
    return round(count * (1.0 - validation))
