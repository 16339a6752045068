"""LowRankLocalConv2d: its first state, other input sizes, refusals."""

import math

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.local import LowRankLocalConv2d

FIXED = ["separable", "map", "rows", "columns"]
MODES = [*FIXED, "input"]


def arguments(**changed):
    return {"in_channels": 4, "out_channels": 6, "kernel_size": 3, **changed}


def randomized(layer, seed=0):
    """The layer with all parameters drawn from N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def layer_of(rank=3, weights="separable", size=(6, 7), dtype=torch.float64, **conv):
    layer = LowRankLocalConv2d(
        **arguments(**conv), input_size=size, rank=rank, weights=weights, dtype=dtype
    )
    return randomized(layer)


def images(n=2, channels=4, size=(6, 7)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, channels, *size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("init", ["variance", "authors"])
@pytest.mark.parametrize("weights", FIXED)
@pytest.mark.parametrize("normalize", ["softmax", "l2", None])
def test_a_fresh_layer_is_a_convolution(weights, normalize, init):
    layer = LowRankLocalConv2d(
        *(4, 6, 3),
        input_size=(6, 7),
        rank=4,
        weights=weights,
        normalize=normalize,
        init=init,
        dtype=torch.float64,
    )
    share = 0.25 if normalize == "softmax" else 0.5
    x = images()
    expected = nn.functional.conv2d(x, share * layer.bases.sum(0))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalize", ["softmax", "l2", None])
def test_a_fresh_input_layer_is_a_convolution_and_can_leave_it(normalize):
    layer = LowRankLocalConv2d(
        *(4, 6, 3),
        input_size=(6, 7),
        rank=4,
        weights="input",
        normalize=normalize,
        dtype=torch.float64,
    )
    share = 0.25 if normalize == "softmax" else 0.5
    x = images()
    expected = nn.functional.conv2d(x, share * layer.bases.sum(0))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for n, p in layer.named_parameters() if "gate" in n)
    assert layer.combining_weights(x).std((2, 3)).max() > 0


def test_the_authors_input_layer_differs_from_place_to_place_at_once():
    torch.manual_seed(0)
    layer = LowRankLocalConv2d(4, 6, 3, input_size=8, rank=4, weights="input", init="authors")
    assert layer.combining_weights(images(size=(8, 8)).float()).std((2, 3)).max() > 1e-4


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
@pytest.mark.parametrize("normalize", ["softmax", "l2", None])
@pytest.mark.parametrize("init", ["variance", "authors"])
def test_first_variance_of_the_effective_kernel(rank, normalize, init):
    torch.manual_seed(rank)
    layer = LowRankLocalConv2d(
        16, 64, 3, input_size=6, rank=rank, weights="map", normalize=normalize, init=init
    )
    kernel = layer.combined_kernels()[0, 0].detach().double()
    expected = 2.0 / (16 * 9)
    if init == "authors" and normalize == "softmax":
        expected /= rank
    # Of a normal number the square has the variance 2 sigma^4; of a sum of uniform ones, less.
    standard_error = expected * math.sqrt(2.0 / kernel.numel())
    assert abs(float(kernel.square().mean()) - expected) < 4.0 * standard_error
    assert abs(float(kernel.mean())) < 4.0 * math.sqrt(expected / kernel.numel())


def test_first_tables_are_the_authors():
    for weights, value in (("separable", 0.25), ("map", 0.5), ("rows", 0.5), ("columns", 0.5)):
        layer = LowRankLocalConv2d(2, 2, 3, input_size=6, rank=4, weights=weights)
        for name, table in layer.named_parameters():
            if name.endswith("_logits"):
                assert torch.equal(table, torch.full_like(table, value))
            if name.endswith("bias"):
                assert torch.equal(table, torch.zeros_like(table))


@pytest.mark.parametrize("weights", MODES)
def test_other_input_sizes_are_refused_or_interpolated(weights):
    layer = layer_of(weights=weights, padding="same")
    x = images(size=(11, 13))
    with pytest.raises(InputError, match=r"\(11, 13\).*\(6, 7\).*resize_positions\(\(11, 13\)\)"):
        layer(x)
    before = {
        name: (parameter, parameter.detach().clone())
        for name, parameter in layer.named_parameters()
    }
    layer.resize_positions((11, 13))
    assert layer.input_size == (11, 13)
    assert layer(x).shape == (2, 6, 11, 13)
    corners = [[0, 0, -1, -1], [0, -1, 0, -1]]
    for name, parameter in layer.named_parameters():
        same, old = before[name]
        assert parameter is same
        if name.startswith("map_"):
            ends = (..., *corners)
        elif name.startswith(("row_", "column_")):
            ends = (..., [0, -1])
        else:
            assert torch.equal(parameter, old)
            continue
        torch.testing.assert_close(parameter[ends], old[ends])
        assert parameter.min() >= old.min()
        assert parameter.max() <= old.max()


def test_interpolation_is_linear_and_keeps_linear_tables():
    layer = LowRankLocalConv2d(1, 1, 1, input_size=(5, 3), rank=2, weights="map")
    i, j = torch.meshgrid(torch.linspace(0, 1, 5), torch.linspace(0, 1, 3), indexing="ij")
    with torch.no_grad():
        layer.map_logits.copy_(torch.stack([i + 2 * j, 3 * i]))
        layer.map_bias.copy_(i - j)
    layer.map_bias.grad = torch.ones_like(layer.map_bias)
    layer.resize_positions((9, 4))
    i, j = torch.meshgrid(torch.linspace(0, 1, 9), torch.linspace(0, 1, 4), indexing="ij")
    torch.testing.assert_close(layer.map_logits, torch.stack([i + 2 * j, 3 * i]))
    torch.testing.assert_close(layer.map_bias, i - j)
    assert layer.map_bias.grad is None
    with pytest.warns(UserWarning, match="there are 1 positions"):
        layer.resize_positions(1)
    torch.testing.assert_close(layer.map_logits.flatten(), torch.zeros(2))


def test_a_gate_keeps_its_neighborhoods():
    layer = layer_of(weights="input", size=(9, 9))
    assert layer.gate.dilations == (1, 2, 4)
    layer.resize_positions(20)
    assert layer(images(size=(20, 20))).shape == (2, 6, 18, 18)
    with pytest.raises(InputError, match="neighborhoods of 9"):
        layer.resize_positions((8, 20))
    assert layer.input_size == (20, 20)


def test_more_bases_than_positions_are_allowed_with_a_warning():
    with pytest.warns(UserWarning, match="rank is 5 and there are 4 positions") as caught:
        LowRankLocalConv2d(1, 1, 3, input_size=4, rank=5)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="there are 3 positions"):
        LowRankLocalConv2d(1, 1, 3, input_size=(5, 9), rank=4, weights="rows")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.0}, "rank is 2.0"),
        ({"weights": "full"}, "weights is 'full'"),
        ({"normalize": "sum"}, "normalize is 'sum'"),
        ({"init": "he"}, "init is 'he'"),
        ({"groups": 3}, "in_channels is 4 and groups is 3"),
        ({"groups": 4}, "out_channels is 6 and groups is 4"),
        ({"padding_mode": "mirror"}, "padding_mode is 'mirror'"),
        ({"padding": "full"}, "padding is 'full'"),
        ({"padding": "same", "stride": 2}, "'same' needs stride 1"),
        ({"kernel_size": 9}, "does not fit"),
        ({"stride": 0}, "stride is 0"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size is \(3, 3, 3\)"),
        ({"input_size": (8,)}, "input_size"),
    ],
)
def test_wrong_arguments_are_refused(changed, message):
    made = {**arguments(), "input_size": 8, "rank": 2, **changed}
    with pytest.raises(InputError, match=message):
        LowRankLocalConv2d(**made)


def test_wrong_inputs_are_refused():
    layer = layer_of()
    with pytest.raises(InputError, match=r"\(2, 3, 6, 7\); this layer takes \(N, 4, 6, 7\)"):
        layer(torch.zeros(2, 3, 6, 7))
    with pytest.raises(InputError, match="takes"):
        layer(torch.zeros(6, 7))
    with pytest.raises(InputError, match=r"torch\.float32 and the kernels are torch\.float64"):
        layer(torch.zeros(2, 4, 6, 7))
    gated = layer_of(weights="input")
    with pytest.raises(InputError, match=r"combining_weights\(x\)"):
        gated.combining_weights()
    for method in (gated.combined_kernels, gated.to_local):
        with pytest.raises(InputError, match="every sample"):
            method()
    for size in (0, (3,), (3, 4, 5), 2.0):
        with pytest.raises((InputError, TypeError)):
            layer.resize_positions(size)
