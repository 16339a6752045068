"""Which settings tuning tries: a grid, or Optuna's samplers, in waves that can run together."""

import itertools
from collections.abc import Generator, Sequence
from typing import Any

from convprior._optional import require
from convprior.lab.study.design import Space, Tune

Values = dict[str, Any]
Proposals = Generator[list[Values], Sequence[float], None]
"""Yields a wave of settings and is sent their accuracies, until all trials are spent."""

_TPE_STARTUP = 10  # TPE's first trials are random (Optuna's default), so they make one wave


def propose(tune: Tune, space: Space) -> Proposals:
    """The settings of one arm's trials; the same again for equal arguments and accuracies."""
    return _grid(space) if tune.sampler == "grid" else _sampled(tune, space)


def _grid(space: Space) -> Proposals:
    values = itertools.product(*(choice.grid() for choice in space.values()))
    yield [dict(zip(space, combination, strict=True)) for combination in values]


def _sampled(tune: Tune, space: Space) -> Proposals:
    optuna = require("optuna", "lab")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if tune.sampler == "random":
        sampler, waves = optuna.samplers.RandomSampler(seed=tune.seed), [tune.trials or 0]
    else:
        sampler = optuna.samplers.TPESampler(seed=tune.seed, n_startup_trials=_TPE_STARTUP)
        first = min(_TPE_STARTUP, tune.trials or 0)
        waves = [first, *[1] * ((tune.trials or 0) - first)]
    search = optuna.create_study(direction="maximize", sampler=sampler)
    for count in waves:
        trials = [search.ask() for _ in range(count)]
        wave = [{key: _suggest(trial, key, space) for key in space} for trial in trials]
        for trial, accuracy in zip(trials, (yield wave), strict=True):
            search.tell(trial, accuracy)


def _suggest(trial: Any, key: str, space: Space) -> Any:
    choice = space[key]
    if choice.values is not None:
        return trial.suggest_categorical(key, list(choice.values))
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return trial.suggest_int(key, choice.low, choice.high, log=choice.log)
    return trial.suggest_float(key, choice.low, choice.high, log=choice.log)
