"""Studies by name: TOML files that come with convprior."""

import tomllib
from importlib.resources import files

from convprior.errors import InputError
from convprior.lab.study.problems import nearest


def list_presets() -> dict[str, str]:
    """The names of the prepared studies, each with what it asks."""
    return {name: tomllib.loads(preset_text(name))["description"] for name in _names()}


def preset_text(name: str) -> str:
    """The study file of a preset.

    Raises:
        InputError: no preset has this name.
    """
    if name not in _names():
        raise InputError(f"preset {name!r} does not exist; {nearest(name, _names())}")
    return files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")


def _names() -> list[str]:
    found = (entry.name for entry in files(__package__).iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))
