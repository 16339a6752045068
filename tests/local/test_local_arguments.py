"""Arguments of local layers that are no ints: NumPy's are as good, others are named."""

import re

import numpy as np
import pytest
import torch

from convprior.errors import InputError
from convprior.local import (
    LocalConv1d,
    LocalConv2d,
    LowRankLocalConv1d,
    LowRankLocalConv2d,
    local_conv2d,
)

LAYERS = [LowRankLocalConv2d, LocalConv2d, LowRankLocalConv1d, LocalConv1d]
EIGHT = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "input_size": 8}
OTHERS = {"stride": 1, "padding": 1, "dilation": 2, "groups": 2, "rank": 2}


def arguments(kind, **changed):
    own = EIGHT | OTHERS | changed
    if kind in (LocalConv2d, LocalConv1d):
        own.pop("rank")
    return own


@pytest.mark.parametrize("kind", LAYERS)
def test_ints_of_numpy_are_ints(kind):
    ints = arguments(kind)
    layer = kind(**{name: np.int64(value) for name, value in ints.items()})
    same = kind(**ints)
    assert repr(layer) == repr(same)
    assert layer.geometry == same.geometry
    assert type(layer.in_channels) is type(layer.out_channels) is type(layer.groups) is int
    assert {n: p.shape for n, p in layer.named_parameters()} == {
        n: p.shape for n, p in same.named_parameters()
    }
    layer.resize_positions(np.int64(10))
    size = (10,) * (len(layer.weight.shape) - 2 if "rank" in ints else len(layer.kernel_size))
    assert layer(torch.randn(1, 4, *size)).shape[:2] == (1, 6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", [*EIGHT, *OTHERS])
@pytest.mark.parametrize("value", [None, "3", 2.5, 3.0, True, -1, (), (2, 2, 2), [2.0, 2.0]])
def test_what_is_no_int_is_named(kind, name, value):
    if name not in arguments(kind):
        return
    if name == "padding" and value == "3":
        message = "padding is '3'; give 'same', 'valid', an int or a pair"
    else:
        least = 0 if name == "padding" else 1
        message = f"{name} is {value!r}; give an int >= {least}"
    with pytest.raises(InputError, match=re.escape(message)):
        kind(**arguments(kind, **{name: value}))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("value", [None, 8.0, 0, True])
def test_so_is_a_new_size(kind, value):
    layer = kind(**arguments(kind))
    with pytest.raises(InputError, match=f"input_size is {value!r}; give an int >= 1"):
        layer.resize_positions(value)


def test_functions_read_arguments_as_layers_do():
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 3, 4, 2, 3, 3)
    found = local_conv2d(x, weight, stride=np.int64(1), groups=np.int64(1))
    assert torch.equal(found, local_conv2d(x, weight))
    with pytest.raises(InputError, match="groups is None; give an int >= 1"):
        local_conv2d(x, weight, groups=None)
