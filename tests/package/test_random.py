"""Counter-based randomness: a pure function, and random."""

import torch
from scipy.stats import kstest

from convprior._random import mix, random_bytes, uniform


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


def test_bytes_are_even_and_do_not_depend_on_the_batch() -> None:
    index = torch.arange(2_000)
    whole = random_bytes(7, index, 64)
    assert torch.equal(random_bytes(7, index[50:60], 64), whole[50:60])
    counts = whole.flatten().bincount(minlength=256)
    # 256 counts of 500, each with a standard deviation of about 22.
    assert (counts - 500).abs().max() < 5 * 22.4
    assert len(whole.unique(dim=0)) == len(whole)
