"""Dotted keys: ``optimizer.lr`` and the nested tables that TOML makes of it, both ways."""

import dataclasses
import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any

from convprior.errors import InputError
from convprior.lab.train import Recipe, as_dict

Tree = dict[str, Any]


def flatten(table: Mapping[str, Any]) -> Tree:
    """Nested tables to dotted keys; the text ``"none"`` becomes None, which TOML cannot say."""
    flat: Tree = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[key] = None if value == "none" else value
    return flat


def nest(flat: Mapping[str, Any]) -> Tree:
    """Dotted keys to nested tables; the inverse of :func:`flatten`.

    Raises:
        InputError: a key is both a value and a table.
    """
    tree: Tree = {}
    for key, value in flat.items():
        put(tree, key.split("."), value)
    return tree


@cache
def leaves() -> tuple[str, ...]:
    """The dotted keys of a recipe."""
    return tuple(flatten(as_dict(Recipe())))


def spread(space: Mapping[str, Any], prefix: str = "") -> Tree:
    """A tuning space with dotted keys, however its tables were nested."""
    sections = [f.name for f in dataclasses.fields(Recipe)]
    flat: Tree = {}
    for key, value in space.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and dotted in sections:
            flat |= spread(value, f"{dotted}.")
        else:
            flat[dotted] = value
    return flat


def assignment(text: str) -> tuple[list[str], Any]:
    """``KEY=VALUE`` as the key's parts and the value, read as TOML or else as a text.

    Raises:
        InputError: no ``=``, or the key is none.
    """
    key, equals, shown = text.partition("=")
    tree: Any = None
    try:
        tree = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        equals = ""
    if not equals or not tree:
        raise InputError(f"--set {text!r} must be KEY=VALUE, for example budget.examples=5000")
    path: list[str] = []
    while isinstance(tree, dict):
        ((part, tree),) = tree.items()
        path.append(part)
    try:
        value = tomllib.loads(f"value = {shown}")["value"]
    except tomllib.TOMLDecodeError:
        value = shown.strip()
    return path, value


def put(tree: Tree, path: list[str], value: Any) -> None:
    """Sets the entry at ``path``, making tables on the way.

    Raises:
        InputError: a part of the path is a value already.
    """
    *parents, last = path
    table: Any = tree
    for part in parents:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"{part} in {'.'.join(path)} is a value and cannot be a table")
    table[last] = value
