"""Runs a study: checks its data, tunes its arms, trains its cells, and says what came out."""

import math
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from convprior.errors import InputError
from convprior.lab.study.design import Cell, Slot, Study, trial_count
from convprior.lab.study.live import Display
from convprior.lab.study.parse import parse_study
from convprior.lab.study.rows import Row
from convprior.lab.study.runner import Runner
from convprior.lab.study.sources import check_sources
from convprior.lab.study.store import Store
from convprior.lab.study.tune import Tuning, tune

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Outcome:
    """What is in a study's folder."""

    study: Study
    folder: Path
    rows: tuple[Row, ...]
    """One for each arm, data set, network, split and seed."""
    tunings: tuple[Tuning, ...]
    """How each arm was tuned; empty without a ``tune`` section."""
    failures: tuple[Row, ...]
    """Rows, tuning trials among them, that crashed or were stopped. A diverged one is a result."""


def run_study(
    study: Study,
    folder: str | Path,
    *,
    jobs: int | None = None,
    threads: int = 1,
    device: str = "auto",
    retry: bool = False,
    console: "Console | None" = None,
) -> Outcome:
    """Runs what a study still lacks; what is finished is never run again.

    Args:
        study: from :func:`load_study`.
        folder: of this study; made if absent. Several processes may work on it at once.
        jobs: worker processes; None: one a GPU, or as many as the cores allow.
        threads: of each worker. The results of a CPU depend on it in the last bits.
        device: ``auto``, ``cpu``, ``cuda`` (all GPUs) or ``cuda:N``.
        retry: also run crashed cells again.
        console: shows progress; None: silence.

    Returns:
        Rows, tuning and failures.

    Raises:
        InputError: a value is wrong, data are missing or broken; nothing was run.
        RunError: the disk is full, the folder is of another format version, or workers cannot run.
        KeyboardInterrupt: Ctrl-C or SIGTERM. States are saved, the same call goes on.
    """
    devices = worker_devices(device, jobs, threads)
    store = Store(Path(folder))
    if store.exists():
        store.begin(study.document)
        before = outcome(study, store)
        if not [row for row in before.failures if retry or row.status != "crashed"]:
            return before
    if console is not None:
        console.print(outline(study), highlight=False, markup=False)
    check_sources(study)
    store.begin(study.document)  # only now: wrong data leave no folder behind
    budget = study.base.budget.examples
    with (
        _terminable(),
        Display(study, store, console) as display,
        Runner(store, devices, threads, display.progress.listen) as runner,
    ):
        final = len(list(study.slots())) * len(study.splits) * len(study.seeds) * budget

        def run_trials(cells: Sequence[Cell]) -> None:
            display.progress.begin("tuning", cells, later=final, retry=retry)
            runner.run(cells, retry=retry, keep_weights=False)

        cells = study.plan(chosen_values(study, tune(study, store, run_trials)))
        display.progress.final = cells
        display.progress.begin("training", cells, retry=retry)
        runner.run(cells, retry=retry)
    return outcome(study, store)


def outline(study: Study) -> str:
    """The size of a study: ``digits: 3 arms x 2 splits x 5 seeds = 30 cells``."""
    parts = {
        "arm": len(study.arms),
        "data set": len(study.data),
        "network": len(study.models),
        "split": len(study.splits),
        "seed": len(study.seeds),
    }
    words = [f"{n} {name}{'s' * (n > 1)}" for name, n in parts.items() if n > 1 or name == "arm"]
    text = f"{study.name}: {' x '.join(words)} = {math.prod(parts.values())} cells"
    if study.tune is None:
        return text
    slots = [slot for slot in study.slots() if study.arm(slot.arm).space]
    trials = sum(trial_count(study.tune, study.arm(slot.arm).space) for slot in slots)
    each = len(study.tune.splits or study.splits) * len(study.tune.seeds)
    return f"{text}, after at most {trials * each} for tuning"


def read_study(folder: str | Path) -> Outcome:
    """What is in a study's folder, without running anything.

    Raises:
        RunError: it is no study's folder, or another format version wrote it.
    """
    store = Store(Path(folder))
    return outcome(parse_study(store.document()), store)


def outcome(study: Study, store: Store) -> Outcome:
    """Rows, tuning and failures from the files in ``store``."""
    trials: list[Cell] = []
    tunings = tune(study, store, trials.extend)  # runs nothing: it only asks for trials
    values = chosen_values(study, tunings)
    rows = [
        row
        for slot in study.slots()
        for row in (
            store.rows(study.cells(slot, values[slot]))
            if slot in values
            else [
                Row(*slot, split, seed, "", "waiting", None, "the tuning of this arm is not done")
                for split in study.splits
                for seed in study.seeds
            ]
        )
    ]
    ended = ("finished", "diverged")
    failures = [row for row in [*store.rows(trials), *rows] if row.status not in ended]
    failures.sort(
        key=lambda row: ("crashed", "interrupted", "diverged", "waiting").index(row.status)
    )
    return Outcome(study, store.folder, tuple(rows), tuple(tunings), tuple(failures))


def chosen_values(study: Study, tunings: Sequence[Tuning]) -> dict[Slot, dict[str, Any]]:
    """The tuned values of every slot; a slot whose tuning is not done is left out."""
    chosen = {tuning.slot: tuning.values for tuning in tunings}
    values: dict[Slot, dict[str, Any]] = {}
    for slot in study.slots():
        tuner = study.tuner(slot)
        if not study.arm(tuner.arm).space:
            values[slot] = {}
        elif tuner in chosen:
            values[slot] = chosen[tuner]
    return values


def worker_devices(device: str, jobs: int | None, threads: int) -> list[str]:
    """The device of each worker.

    Raises:
        InputError: ``jobs`` or ``threads`` is below 1, or there is no such device.
    """
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{name} = {value} must be >= 1")
    gpus = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cpu":
        return ["cpu"] * (jobs or max(1, _cores() // threads))
    kind, _, index = device.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise InputError(f"device = {device!r} must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if int(index or 0) >= gpus:
        raise InputError(f"device = {device!r} does not exist: PyTorch sees {gpus} GPUs; use 'cpu'")
    if index:
        return [device] * (jobs or 1)
    return [f"cuda:{worker % gpus}" for worker in range(jobs or gpus)]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, as batch systems send it, is treated like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
