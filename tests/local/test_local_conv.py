"""LocalConv2d: loops, its first state, other sizes, refusals."""

import math

import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.local import LocalConv2d
from convprior.local.reference import reference_local_conv2d

CONVOLUTIONS = {
    "padded": {"padding": 1},
    "strided": {"stride": (2, 1), "padding": 1},
    "same and even": {"kernel_size": 2, "padding": "same"},
    "dilated": {"dilation": 2},
    "grouped": {"groups": 2, "bias": False},
    "depthwise": {"groups": 4, "out_channels": 8},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
}


def layer_of(dtype=torch.float64, **changed):
    made = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "input_size": (6, 5), **changed}
    layer = LocalConv2d(**made, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def images(dtype=torch.float64):
    return torch.randn(2, 4, 6, 5, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_every_convolution_equals_the_loops(kind):
    layer, x = layer_of(**CONVOLUTIONS[kind]), images()
    expected = reference_local_conv2d(
        x, layer.weight, layer.bias, layer.geometry, layer.padding_mode
    )
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x[0]), layer(x)[0])
    assert layer(x[:0]).shape == (0, *expected.shape[1:])


# What torch says of its own padding of even kernels.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_with_one_kernel_everywhere_it_is_a_convolution(kind):
    layer, x = layer_of(**CONVOLUTIONS[kind]), images()
    kernel = torch.randn_like(layer.weight[0, 0])
    with torch.no_grad():
        layer.weight.copy_(kernel)
    made = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, **CONVOLUTIONS[kind]}
    conv = nn.Conv2d(**{**made, "bias": False, "dtype": torch.float64})
    conv.weight.data = kernel
    bias = 0.0 if layer.bias is None else layer.bias
    torch.testing.assert_close(layer(x), conv(x) + bias)


def test_gradients_are_those_of_finite_differences():
    layer = layer_of(
        in_channels=2, out_channels=2, kernel_size=2, input_size=(3, 4), padding="same"
    )
    x = images()[:1, :2, :3, :4].clone().requires_grad_()

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values), fast_mode=True)


@pytest.mark.parametrize(("init", "factor"), [("fan_in", 1), ("keras", 36)])
def test_first_variance(init, factor):
    torch.manual_seed(0)
    layer = LocalConv2d(8, 16, 3, input_size=8, init=init)
    expected = 2.0 / (8 * 9 * factor)
    weight = layer.weight.detach().double()
    error = expected * math.sqrt(2.0 / weight.numel())
    assert abs(float(weight.square().mean()) - expected) < 4.0 * error
    assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    if init == "keras":
        bound = math.sqrt(6.0 / (8 * 9 * 36))
        assert float(weight.abs().max()) <= bound
        assert float(weight.abs().max()) > 0.99 * bound


def test_other_input_sizes_are_refused_or_interpolated():
    layer = layer_of(padding=1)
    x = torch.zeros(2, 4, 9, 9, dtype=torch.float64)
    with pytest.raises(InputError, match=r"\(9, 9\).*\(6, 5\).*resize_positions\(\(9, 9\)\)"):
        layer(x)
    weight, before = layer.weight, layer.weight.detach().clone()
    layer.resize_positions(9)
    assert layer.weight is weight
    assert layer(x).shape == (2, 6, 9, 9)
    torch.testing.assert_close(weight[-1, 0], before[-1, 0])
    torch.testing.assert_close(weight[4, -1], before[2:4, -1].mean(0))


def test_repr_says_what_is_not_as_usual():
    layer = layer_of(stride=2, padding=1, dilation=2, groups=2, bias=False, padding_mode="circular")
    assert repr(layer) == (
        "LocalConv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2), "
        "groups=2, bias=False, padding_mode=circular, input_size=(6, 5))"
    )
    assert repr(layer_of()) == (
        "LocalConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), input_size=(6, 5))"
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"init": "he"}, "init is 'he'"),
        ({"groups": 3}, "groups is 3"),
        ({"out_channels": 0}, "out_channels is 0"),
        ({"padding_mode": "mirror"}, "padding_mode is 'mirror'"),
        ({"input_size": 2}, "does not fit"),
    ],
)
def test_wrong_arguments_are_refused(changed, message):
    with pytest.raises(InputError, match=message):
        layer_of(**changed)


def test_wrong_inputs_are_refused():
    layer = layer_of()
    with pytest.raises(InputError, match=r"this layer takes \(N, 4, 6, 5\)"):
        layer(torch.zeros(2, 3, 6, 5))
    with pytest.raises(InputError, match="convert one of them"):
        layer(torch.zeros(2, 4, 6, 5))
