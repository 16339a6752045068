"""Recipes as plain data: every field checked, to and from nested dictionaries."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from convprior.errors import InputError

T = TypeVar("T")

_UNIONS = (typing.Union, types.UnionType)
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def as_dict(recipe: Any) -> dict[str, Any]:
    """The recipe as nested plain dictionaries, ready for JSON or TOML."""
    return dataclasses.asdict(recipe)


def from_dict(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Builds a recipe class from nested dictionaries; absent keys take their defaults.

    Args:
        kind: :class:`Recipe` or the class of one slot.
        values: as :func:`as_dict` returns; an int is accepted where a float is meant.
        where: the path of ``values`` in the whole recipe, for messages.

    Raises:
        InputError: an unknown key, a value of another type or one out of range.
    """
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(names)}"
            raise InputError(f"{path} is not a key of a recipe; {meant}")
        arguments[key] = _convert(hints[key], value, path)
    return kind(**arguments)


def settle(recipe: Any, where: str = "") -> None:
    """Checks the type of every field of a frozen dataclass and turns ints into floats where meant.

    Raises:
        InputError: a value of another type.
    """
    hints = typing.get_type_hints(type(recipe))
    for entry in dataclasses.fields(recipe):
        path = f"{where}.{entry.name}" if where else entry.name
        value = _convert(hints[entry.name], getattr(recipe, entry.name), path)
        object.__setattr__(recipe, entry.name, value)


def require(holds: bool, name: str, value: Any, rule: str) -> None:
    """Raises :class:`InputError` with the name, the value and the rule unless ``holds``."""
    if not holds:
        raise InputError(f"{name} = {value!r} {rule}")


def positive(value: float) -> bool:
    """Whether ``value`` is a finite number above zero."""
    return 0 < value < math.inf


def none_or(value: float | None, least: float) -> bool:
    """Whether ``value`` is absent, or finite and at least ``least``."""
    return value is None or least <= value < math.inf


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise InputError(f"{path} = {value!r} must be a table of keys")
        return from_dict(hint, value, path)
    options = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    for option in options:
        if typing.get_origin(option) is Literal:
            if any(value == choice and type(value) is type(choice) for choice in option.__args__):
                return value
        elif type(value) is option:
            return value
    if float in options and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise InputError(f"{path} must be a number below 1e308, in absolute value") from error
    raise InputError(f"{path} = {value!r} must be {_describe(options)}")


def _describe(options: tuple[Any, ...]) -> str:
    words: list[str] = []
    for option in options:
        if typing.get_origin(option) is Literal:
            words += [repr(choice) for choice in option.__args__]
        else:
            words.append("absent" if option is type(None) else _WORDS.get(option, str(option)))
    return " or ".join(words)
