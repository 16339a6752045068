"""Errors of pydantic, rewritten into one sentence a problem: the key, the value, the rule."""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from convprior._optional import require
from convprior.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")
_PLAIN = {
    "bool_type": "must be true or false",
    "dataclass_type": "must be a table of keys",
    "dict_type": "must be a table of keys",
    "float_type": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
}
_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def validate(kind: type[T], values: Any, place: Callable[[str], str] = str) -> T:
    """Builds ``kind``, a dataclass, from plain ``values``, strictly: no text becomes a number.

    Args:
        kind: a dataclass of plain fields or of further dataclasses.
        values: nested dictionaries and lists.
        place: turns the dotted key of a problem into the one the user wrote.

    Raises:
        InputError: one sentence a problem.
    """
    found = check(kind, values, place)
    if isinstance(found, list):
        raise together(found)
    return found


def together(problems: Sequence[str]) -> InputError:
    """One error for all ``problems``, each a sentence; several have a line each."""
    if len(problems) == 1:
        return InputError(problems[0])
    return InputError("\n  ".join([f"{len(problems)} problems:", *problems]))


def check(kind: type[T], values: Any, place: Callable[[str], str] = str) -> T | list[str]:
    """As :func:`validate`, but returns the sentences."""
    pydantic = require("pydantic", "lab")
    try:
        # JSON is where pydantic is strict and still takes a dictionary for a dataclass.
        checked = adapter(typing.cast("Any", kind)).validate_json(json.dumps(values), strict=True)
    except pydantic.ValidationError as error:
        sentences = [_sentence(problem, kind, place) for problem in error.errors()]
        return list(dict.fromkeys(sentences))
    return typing.cast("T", checked)


@cache
def adapter(kind: type) -> "TypeAdapter[Any]":
    """The reader that pydantic makes of a dataclass."""
    built: TypeAdapter[Any] = require("pydantic", "lab").TypeAdapter(kind)
    return built


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown ``name``: the nearest right one, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def _sentence(problem: "ErrorDetails", kind: type, place: Callable[[str], str]) -> str:
    location = [str(part) for part in problem["loc"]]
    dotted = ".".join(location)
    context = problem.get("ctx", {})
    if problem["type"] in _UNKNOWN:
        hint = _meant(location[-1], _fields(kind, location[:-1]))
        return f"{place(dotted)} is not a known key; {hint}"
    if problem["type"] == "missing":
        return f"{place(dotted)} is missing"
    if problem["type"] == "value_error":
        message = str(context.get("error", problem["msg"]))
        # A recipe's own message names its key: keep one of the two.
        if location and message.startswith(f"{location[-1]}."):
            return place(".".join([*location[:-1], message]))
        return f"{place(dotted)}: {message}" if dotted else message
    shown = f"{place(dotted)} = {problem['input']!r}"
    if problem["type"] == "literal_error":
        expected = str(context["expected"])
        near = difflib.get_close_matches(str(problem["input"]), expected.split("'")[1::2], 1)
        return f"{shown} must be {expected}" + (f"; did you mean {near[0]!r}?" if near else "")
    rule = problem["msg"].replace("Input should be", "must be").replace("a valid ", "a ")
    return f"{shown} {_PLAIN.get(problem['type'], rule)}"


def keys_of(kind: Any, location: Sequence[str] = ()) -> list[str]:
    """The keys of the dataclass at ``location`` inside ``kind``."""
    return list(_fields(kind, location))


def _fields(kind: Any, location: Sequence[str]) -> dict[str, Any]:
    """The keys of the dataclass at ``location``, each with its type."""
    for part in location:
        # An index or a name where it is a list or a dictionary of dataclasses.
        kind = _fields(kind, ())[part] if _is_table(kind) else typing.get_args(kind)[-1]
    hints = typing.get_type_hints(_bare(kind))
    return {f.name: hints[f.name] for f in dataclasses.fields(_bare(kind))}


def _is_table(kind: Any) -> bool:
    return dataclasses.is_dataclass(_bare(kind))


def _bare(kind: Any) -> Any:
    """The dataclass of an optional dataclass."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next((o for o in typing.get_args(kind) if dataclasses.is_dataclass(o)), kind)
    return kind


def _meant(name: str, fields: Mapping[str, Any]) -> str:
    inner = [
        f"{key}.{name}" for key, kind in fields.items() if _is_table(kind) and name in keys_of(kind)
    ]
    if inner and not difflib.get_close_matches(name, fields, 1):
        return f"did you mean {inner[0]!r}?"
    return nearest(name, fields)
