"""Tuning: every arm alike, on validation images, before any test image is looked at.

The trials of an arm are ordinary cells of the study with ``data.evaluate = "validation"``, so they
are cached, resumable, and shared by arms that try the same recipe. Nothing else is stored: the
samplers are deterministic, so a rerun asks for the same trials and finds them done.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from convprior._files import read_json, write_json
from convprior._version import __version__
from convprior.errors import RunError
from convprior.lab.study.design import Cell, Slot, Study, make_cell, with_values
from convprior.lab.study.proposals import propose
from convprior.lab.study.store import FORMAT, Store
from convprior.lab.train import canonical

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One setting that was tried."""

    values: dict[str, Any]
    accuracy: float
    """Mean accuracy on validation images over splits x seeds; a diverged cell counts as 0."""
    loss: float | None
    """Mean loss likewise, which decides ties; None when a cell diverged."""
    cells: tuple[str, ...]
    """Keys of its cells."""


@dataclass(frozen=True)
class Tuning:
    """How one slot was tuned, and what was chosen."""

    slot: Slot
    values: dict[str, Any]
    """The setting of the best trial: highest accuracy, then lowest loss, then first."""
    accuracy: float
    trials: tuple[Trial, ...]
    edge: tuple[str, ...]
    """A sentence for each key whose best value is the smallest or largest that was tried."""
    fingerprint: str
    """Hash of all that decides the trials; a stored result is reused only if it agrees."""


def tune(study: Study, store: Store, run: Callable[[Sequence[Cell]], None]) -> list[Tuning]:
    """Tunes every slot of the study that tunes itself.

    Args:
        study: with a ``tune`` section; without one the result is empty.
        store: its folder; the result is written to ``tune.json``.
        run: runs cells to their end; called with the cells of all slots together, so that workers
            never wait for one slot.

    Returns:
        The tuned slots; one whose trials crashed or were stopped is left out.
    """
    if study.tune is None:
        return []
    slots = [slot for slot in study.slots() if study.arm(slot.arm).space]
    stored = {tuning.slot: tuning for tuning in read_tunings(store.folder)}
    done = {
        slot: stored[slot]
        for slot in slots
        if slot in stored and stored[slot].fingerprint == _fingerprint(study, slot)
    }
    proposals = {
        slot: propose(study.tune, study.arm(slot.arm).space) for slot in slots if slot not in done
    }
    trials: dict[Slot, list[Trial]] = {slot: [] for slot in proposals}
    waves = {slot: next(proposal) for slot, proposal in proposals.items()}
    while waves:
        cells = {
            slot: [_cells(study, slot, values) for values in wave] for slot, wave in waves.items()
        }
        run([cell for wave in cells.values() for trial in wave for cell in trial])
        following = {}
        for slot, wave in waves.items():
            scored = [_score(store, v, c) for v, c in zip(wave, cells[slot], strict=True)]
            whole = [trial for trial in scored if trial is not None]
            if len(whole) < len(scored):
                continue
            trials[slot] += whole
            try:
                following[slot] = proposals[slot].send([trial.accuracy for trial in whole])
            except StopIteration:
                done[slot] = _choose(study, slot, trials[slot])
        waves = following
    tunings = [done[slot] for slot in slots if slot in done]
    if any(stored.get(tuning.slot) != tuning for tuning in tunings):
        _write(store, tunings)
    return tunings


def read_tunings(folder: Path) -> list[Tuning]:
    """The results of tuning in a study's folder; empty when there are none of this format."""
    path = folder / "tune.json"
    if not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return []
    try:
        return [_tuning(entry) for entry in found["tunings"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged; delete it to have it made again") from error


def _tuning(entry: Mapping[str, Any]) -> Tuning:
    trials = (Trial(**{**trial, "cells": tuple(trial["cells"])}) for trial in entry["trials"])
    slot, edge = Slot(**entry["slot"]), tuple(entry["edge"])
    return Tuning(**{**entry, "slot": slot, "edge": edge, "trials": tuple(trials)})


def _write(store: Store, tunings: Sequence[Tuning]) -> None:
    entries = [{**asdict(tuning), "slot": tuning.slot._asdict()} for tuning in tunings]
    write_json(
        store.folder / "tune.json",
        {"format": FORMAT, "version": __version__, "tunings": entries},
    )


def _cells(study: Study, slot: Slot, values: Values) -> list[Cell]:
    """The cells of one trial."""
    assert study.tune is not None
    fixed: dict[str, Any] = {"data.evaluate": "validation"}
    if study.tune.examples is not None:
        fixed["budget.examples"] = study.tune.examples
    # Only the score counts, not the way to it.
    fixed["budget.evaluations"] = 0
    splits = study.tune.splits or study.splits
    return [
        make_cell(slot, with_values(study.recipe(slot, values, split, seed), fixed))
        for split, seed in itertools.product(splits, study.tune.seeds)
    ]


def _score(store: Store, values: Values, cells: Sequence[Cell]) -> Trial | None:
    accuracies, losses = [], []
    for cell in cells:
        status, metrics, _ = store.status(cell.key)
        if status not in ("finished", "diverged"):
            return None
        accuracies.append(metrics["accuracy"] if metrics else 0.0)
        losses.append(metrics["loss"] if metrics else math.inf)
    loss = sum(losses) / len(losses)
    return Trial(
        dict(values),
        sum(accuracies) / len(accuracies),
        loss if math.isfinite(loss) else None,
        tuple(cell.key for cell in cells),
    )


def _choose(study: Study, slot: Slot, trials: Sequence[Trial]) -> Tuning:
    def worth(trial: Trial) -> tuple[float, float]:
        return trial.accuracy, -math.inf if trial.loss is None else -trial.loss

    best = max(trials, key=worth)  # the first of equals
    return Tuning(
        slot,
        best.values,
        best.accuracy,
        tuple(trials),
        tuple(_edges(best, trials)),
        _fingerprint(study, slot),
    )


def _edges(best: Trial, trials: Sequence[Trial]) -> Iterator[str]:
    for key, value in best.values.items():
        tried = sorted({t.values[key] for t in trials if isinstance(t.values[key], int | float)})
        if len(tried) < 3 or isinstance(value, bool) or value not in (tried[0], tried[-1]):
            continue
        if value == 0:  # nothing lies below
            continue
        side = "smallest" if value == tried[0] else "largest"
        yield (
            f"{key} = {value:g} is the {side} value tried, so a better one may lie beyond; "
            "widen tune.space"
        )


def _fingerprint(study: Study, slot: Slot) -> str:
    assert study.tune is not None
    rules = asdict(study.tune) | {
        "space": {key: asdict(choice) for key, choice in study.arm(slot.arm).space.items()},
        "splits": study.tune.splits or study.splits,
    }
    recipe = canonical(_cells(study, slot, {})[0].recipe)
    return sha256(json.dumps([rules, recipe], sort_keys=True).encode()).hexdigest()[:16]
