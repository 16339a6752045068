"""The curve of a study: the recipe key that its report draws accuracy against, and who is where."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from convprior.errors import InputError
from convprior.lab.study.keys import flatten, leaves
from convprior.lab.study.problems import nearest
from convprior.lab.train import as_dict

if TYPE_CHECKING:
    from convprior.lab.study.design import Slot, Study, Variant


@dataclass(frozen=True)
class Curve:
    """A dose-response curve: mean accuracy against what each arm's recipe says under one key."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    x: str
    """The recipe key along the axis, such as `prior.lengthscale`: arms, or entries of `data` or
    `models`, that set it have their place there."""
    group: tuple[str, ...] = ()
    """A line for each value of this recipe key: its color. Of several the others decide whether it
    is solid or dashed. Default: one line, or one an arm where `data` or `models` set `x`."""
    references: tuple[str, ...] = ()
    """Arms drawn as level lines to read the curve against."""
    at: dict[str, int | float | str] = field(default_factory=dict)
    """Places of arms that do not set the key: a number, or a text, which stands behind all numbers:
    `{ local = "full" }`."""
    log: bool = False
    """A logarithmic axis."""
    label: str | None = None
    """What the axis is called, with its unit; default: the key."""

    @property
    def title(self) -> str:
        """What the axis is called."""
        return self.label or self.x


class Place(NamedTuple):
    """Where one slot lies."""

    data: str
    """Of the panel: the label of the data set without ``x``; ``model`` likewise."""
    model: str
    color: str
    """What decides the color of its line, in words; empty if there is but one line."""
    style: str
    """What decides how the line is drawn; mostly empty."""
    x: float | str


def find_place(study: "Study", slot: "Slot") -> Place | None:
    """The place of a slot on the study's curve; None for a reference, or without a value there."""
    curve = study.curve
    if curve is None or slot.arm in curve.references:
        return None
    if slot.arm not in curve.at and curve.x not in study.settings(slot):
        return None
    recipe = study.recipe(slot, {}, study.splits[0], study.seeds[0])
    keys = flatten(as_dict(recipe))
    value: Any = curve.at.get(slot.arm, keys[curve.x])
    words = [f"{key.rpartition('.')[2]} {_text(keys[key])}" for key in curve.group]
    own = slot.arm in curve.at or curve.x in study.arm(slot.arm).overrides
    color = words[0] if words else "" if own else slot.arm
    # What is unset goes without saying.
    others = zip(curve.group[1:], words[1:], strict=True)
    style = ", ".join(word for key, word in others if keys[key] is not None)
    panel = (_rest(study.data, slot.data, curve.x), _rest(study.models, slot.model, curve.x))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Place(*panel, color, style, value if is_number else _text(value))


def curve_problems(study: "Study", arms: Iterable[str]) -> Iterator[str]:
    """What is wrong with the names in ``[curve]``, a sentence each.

    Args:
        study: the study; one without a curve has no problem.
        arms: all arms of the file, also those that the study leaves out.
    """
    curve, names = study.curve, list(arms)
    if curve is None:
        return
    for where, key in (("x", curve.x), *(("group", key) for key in curve.group)):
        if key not in leaves():
            yield f"curve.{where} = {key!r} is not a key of a recipe; {nearest(key, leaves())}"
    for where, arm in (*(("references", arm) for arm in curve.references),
                       *(("at", arm) for arm in curve.at)):  # fmt: skip
        if arm not in names:
            yield f"curve.{where}: {arm!r} is not an arm; {nearest(arm, names)}"
        if where == "at" and arm in curve.references:
            yield f"curve.at: {arm!r} is one of curve.references as well; remove one"
    crossed = any(curve.x in one.overrides for one in (*study.data, *study.models))
    if crossed and (curve.references or curve.at):
        yield (
            f"curve: data or models set {curve.x!r}, so every arm has a line of its own there; "
            "remove curve.references and curve.at"
        )
    if any(curve.x in arm.space for arm in study.arms):
        yield f"curve.x = {curve.x!r} is tuned, so an arm has no one value; take one that arms set"


def check_curve(study: "Study") -> None:
    """Refuses a curve that nobody lies on, or on which two arms would lie on one another.

    Raises:
        InputError: one of these, or a logarithmic axis with a value that is not positive.
    """
    curve = study.curve
    if curve is None:
        return
    taken: dict[Place, str] = {}
    for slot in study.slots():
        place = find_place(study, slot)
        if place is None:
            continue
        if curve.log and not isinstance(place.x, str) and place.x <= 0:
            raise InputError(
                f"curve.log = true needs values > 0, and {slot.arm} has {curve.x} = {place.x}; "
                "remove curve.log, or give it a text in curve.at"
            )
        if place in taken:
            raise InputError(
                f"curve: {taken[place]!r} and {slot.arm!r} both lie at {curve.x} = {place.x}; tell "
                "them apart by a key in curve.group, or make one a reference"
            )
        taken[place] = slot.arm
    if not taken:
        raise InputError(
            f"curve.x = {curve.x!r} is set by no arm, data or models, so there is no curve; take "
            "a key that they set, or remove [curve]"
        )


def _rest(variants: tuple["Variant", ...], label: str, key: str) -> str:
    """The label of a data set or network without what it sets under ``key``."""
    variant = next(one for one in variants if one.label == label)
    if key not in variant.overrides:
        return label
    return label.replace(f" {key.partition('.')[2]}={variant.overrides[key]}", "")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
