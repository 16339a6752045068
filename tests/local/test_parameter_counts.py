"""The numbers of parameters of the paper's networks: three 3x3 layers of 64, one of them local."""

import math

import pytest
import torch
from torch import nn

from convprior.local import LocalConv2d, LowRankLocalConv2d
from convprior.local.layers.gate import InputGate

SIZES = (32, 30, 28)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def network(make_layer, where, widths=(64, 64, 64)):
    """Layer, batch norm, ReLU, three times; mean, linear. ``make_layer`` makes layer ``where``."""
    channels, blocks = 3, []
    for index, width in enumerate(widths, start=1):
        local = index == where
        make = (
            make_layer
            if local
            else (lambda c, f, size: nn.Conv2d(c, f, 3, bias=False, device="meta"))
        )
        layer = make(channels, width, SIZES[index - 1])
        blocks += [layer, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def low_rank(rank):
    return lambda c, f, size: LowRankLocalConv2d(
        c, f, 3, bias=False, input_size=size, rank=rank, device="meta"
    )


def widths(rank, where):
    result = [64, 64, 64]
    channels = (3, 64, 64)[where - 1]
    share = rank if where == 3 else (rank * channels + 64) / (channels + 64)
    result[where - 1] = int(share * 64)
    return result


@pytest.mark.parametrize(
    ("where", "low_rank_counts", "wide_counts"),
    [
        (
            1,
            (76610, 78398, 80186, 81974, 83762, 85550, 87338),
            (76490, 77700, 79515, 81330, 83145, 84960, 86775),
        ),
        (
            2,
            (76602, 113522, 150442, 187362, 224282, 261202, 298122),
            (76490, 113418, 150346, 187274, 224202, 261130, 298058),
        ),
        (
            3,
            (76594, 113510, 150426, 187342, 224258, 261174, 298090),
            (76490, 114122, 151754, 189386, 227018, 264650, 302282),
        ),
    ],
)
def test_low_rank_and_wide_networks(where, low_rank_counts, wide_counts):
    assert tuple(count(network(low_rank(k), where)) for k in range(1, 8)) == low_rank_counts
    wide = tuple(count(network(None, 0, widths(k, where))) for k in range(1, 8))
    assert wide == wide_counts


@pytest.mark.parametrize(("where", "expected"), [(1, 1687562), (2, 28991178), (3, 25002954)])
def test_locally_connected_networks(where, expected):
    def local(c, f, size):
        return LocalConv2d(c, f, 3, input_size=size, device="meta")

    assert count(network(local, where)) == expected
    assert count(network(None, 0)) == 76490


@pytest.mark.parametrize("weights", ["separable", "map", "rows", "columns"])
def test_one_layer(weights):
    layer = LowRankLocalConv2d(3, 5, 3, input_size=(9, 12), rank=4, weights=weights)
    tables = {"separable": 7 + 10, "map": 7 * 10, "rows": 7, "columns": 10}[weights]
    assert count(layer) == 9 * 3 * 5 * 4 + 5 + 4 * tables + tables


def test_one_layer_with_input_weights():
    layer = LowRankLocalConv2d(3, 5, 3, input_size=(19, 17), rank=2, weights="input")
    assert layer.gate.dilations == (1, 2, 4, 8)
    gate = (2 * 3 + 2) + 4 * (2 * 9 + 2) + (6 * 12 + 6) + (12 * 6 + 12) + (2 * 12 + 2)
    assert count(layer) == 9 * 3 * 5 * 2 + 5 + gate + 17 * 15


@pytest.mark.parametrize(("rank", "expected"), [(1, 157), (2, 398), (4, 1132), (8, 3608)])
def test_gates(rank, expected):
    assert count(InputGate(64, rank, (32, 32))) == expected


@pytest.mark.parametrize(
    ("size", "dilations"),
    [
        ((2, 9), ()),
        ((3, 9), (1,)),
        ((4, 9), (1,)),
        ((5, 5), (1, 2)),
        ((9, 8), (1, 2)),
        ((9, 9), (1, 2, 4)),
        ((16, 99), (1, 2, 4)),
        ((17, 17), (1, 2, 4, 8)),
        ((64, 64), (1, 2, 4, 8)),
    ],
)
def test_neighborhoods_that_do_not_fit_are_left_out(size, dilations):
    gate = InputGate(3, 2, size)
    assert gate.dilations == dilations
    assert gate.dilations == tuple(d for d in (1, 2, 4, 8) if d <= int((min(size) - 1) / 2))
    assert gate.merge_weight.shape == (6, (2 + len(dilations)) * 2, 1, 1)
    assert gate(torch.zeros(1, 3, *size), size).shape == (1, 2, *size)
    assert math.isfinite(float(gate.merge_weight.detach().sum()))
