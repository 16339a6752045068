"""Counter-based randomness: a pure function, and random."""

import torch
from scipy.stats import kstest

from convprior._random import mix, uniform


def test_mix_separates_counters() -> None:
    seeds = {mix(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert mix(1, 2) != mix(2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(-1) == mix(2**64 - 1)


def test_draws_do_not_depend_on_the_batch() -> None:
    index = torch.arange(1000)
    whole = uniform(7, index, 5)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(7, index[order], 5), whole[order])
    assert torch.equal(uniform(7, index[37:38], 5), whole[37:38])


def test_draws_are_uniform_and_uncorrelated() -> None:
    n = 40_000
    draws = uniform(mix(3, 1), torch.arange(n), 3).double()
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-4
    # Neighbours in index, in draw and in seed: |correlation| < 4.5 standard errors.
    other = uniform(mix(3, 2), torch.arange(n), 3).double()
    pairs = [(draws[:-1], draws[1:]), (draws[:, :-1], draws[:, 1:]), (draws, other)]
    for left, right in pairs:
        both = torch.stack([left.flatten(), right.flatten()])
        assert torch.corrcoef(both)[0, 1].abs() < 4.5 / both.shape[1] ** 0.5
