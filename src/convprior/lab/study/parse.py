"""A study from nested dictionaries, checked in full before anything runs."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from convprior.errors import InputError
from convprior.lab.study.curve import Curve, check_curve, curve_problems
from convprior.lab.study.design import Arm, Range, Slot, Study, Tune, Variant, check_arms
from convprior.lab.study.keys import flatten, leaves, nest, spread
from convprior.lab.study.problems import check, nearest, together, validate
from convprior.lab.train import Recipe

_PYDANTIC: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
_FIXED = {
    "seed": "the study crosses with seeds: write seeds = ... at the top",
    "data.split": "the study crosses with splits: write splits = ... at the top",
    "data.evaluate": "the study decides it: tuning sees validation images, the rest test images",
}
_SHARED = {
    "data.source": "arms share their images",
    "data.per_class": "arms share their images",
    "budget.examples": "arms cost the same; the budget of a trial is tune.examples",
}
_MISSING = {
    "name is missing": 'name is missing; add one at the top: name = "my_study"',
    "arms is missing": "arms is missing; a study needs at least one, for example [arms.plain]",
}


@dataclass(frozen=True)
class StudyFile:
    """A study file: a base recipe, and arms that change it, crossed with everything else."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    name: str
    """Name of the study and of its folder: letters, digits, `.`, `_`, `-`."""
    arms: dict[str, dict[str, Any]]
    """The treatments: the recipe keys in which each differs from the base."""
    description: str = ""
    """What the study asks, in a sentence."""
    base: Recipe = field(default_factory=Recipe)
    """The recipe that all arms share."""
    baseline: str | None = None
    """The arm the others are compared with; default: the first."""
    data: tuple[dict[str, Any], ...] = ()
    """Data sets to cross with: sources, or tables of `data` keys; default: that of the base."""
    models: tuple[dict[str, Any], ...] = ()
    """Networks to cross with: names, or tables of `model` keys; default: that of the base."""
    splits: tuple[int, ...] = (0,)
    """Training subsets, by index."""
    seeds: tuple[int, ...] = tuple(range(8))
    """Seeds; a number n means 0, ..., n - 1."""
    tune: Tune | None = None
    """How each arm is tuned before the comparison; default, or false: not at all."""
    curve: Curve | None = None
    """A chart for the report: accuracy against the value of one recipe key."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", self.name):
            raise InputError(
                f"name = {self.name!r} must be letters, digits, '.', '_' or '-': it names a folder"
            )
        if not self.arms:
            raise InputError("arms is empty; a study needs at least one, for example [arms.plain]")
        for key, found in (("splits", self.splits), ("seeds", self.seeds)):
            if not found:
                raise InputError(f"{key} is empty; a study needs at least one")
            if len(set(found)) < len(found):
                raise InputError(f"{key} = {list(found)} must differ from each other")


@dataclass(frozen=True)
class ArmFile:
    """What an arm may hold besides recipe keys."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _PYDANTIC

    tune: dict[str, Range] | None = None
    """Replaces `tune.space` for this arm; an empty table: this arm is not tuned."""
    tuned_as: str | None = None
    """Take the values that tuning chose for this other arm."""


def parse_study(document: Mapping[str, Any]) -> Study:
    """Checks a study given as nested dictionaries: its own keys, every recipe, every tuned value.

    Raises:
        InputError: one sentence for every wrong key or value.
    """
    plain = json.loads(json.dumps(document, default=str))
    normal = _normalize(plain)
    base = normal.get("base", {})
    if isinstance(base, dict):  # checked with every arm's own keys below
        normal.pop("base", None)
    file = check(StudyFile, normal)
    found = check(Recipe, base, lambda key: f"base.{key}")
    problems = dict.fromkeys(found if isinstance(found, list) else [])
    if isinstance(file, list):
        raise together([*(_MISSING.get(sentence, sentence) for sentence in file), *problems])
    arms = tuple(
        _arm(name, table, file.tune)
        for name, table in file.arms.items()
        # Without tuning, an arm that only borrows tuned values is the baseline.
        if file.tune is not None or "tune" not in plain or table.keys() != {"tuned_as"}
    )
    for name, table in file.arms.items() if "tune" not in plain else ():
        if table.keys() & {"tune", "tuned_as"}:
            raise InputError(f"arms.{name} says how it is tuned, but there is no [tune]; add one")
    names = [arm.name for arm in arms]
    _known("baseline", file.baseline, names)
    for arm in arms:
        _known(f"arms.{arm.name}.tuned_as", arm.tuned_as, names)
    data = _variants("data", "source", file.data)
    models = _variants("model", "name", file.models)
    common = Recipe() if isinstance(found, list) else found
    study = Study(
        name=file.name,
        description=file.description,
        base=common,
        arms=arms,
        baseline=file.baseline or names[0],
        data=data or (Variant(_label(common.data.source), {}),),
        models=models or (Variant(common.model.name, {}),),
        splits=file.splits,
        seeds=file.seeds,
        tune=file.tune,
        document=plain,
        curve=file.curve,
    )
    problems |= dict.fromkeys([*_problems(study, flatten(base)), *curve_problems(study, file.arms)])
    if problems:
        raise together(list(problems))
    check_arms(study)
    check_curve(study)
    return study


def _normalize(plain: dict[str, Any]) -> dict[str, Any]:
    """The file with its short forms written out; what has a wrong type is left for pydantic."""
    file = dict(plain)
    if file.get("tune") is False:
        del file["tune"]
    if isinstance(tune := file.get("tune"), dict):
        file["tune"] = tune = _counted(tune)
        if isinstance(tune.get("space"), dict):
            tune["space"] = spread(tune["space"])
    if isinstance(base := file.get("base"), dict):
        file["base"] = nest(flatten(base))
    if isinstance(curve := file.get("curve"), dict) and isinstance(curve.get("group"), str):
        file["curve"] = {**curve, "group": [curve["group"]]}
    for key, inner in (("data", "source"), ("models", "name")):
        if isinstance(entries := file.get(key), str | dict):
            file[key] = entries = [entries]
        if isinstance(entries, list):
            file[key] = [{inner: e} if isinstance(e, str) else e for e in entries]
    return _counted(file)


def _counted(table: dict[str, Any]) -> dict[str, Any]:
    """A copy with ``seeds = n`` written out as 0, ..., n - 1."""
    seeds = table.get("seeds")
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        return {**table, "seeds": list(range(seeds))}
    return dict(table)


def _arm(name: str, table: dict[str, Any], tune: Tune | None) -> Arm:
    own = {key: table[key] for key in ("tune", "tuned_as") if key in table}
    if isinstance(own.get("tune"), dict):
        own["tune"] = spread(own["tune"])
    file = validate(ArmFile, own, lambda key: f"arms.{name}.{key}")
    overrides = flatten({key: value for key, value in table.items() if key not in own})
    if tune is None:
        return Arm(name, overrides)
    if file.tuned_as is not None:
        if file.tune is not None:
            raise InputError(f"arms.{name} has tune and tuned_as; remove one")
        return Arm(name, overrides, {}, file.tuned_as)
    if file.tune is not None:
        return Arm(name, overrides, file.tune)
    # What an arm sets is what makes it that arm, so tuning leaves it alone.
    space = {key: choice for key, choice in tune.space.items() if key not in overrides}
    if not space:
        raise InputError(
            f"arms.{name} sets all that [tune] would choose ({', '.join(tune.space)}), so it would "
            f"be compared untuned; give it keys of its own under [arms.{name}.tune] with as many "
            f"trials, or write tune = {{}} there if you mean it"
        )
    return Arm(name, overrides, space)


def _variants(
    section: str, naming: str, entries: tuple[dict[str, Any], ...]
) -> tuple[Variant, ...]:
    tables = [flatten(entry) for entry in entries]
    labels = [_label(str(table.get(naming, "base"))) for table in tables]
    for i, table in enumerate(tables):
        if labels.count(labels[i]) > 1:
            rest = " ".join(f"{key}={value}" for key, value in table.items() if key != naming)
            labels[i] = f"{labels[i]} {rest}".strip()
    if len(set(labels)) < len(labels):
        raise InputError(f"{section} has equal entries: {', '.join(labels)}; remove one")
    return tuple(
        Variant(label, {f"{section}.{key}": value for key, value in table.items()})
        for label, table in zip(labels, tables, strict=True)
    )


def _label(source: str) -> str:
    return Path(source).name or source


def _known(key: str, name: str | None, names: list[str]) -> None:
    if name is not None and name not in names:
        raise InputError(f"{key} = {name!r} is not an arm; {nearest(name, names)}")


def _problems(study: Study, base: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the recipes of a study, a sentence each."""
    yield from _fixed("base", base)
    for arm in study.arms:
        yield from _fixed(f"arms.{arm.name}", arm.overrides)
        if "data.source" in arm.overrides:
            yield (
                f"arms.{arm.name}.data.source cannot be set: arms are compared on the same images; "
                "list data sets as data = [...] at the top"
            )
        for key in arm.space:
            if key not in leaves():
                yield f"tune.space: {key} is not a key of a recipe; {nearest(key, leaves())}"
            if key in _SHARED:
                yield f"tune.space: {key} cannot be tuned: {_SHARED[key]}"
        yield from _fixed("tune.space", arm.space)
    for variant in study.data:
        yield from _fixed(f"data {variant.label!r}", variant.overrides)
    for slot in study.slots():
        settings, arm, tune = study.settings(slot), study.arm(slot.arm), study.tune
        place = _origin(slot, study)
        own = {**base, **settings}
        whole = any(study.splits) and own.get("data.per_class") is None
        if whole:
            yield (
                f"splits = {list(study.splits)} needs base.data.per_class: without it every split "
                "is the whole training set; set it, or splits = [0]"
            )
        splits = (0,) if whole else study.splits
        wrong = [p for split in splits for p in _wrong({**own, "data.split": split}, place)]
        if not (wrong or whole or tune is None) and arm.space:
            trial = {**own, "data.evaluate": "validation"}
            for split in tune.splits or study.splits:
                wrong += _wrong({**trial, "data.split": split}, place)
        yield from wrong
        if wrong or tune is None:
            continue
        for key, choice in arm.space.items():
            if key not in leaves():
                continue
            ends = [v for v in (choice.low, choice.high) if v is not None]
            for value in choice.grid() if tune.sampler == "grid" else choice.values or ends:
                yield from _wrong({**own, key: value}, lambda k: f"tune.space: {k}")


def _fixed(place: str, overrides: Mapping[str, Any]) -> Iterator[str]:
    for key, reason in _FIXED.items():
        if any(f"{name}.".startswith(f"{key}.") for name in overrides):
            yield f"{place}.{key} cannot be set: {reason}"


def _wrong(flat: dict[str, Any], place: Callable[[str], str]) -> Iterator[str]:
    found = check(Recipe, nest(flat), place)
    yield from found if isinstance(found, list) else []


def _origin(slot: Slot, study: Study) -> Callable[[str], str]:
    """Says where the user wrote the recipe key that a message begins with."""
    tables = {f"arms.{slot.arm}": study.arm(slot.arm).overrides}
    for name, variants, label in (
        ("data", study.data, slot.data),
        ("models", study.models, slot.model),
    ):
        tables[f"{name} {label!r}"] = next(v.overrides for v in variants if v.label == label)

    def place(message: str) -> str:
        key = message.split(" ")[0].rstrip(":")
        for table, overrides in tables.items():
            for written in overrides:
                if f"{written}.".startswith(f"{key}.") or f"{key}.".startswith(f"{written}."):
                    return (
                        f"{table}.{message}" if table.startswith("arms") else f"{table}: {message}"
                    )
        return f"base.{message}"

    return place
