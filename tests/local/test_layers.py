"""LowRankLocalConv2d: against loops, and its exact limits."""

import math

import pytest
import torch
from torch import nn

from convprior.local import LocalConv2d, LowRankLocalConv2d
from convprior.local.reference import (
    reference_gate,
    reference_kernels,
    reference_local_conv2d,
    reference_weights,
)

FIXED = ["separable", "map", "rows", "columns"]
MODES = [*FIXED, "input"]

CONVOLUTIONS = {
    "padded": {"padding": 1},
    "strided": {"stride": 2, "padding": (1, 0)},
    "same and even": {"kernel_size": (4, 2), "padding": "same"},
    "dilated": {"dilation": (1, 2), "padding": "same"},
    "grouped": {"groups": 2},
    "depthwise": {"groups": 4, "out_channels": 8, "bias": False},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "circular": {"padding": "same", "padding_mode": "circular", "kernel_size": 5},
    "pointwise": {"kernel_size": 1, "padding": "valid", "stride": (2, 1)},
}


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


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("weights", FIXED)
def test_every_fixed_mode_of_every_convolution_equals_the_loops(kind, weights):
    layer, x = layer_of(weights=weights, **CONVOLUTIONS[kind]), images()
    tables = {
        name.removesuffix("_logits"): tensor
        for name, tensor in layer.named_parameters()
        if name.endswith("_logits")
    }
    rows, columns = layer.geometry.output_size
    mixture = reference_weights(tables, (rows, columns), "softmax")
    kernels = reference_kernels(layer.bases, mixture)
    bias = torch.zeros(layer.out_channels, rows, columns, dtype=torch.float64)
    if layer.bias is not None:
        bias += layer.bias[:, None, None]
    if weights in ("separable", "rows"):
        bias += layer.row_bias[:, None]
    if weights in ("separable", "columns"):
        bias += layer.column_bias
    if weights == "map":
        bias += layer.map_bias
    expected = reference_local_conv2d(x, kernels, bias, layer.geometry, layer.padding_mode)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.combining_weights(), mixture)
    torch.testing.assert_close(layer.combined_kernels(), kernels)


@pytest.mark.parametrize("kind", ["strided", "same and even", "grouped"])
@pytest.mark.parametrize("normalize", ["softmax", None])
def test_input_weights_of_a_convolution_equal_the_loops(kind, normalize):
    layer, x = layer_of(weights="input", **CONVOLUTIONS[kind]), images()
    layer.normalize = normalize
    size = layer.geometry.output_size
    mixture = reference_gate(x, dict(layer.gate.named_parameters()), size, normalize)
    bias = layer.bias[:, None, None] + layer.map_bias
    kernels = reference_kernels(layer.bases, mixture)
    expected = reference_local_conv2d(x, kernels, bias, layer.geometry, layer.padding_mode)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.combining_weights(x), mixture)


# What torch says of its own padding of even kernels.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_rank_one_without_spatial_bias_is_a_convolution(kind):
    made = arguments(**CONVOLUTIONS[kind])
    layer = LowRankLocalConv2d(
        **made, input_size=(6, 7), rank=1, spatial_bias=False, dtype=torch.float64
    )
    conv = nn.Conv2d(**made, dtype=torch.float64)
    state = conv.state_dict()
    missing = layer.load_state_dict(state, strict=False).missing_keys
    assert sorted(missing) == ["column_logits", "row_logits"]
    x = images().requires_grad_()
    y, expected = layer(x), conv(x)
    torch.testing.assert_close(y, expected, rtol=1e-14, atol=1e-14)
    weights = torch.randn_like(y)
    ours = torch.autograd.grad(
        (y * weights).sum(), [x, *layer.parameters()], materialize_grads=True
    )
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *conv.parameters()])
    tables = [p for n, p in layer.named_parameters() if n.endswith("logits")]
    gradients = dict(zip(["x", *dict(layer.named_parameters())], ours, strict=True))
    torch.testing.assert_close(gradients["x"], theirs[0])
    torch.testing.assert_close(gradients["weight"], theirs[1])
    assert len(tables) == 2
    for name in ("row_logits", "column_logits"):
        assert torch.equal(gradients[name], torch.zeros_like(gradients[name]))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("weights", FIXED)
def test_to_local_is_equal(kind, weights):
    layer, x = layer_of(weights=weights, **CONVOLUTIONS[kind]).eval(), images()
    local = layer.to_local()
    assert isinstance(local, LocalConv2d)
    assert not local.training
    assert local.padding == layer.padding
    torch.testing.assert_close(local(x), layer(x), rtol=1e-12, atol=1e-12)
    before = local(x)
    nn.init.zeros_(layer.weight)
    assert torch.equal(local(x), before)


def test_to_local_leaves_random_numbers_alone_and_has_no_bias_without_one():
    layer = LowRankLocalConv2d(2, 2, 3, bias=False, input_size=5, rank=2, spatial_bias=False)
    state = torch.get_rng_state()
    local = layer.to_local()
    assert torch.equal(torch.get_rng_state(), state)
    assert local.bias is None


def test_a_basis_for_each_position_can_be_any_local_layer():
    torch.manual_seed(0)
    local = randomized(LocalConv2d(2, 3, 3, input_size=(5, 6), dtype=torch.float64))
    rows, columns = local.geometry.output_size
    layer = LowRankLocalConv2d(
        *(2, 3, 3),
        bias=False,
        input_size=(5, 6),
        rank=rows * columns,
        weights="map",
        spatial_bias=False,
        dtype=torch.float64,
    )
    with torch.no_grad():
        layer.bases.copy_(local.weight.flatten(0, 1))
        one_hot = torch.eye(rows * columns, dtype=torch.float64).view(-1, rows, columns)
        layer.map_logits.copy_(torch.where(one_hot > 0, 0.0, -math.inf))
        local.bias.zero_()
    x = images(channels=2, size=(5, 6))
    torch.testing.assert_close(layer(x), local(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(layer.combined_kernels(), local.weight)


def test_two_tables_reach_any_local_layer_up_to_an_exponentially_small_error():
    rows, columns, rank = 3, 4, 12
    layer = layer_of(rank=rank, size=(5, 6))
    errors = []
    for scale in (4.0, 8.0):
        with torch.no_grad():
            layer.row_logits.copy_(
                scale * torch.eye(rows, dtype=torch.float64).repeat_interleave(columns, 0)
            )
            layer.column_logits.copy_(
                scale * torch.eye(columns, dtype=torch.float64).repeat(rows, 1)
            )
        own = layer.combining_weights().detach().reshape(rank, rank).diagonal()
        errors.append(float((1.0 - own).max()) / ((rows + columns - 2) * math.exp(-scale)))
    # 1 - w is (H' + W' - 2) e^-M to first order; the next is e^-2M.
    assert errors[0] == pytest.approx(1.0, abs=0.1)
    assert errors[1] == pytest.approx(1.0, abs=0.002)


@pytest.mark.parametrize("weights", FIXED)
def test_a_constant_over_the_bases_changes_nothing_under_a_softmax(weights):
    layer, x = layer_of(weights=weights), images()
    before = layer(x)
    with torch.no_grad():
        for name, table in layer.named_parameters():
            if name.endswith("_logits"):
                table += torch.randn(table.shape[1:], dtype=torch.float64)
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weights", FIXED)
def test_kernels_stay_in_the_hull_of_the_bases(weights):
    layer = layer_of(weights=weights)
    mixture = layer.combining_weights().detach()
    assert float(mixture.min()) > 0
    torch.testing.assert_close(mixture.sum(0), torch.ones(4, 5, dtype=torch.float64))
    kernels = layer.combined_kernels()
    assert (kernels <= layer.bases.amax(0) + 1e-12).all()
    assert (kernels >= layer.bases.amin(0) - 1e-12).all()


def test_shifted_inputs_give_shifted_outputs_only_with_constant_weights():
    layer, x = layer_of(), images(size=(8, 12))
    layer = LowRankLocalConv2d(4, 6, 3, input_size=(8, 12), rank=3, dtype=torch.float64)
    moved = x.roll(2, -1)
    torch.testing.assert_close(layer(moved)[..., 2:], layer(x)[..., :-2])
    nn.init.normal_(layer.column_logits)
    assert (layer(moved)[..., 2:] - layer(x)[..., :-2]).abs().max() > 0.01


@pytest.mark.parametrize("weights", MODES)
def test_gradients_are_those_of_finite_differences(weights):
    layer = layer_of(
        weights=weights, rank=2, size=(3, 4), in_channels=2, out_channels=2, kernel_size=2
    )
    names = list(dict(layer.named_parameters()))
    x = images(1, 2, (3, 4)).requires_grad_()
    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]

    def function(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values), fast_mode=True)


@pytest.mark.parametrize("weights", MODES)
def test_a_single_image_is_a_batch_of_one(weights):
    layer, x = layer_of(weights=weights), images()
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
    if weights == "input":
        torch.testing.assert_close(layer.combining_weights(x[0]), layer.combining_weights(x)[0])


@pytest.mark.parametrize("weights", MODES)
def test_an_empty_batch_gives_an_empty_batch(weights):
    layer = layer_of(weights=weights)
    assert layer(images()[:0]).shape == (0, 6, 4, 5)
