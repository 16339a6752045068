"""What data a run sees: the ``data`` table of a recipe file."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from convprior.errors import InputError


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
        if not self.source or not isinstance(self.source, str):
            raise InputError(
                f"source (={self.source!r}) must name a data source, for example 'digits'"
            )
        _choice("rule", self.rule, ("consecutive", "random"))
        _choice("evaluate", self.evaluate, ("test", "validation"))
        _choice("channels", self.channels, (None, 1, 3))
        _whole("per_class", self.per_class, 1, optional=True)
        _whole("split", self.split, 0)
        _whole("image_size", self.image_size, 1, optional=True)
        _whole("crop", self.crop, 0)
        _whole("cutout", self.cutout, 0)
        _share("validation", self.validation, "held back from each class", 0.4, zero=False)
        _share("color", self.color, "around the factor 1", 0.2, zero=True)
        if self.per_class is None and self.split != 0:
            raise InputError(
                f"split (={self.split}) needs per_class: without it every split is the whole "
                "training set; set per_class or split = 0"
            )
        if self.evaluate == "validation" and self.per_class is not None:
            kept = fitted_share(self.per_class, self.validation)
            if not 0 < kept < self.per_class:
                raise InputError(
                    f"validation (={self.validation}) of per_class (={self.per_class}) leaves "
                    f"{kept} images a class to train on and {self.per_class - kept} to validate "
                    "on, but both parts need one: change validation or per_class"
                )


def fitted_share(count: int, validation: float) -> int:
    """Returns how many of ``count`` images are trained on when a share is held back."""
    return round(count * (1.0 - validation))


def _choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed or isinstance(value, bool):
        names = " or ".join(repr(choice) for choice in allowed if choice is not None)
        raise InputError(f"{name} (={value!r}) must be {names}")


def _whole(name: str, value: object, least: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} (={value!r}) must be a whole number >= {least}")


def _share(name: str, value: object, meaning: str, example: float, *, zero: bool) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0 <= value < 1 and (zero or value > 0)):  # type: ignore[operator]
        raise InputError(
            f"{name} (={value!r}) must be a share {meaning}, 0 {'<=' if zero else '<'} {name} < 1, "
            f"for example {name} = {example}"
        )
