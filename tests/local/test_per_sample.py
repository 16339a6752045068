"""Combining weights of every sample's own on the compiled path, against float64."""

from itertools import product

import pytest
import torch
from torch import Tensor

from convprior.local import LowRankLocalConv2d, engine, plain, use_path
from convprior.local.geometry import Geometry
from convprior.local.paths import choose, mix
from convprior.local.reference import reference_kernels, reference_local_conv2d

GEOMETRIES = {
    "padded": Geometry.of_conv((9, 8), 3, padding=1),
    "strided": Geometry.of_conv((9, 7), 3, stride=2, padding=1),
    "spread": Geometry.of_conv((7, 10), (3, 2), (1, 3), padding=2, dilation=2),
    "even": Geometry.of_conv((6, 7), (2, 4), padding="same"),
    "bare": Geometry.of_conv((5, 6), (1, 3)),
    "padding beyond the kernel": Geometry.of_conv((2, 2), 1, stride=2, padding=3),
    "wide": Geometry.of_conv((3, 101), 3, padding=1),
    "tall": Geometry.of_conv((90, 8), 3, padding=1),
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 6e-3}  # of the norm; bfloat16 rounds to 2 ** -9


def draw(
    geometry: Geometry, dtype: torch.dtype, images: int = 2, channels: int = 5, filters: int = 7
) -> tuple[Tensor, ...]:
    """Input, bases, weights, and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)

    def make(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    x = make(images, channels, *geometry.input_size).to(dtype)
    bases = make(3, filters, channels, *geometry.kernel_size).to(dtype)
    weights = make(images, 3, *geometry.output_size)
    return x, bases, weights, make(images, filters, *geometry.output_size).to(dtype)


def exact(
    x: Tensor, bases: Tensor, weights: Tensor, grad_y: Tensor, geometry: Geometry
) -> tuple[Tensor, ...]:
    """The output and all gradients, in float64."""
    parts = [part.detach().double().requires_grad_() for part in (x, bases, weights)]
    y = plain.mix_outputs(parts[0], parts[1], parts[2], geometry)
    return (y.detach(), *torch.autograd.grad(y, parts, grad_y.double()))


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_output_and_gradients(name: str, dtype: torch.dtype) -> None:
    geometry = GEOMETRIES[name]
    *parts, grad_y = draw(geometry, dtype)
    leaves = [part.requires_grad_() for part in parts]
    y = mix(*leaves, geometry, "compiled")
    found = (y, *torch.autograd.grad(y, leaves, grad_y))
    for tensor, wanted in zip(found, exact(*parts, grad_y, geometry), strict=True):
        assert tensor.shape == wanted.shape
        assert error(tensor, wanted) < TOLERANCE[dtype]
    assert [tensor.dtype for tensor in found] == [dtype, dtype, dtype, torch.float32]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (16, 33), (65, 4), (130, 80), (4, 140)])
def test_any_number_of_channels(channels: int, filters: int, dtype: torch.dtype) -> None:
    geometry = GEOMETRIES["strided"]
    x, bases, weights, grad_y = draw(geometry, dtype, 1, channels, filters)
    found = engine.backward(x, bases, weights, grad_y, geometry)
    y = engine.forward(x, bases, weights, geometry)
    wanted = exact(x, bases, weights, grad_y, geometry)
    for tensor, right in zip((y, *found), wanted, strict=True):
        assert error(tensor, right) < TOLERANCE[dtype]


def test_against_loops() -> None:
    geometry = Geometry.of_conv((4, 5), (3, 2), stride=(2, 1), padding=1)
    x, bases, weights, _ = draw(geometry, torch.float32)
    wanted = reference_local_conv2d(x, reference_kernels(bases, weights), None, geometry)
    assert error(engine.forward(x, bases, weights, geometry), wanted) < 2e-6


@pytest.mark.parametrize("needs", list(product([False, True], repeat=3)))
def test_only_the_gradients_that_are_needed(needs: tuple[bool, bool, bool]) -> None:
    geometry = GEOMETRIES["padded"]
    *parts, grad_y = draw(geometry, torch.float32)
    every = engine.backward(*parts, grad_y, geometry)
    some = engine.backward(*parts, grad_y, geometry, needs)
    for need, one, same in zip(needs, some, every, strict=True):
        assert (one is None) if not need else torch.equal(one, same)


def test_memory_formats_and_threads() -> None:
    """The same numbers for any strides; threads share the images."""
    geometry = GEOMETRIES["padded"]
    x, bases, weights, grad_y = draw(geometry, torch.float32, images=5)
    whole = engine.backward(x, bases, weights, grad_y, geometry)
    last = torch.channels_last
    strided = weights.mT.contiguous().mT
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = engine.backward(
            x.to(memory_format=last), bases, strided, grad_y.to(memory_format=last), geometry
        )
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(whole, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_samples_do_not_meet() -> None:
    """A batch is its samples, to the last bit; an infinite one stays alone."""
    geometry = GEOMETRIES["padded"]
    x, bases, weights, grad_y = draw(geometry, torch.float32, images=3)
    x[1] = torch.inf
    y = engine.forward(x, bases, weights, geometry)
    grad_x, _, grad_weights = engine.backward(x, bases, weights, grad_y, geometry)
    for n in (0, 2):
        one = slice(n, n + 1)
        parts = (x[one], bases, weights[one])
        assert torch.equal(engine.forward(*parts, geometry), y[one])
        alone = engine.backward(*parts, grad_y[one], geometry)
        assert torch.equal(alone[0], grad_x[one])
        assert torch.equal(alone[2], grad_weights[one])


def test_no_samples() -> None:
    geometry = GEOMETRIES["padded"]
    parts = draw(geometry, torch.float32, images=0)
    assert engine.forward(*parts[:3], geometry).shape == (0, 7, 9, 8)
    found = engine.backward(*parts, geometry)
    assert [tensor.shape for tensor in found] == [part.shape for part in parts[:3]]


def test_the_layer_takes_it() -> None:
    """In training at a common size; groups go another way, and agree."""
    geometry = Geometry.of_conv(32, 3, padding=1)
    x, bases, weights, _ = draw(geometry, torch.float32, 4, 32, 32)
    assert choose(x, bases.requires_grad_(), weights, geometry) == "compiled"
    grouped = Geometry.of_conv(32, 3, padding=1, groups=2)
    assert choose(x, bases[:, :, :16], weights, grouped) == "recompute"


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_whole_layers(dtype: torch.dtype) -> None:
    layer = LowRankLocalConv2d(6, 8, 3, padding=1, input_size=(10, 9), rank=3, weights="input")
    layer.gate.reset_parameters(uniform=False)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, 10, 9, generator=generator)
    results = []
    for path in ("plain", "compiled"):
        leaf = x.clone().requires_grad_()
        half = dtype == torch.bfloat16
        with use_path(path), torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = layer(leaf)
        gradients = torch.autograd.grad(y.float().square().sum(), [leaf, *layer.parameters()])
        results.append((y, *gradients))
    for one, other in zip(*results, strict=True):
        assert error(other, one.double()) < 4 * TOLERANCE[dtype]
