"""The design of a study: which arms, crossed with what, and the recipe of every cell."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from convprior.errors import InputError
from convprior.lab.study.curve import Curve
from convprior.lab.train import Recipe, as_dict, from_dict, recipe_key

_PYDANTIC: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}


class Slot(NamedTuple):
    """One arm on one data set with one network: what is tuned and then crossed with the splits."""

    arm: str
    data: str
    model: str


@dataclass(frozen=True)
class Cell:
    """One training run of a study."""

    slot: Slot
    split: int
    seed: int
    recipe: Recipe
    key: str
    """Hash of the recipe: arms with equal recipes share a cell."""


@dataclass(frozen=True)
class Range:
    """What a tuned key may be: a list of values, or an interval."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    values: tuple[bool | int | float | str, ...] | None = None
    """The values, in order."""
    low: int | float | None = None
    """Lower end of an interval."""
    high: int | float | None = None
    """Upper end of an interval."""
    log: bool = False
    """Spread evenly on a logarithmic scale."""
    points: int | None = None
    """Values that a grid takes from an interval, ends included."""

    def __post_init__(self) -> None:
        if self.values is not None:
            if self.low is not None or self.high is not None or self.points is not None or self.log:
                raise InputError("values and an interval (low, high) exclude each other")
            if not self.values:
                raise InputError("values = [] must hold at least one value")
            return
        low, high = self.low, self.high
        if low is None or high is None:
            raise InputError("give values = [...], or both low = and high =")
        if not low < high or (self.log and low <= 0):
            rule = "0 < low < high when log = true" if self.log else "low < high"
            raise InputError(f"low = {low!r}, high = {high!r} must keep {rule}")
        if self.points is not None and self.points < 2:
            raise InputError(f"points = {self.points} must be >= 2")

    def grid(self) -> tuple[bool | int | float | str, ...]:
        """The values a grid visits; an interval's are rounded to four digits.

        Raises:
            InputError: an interval without ``points``.
        """
        if self.values is not None:
            return self.values
        if self.points is None:
            raise InputError("a grid over an interval needs points = (how many values)")
        assert self.low is not None
        assert self.high is not None
        low, high = float(self.low), float(self.high)
        shares = [i / (self.points - 1) for i in range(self.points)]
        spread = [low * (high / low) ** s if self.log else low + (high - low) * s for s in shares]
        rounded = [float(f"{value:.4g}") for value in spread]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return tuple(dict.fromkeys(round(value) for value in rounded))
        return tuple(rounded)


Space = Mapping[str, Range]
"""Recipe keys with what each may be."""


@dataclass(frozen=True)
class Tune:
    """How every arm is tuned before it is compared: alike, and never on test images."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    space: dict[str, Range]
    """Recipe keys with what each may be: `"optimizer.weight_decay" = {values = [1e-4, 1e-3]}`."""
    sampler: Literal["grid", "random", "tpe"] = "grid"
    """`grid` tries every combination; `random` and `tpe` (Optuna) draw `trials` of them."""
    trials: int | None = None
    """Trials of each arm for `random` and `tpe`; a grid's number follows from its values."""
    splits: tuple[int, ...] | None = None
    """Splits a trial is averaged over; default: the study's."""
    seeds: tuple[int, ...] = (0,)
    """Seeds a trial is averaged over; a number n means 0, ..., n - 1."""
    examples: int | None = None
    """Budget of a trial's cells in examples; default: the study's."""
    seed: int = 0
    """Of the sampler, the same for every arm: `random` tries the same points in each."""

    def __post_init__(self) -> None:
        if not self.space:
            raise InputError("space must name at least one key to tune")
        if self.sampler == "grid" and self.trials is not None:
            raise InputError(
                f"trials = {self.trials} is not for a grid, which tries every combination once; "
                "remove it or choose sampler = 'random'"
            )
        if self.sampler != "grid" and (self.trials is None or self.trials < 1):
            raise InputError(f"trials = {self.trials} must be >= 1 for sampler = {self.sampler!r}")
        if self.splits == () or self.seeds == ():
            raise InputError("splits and seeds must not be empty")
        if self.examples is not None and self.examples < 1:
            raise InputError(f"examples = {self.examples} must be > 0")


@dataclass(frozen=True)
class Variant:
    """One entry of ``data`` or ``models``: a label and the recipe keys it sets."""

    label: str
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One treatment: the recipe keys it sets, and how it is tuned."""

    name: str
    overrides: Mapping[str, Any]
    space: Space = field(default_factory=dict)
    """What is tuned for this arm; empty: nothing."""
    tuned_as: str | None = None
    """Takes the values chosen for this other arm instead of being tuned."""


@dataclass(frozen=True)
class Study:
    """A study, complete: what :func:`convprior.lab.study.load_study` returns."""

    name: str
    description: str
    base: Recipe
    arms: tuple[Arm, ...]
    baseline: str
    """The arm the others are compared with."""
    data: tuple[Variant, ...]
    models: tuple[Variant, ...]
    splits: tuple[int, ...]
    seeds: tuple[int, ...]
    tune: Tune | None
    document: Mapping[str, Any]
    """The study file as written, with the overrides of the command line."""
    curve: Curve | None = None
    """What the report draws accuracy against."""

    def arm(self, name: str) -> Arm:
        """The arm called ``name``."""
        return next(arm for arm in self.arms if arm.name == name)

    def slots(self) -> Iterator[Slot]:
        """Every arm on every data set with every network."""
        for data, model, arm in itertools.product(self.data, self.models, self.arms):
            yield Slot(arm.name, data.label, model.label)

    def tuner(self, slot: Slot) -> Slot:
        """The slot whose tuning decides the values of ``slot``: itself or ``tuned_as``."""
        return slot._replace(arm=self.arm(slot.arm).tuned_as or slot.arm)

    def settings(self, slot: Slot) -> dict[str, Any]:
        """The recipe keys that ``slot`` sets on top of the base; later wins: data, model, arm."""
        data = next(variant for variant in self.data if variant.label == slot.data)
        model = next(variant for variant in self.models if variant.label == slot.model)
        return {**data.overrides, **model.overrides, **self.arm(slot.arm).overrides}

    def recipe(self, slot: Slot, values: Mapping[str, Any], split: int, seed: int) -> Recipe:
        """The recipe of one cell, with ``values`` for the tuned keys."""
        return with_values(
            self.base, {**self.settings(slot), **values, "data.split": split, "seed": seed}
        )

    def cells(self, slot: Slot, values: Mapping[str, Any]) -> list[Cell]:
        """The cells of one slot: splits x seeds."""
        return [
            make_cell(slot, self.recipe(slot, values, split, seed))
            for split, seed in itertools.product(self.splits, self.seeds)
        ]

    def plan(self, values: Mapping[Slot, Mapping[str, Any]]) -> list[Cell]:
        """Every cell of the study, pairs next to each other.

        Args:
            values: what tuning chose for each slot; a slot that is absent is left out.
        """
        cells = [
            cell
            for slot in self.slots()
            if slot in values
            for cell in self.cells(slot, values[slot])
        ]
        return sorted(cells, key=lambda cell: (cell.seed, cell.split))


def make_cell(slot: Slot, recipe: Recipe) -> Cell:
    """A cell, with the key of its recipe."""
    return Cell(slot, recipe.data.split, recipe.seed, recipe, recipe_key(recipe))


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """``recipe`` with dotted keys set, e.g. ``{"optimizer.lr": 0.1}``."""
    tree = as_dict(recipe)
    for key, value in values.items():
        *path, last = key.split(".")
        table = tree
        for part in path:
            table = table[part]
        table[last] = value
    return from_dict(Recipe, tree)


def check_arms(study: Study) -> None:
    """Refuses two arms that are the same, and tuning that favors one.

    Raises:
        InputError: two arms have equal recipes and are tuned alike; arms have different numbers of
            trials; ``tuned_as`` names an arm that is not tuned itself.
    """
    seen: dict[str, str] = {}
    trials: dict[str, int] = {}
    for arm in study.arms:
        tuner = study.arm(arm.tuned_as) if arm.tuned_as else arm
        if arm.tuned_as and (tuner.tuned_as or not tuner.space):
            raise InputError(
                f"arms.{arm.name}.tuned_as = {arm.tuned_as!r} must name an arm that is tuned itself"
            )
        both = [key for key in tuner.space if arm.tuned_as and key in arm.overrides]
        if both:
            raise InputError(
                f"arms.{arm.name} sets {both[0]} and would take it from {arm.tuned_as!r} as well; "
                "remove one"
            )
        if arm.space and study.tune is not None:
            trials[arm.name] = trial_count(study.tune, arm.space)
        same = repr(
            [
                study.recipe(Slot(name, data.label, model.label), {}, study.splits[0], 0)
                for name in (arm.name, tuner.name)
                for data, model in itertools.product(study.data, study.models)
            ]
            + [sorted(tuner.space.items())]
        )
        if same in seen:
            raise InputError(
                f"arms {seen[same]!r} and {arm.name!r} have equal recipes, so they would compare "
                "a thing with itself; change one or remove it"
            )
        seen[same] = arm.name
    if len(set(trials.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in trials.items())
        raise InputError(
            f"every arm must have the same number of tuning trials, but they have {counts}; "
            "give each as many values (an arm's own: [arms.NAME.tune])"
        )


def trial_count(tune: Tune, space: Space) -> int:
    """Trials of one arm."""
    if tune.sampler != "grid":
        return tune.trials or 0
    count = 1
    for choice in space.values():
        count *= len(choice.grid())
    return count
