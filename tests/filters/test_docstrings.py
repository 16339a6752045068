"""The examples in the docstrings run."""

import doctest

import pytest
import torch
from torch import nn

from convprior.filters import laws
from convprior.filters.cohesion import cohesion, lengthscale, predict, spatial
from convprior.filters.locoreg import locoreg
from convprior.filters.prior import algebra, filter_prior


@pytest.mark.parametrize(
    "module",
    [algebra, cohesion, filter_prior, laws, lengthscale, locoreg, predict, spatial],
    ids=lambda module: module.__name__,
)
def test_examples(module):
    names = {**vars(module), "torch": torch, "nn": nn}
    result = doctest.testmod(module, globs=names, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
