"""Study and recipe files: TOML and ``--set`` to a checked :class:`Study` or ``Recipe``."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convprior.errors import InputError
from convprior.lab.study.design import Study
from convprior.lab.study.keys import assignment, flatten, nest, put
from convprior.lab.study.parse import StudyFile, parse_study
from convprior.lab.study.presets import preset_text
from convprior.lab.study.problems import keys_of, nearest, validate
from convprior.lab.train import Recipe


def load_study(
    path: str | Path | None = None,
    *,
    preset: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
) -> Study:
    """Reads a study file or a preset.

    Args:
        path: a TOML file.
        preset: a name of :func:`list_presets`; without ``path`` the default is ``"digits"``.
        data: a data source that replaces the study's; the study's name then gets its name too.
        overrides: ``"KEY=VALUE"`` each, the value in TOML (a bare word is a text, ``none`` unsets).
            Keys of a study (``seeds=3``, ``tune.examples=500``, ``arms.locality.prior.floor=0.5``)
            are that; any other is a recipe key of the base (``budget.examples=5000``).

    Raises:
        InputError: the file is absent or is not TOML; one sentence for every wrong key or value.
    """
    if path is not None and preset is not None:
        raise InputError(f"give a study file ({path}) or --preset {preset}, not both")
    if path is not None:
        document = _read(Path(path))
    else:
        document = tomllib.loads(preset_text(preset or "digits"))
    paths = []
    for text in overrides:
        parts, value = assignment(text)
        paths.append(_of_study(parts, value, document))
        put(document, paths[-1], value)
    if data is not None:
        document.pop("data", None)
        put(document, ["base", "data", "source"], data)
        tail = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data).resolve().name).strip("-.")
        document["name"] = f"{document.get('name', 'study')}-{tail or 'data'}"
    study = parse_study(document)
    for text, (head, *rest) in zip(overrides, paths, strict=True):
        key = ".".join(rest)
        if head == "base" and all(key in _tuned(study, arm.name) for arm in study.arms):
            raise InputError(
                f"--set {text} would change nothing because [tune] chooses {key}; "
                "add --set tune=false, or change tune.space"
            )
    return study


def load_recipe(
    path: str | Path | None = None, *, data: str | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """Reads a recipe file (TOML); without ``path`` the default recipe.

    Args:
        path: a TOML file with the keys of a recipe.
        data: replaces ``data.source``.
        overrides: ``"KEY=VALUE"`` each, as for :func:`load_study`.

    Raises:
        InputError: the file is absent or is not TOML; one sentence for every wrong key or value.
    """
    document = _read(Path(path)) if path is not None else {}
    if "arms" in document:
        raise InputError(f"{path} has arms, so it is a study file: convprior study {path}")
    flat = flatten(document)
    for text in overrides:
        key, value = assignment(text)
        flat |= flatten(nest({".".join(key): value}))
    if data is not None:
        flat["data.source"] = data
    return validate(Recipe, nest(flat))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"could not read {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error


def _of_study(path: list[str], value: Any, document: dict[str, Any]) -> list[str]:
    """The path in the study file: what is no key of a study belongs to the base."""
    if path[0] == "arms" and len(path) > 1:
        known = document.get("arms", {})
        if isinstance(known, dict) and path[1] not in known:
            raise InputError(f"--set arms.{path[1]}: no such arm; {nearest(path[1], known)}")
    # `data=[...]` crosses the study with data sets, `data.per_class=5` is a recipe key.
    inner = path[0] == "data" and (len(path) > 1 or isinstance(value, dict))
    return path if path[0] in keys_of(StudyFile) and not inner else ["base", *path]


def _tuned(study: Study, name: str) -> set[str]:
    arm = study.arm(name)
    return set(study.arm(arm.tuned_as or name).space)
