"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest
import torch

from convprior import local

# Functions hide the modules they are named after, so modules are found by their names.
FOLDERS = ("layers", "learned", "paths", "surgery")
PLACES = [local.__name__, *(f"{local.__name__}.{folder}" for folder in FOLDERS)]
MODULES = [
    f"{place}.{module.name}"
    for place in PLACES
    for module in pkgutil.iter_modules(importlib.import_module(place).__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    public = {key: getattr(local, key) for key in local.__all__}
    result = doctest.testmod(module, globs={**vars(module), **public, "torch": torch})
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [finder.find(importlib.import_module(name)) for name in MODULES]
    assert sum(bool(test.examples) for tests in found for test in tests) > 5
