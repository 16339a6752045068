"""The examples in the docstrings run."""

import doctest
import importlib

import pytest
import torch

from convprior import losses


@pytest.mark.parametrize("name", ["bias", "rivals", "variance", "weights"])
def test_examples(name):
    module = importlib.import_module(f"convprior.losses.{name}")
    public = {key: getattr(losses, key) for key in losses.__all__}
    result = doctest.testmod(module, globs={**vars(module), **public, "torch": torch})
    assert result.failed == 0
    assert result.attempted > 0
