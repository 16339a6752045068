"""The examples in the docstrings run."""

import doctest

import pytest
import torch

from convprior.filters import laws, locoreg, prior, tap_algebra


@pytest.mark.parametrize(
    "module", [laws, locoreg, prior, tap_algebra], ids=lambda module: module.__name__
)
def test_examples(module):
    names = {**vars(module), "torch": torch}
    result = doctest.testmod(module, globs=names, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
