"""The examples in the docstrings run."""

import doctest

import pytest
import torch
from torch import nn

from convprior.filters import (
    cohesion,
    laws,
    lengthscale,
    locoreg,
    predict,
    prior,
    spatial,
    tap_algebra,
)


@pytest.mark.parametrize(
    "module",
    [cohesion, laws, lengthscale, locoreg, predict, prior, spatial, tap_algebra],
    ids=lambda module: module.__name__,
)
def test_examples(module):
    names = {**vars(module), "torch": torch, "nn": nn}
    result = doctest.testmod(module, globs=names, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
