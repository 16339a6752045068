"""Every order of evaluation computes the same layer and the same gradients."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from convprior.errors import InputError
from convprior.local import plain
from convprior.local.geometry import Geometry
from convprior.local.paths import PATHS, gather, mix, products, recompute, use_path
from convprior.local.paths.dispatch import why_not

OURS = ("conv", "lines", "kernels_first", "recompute")
SHAPES = ("map", "rows", "columns", "input")
EVERY_SHAPE = (*SHAPES, "constant")


def shape_of(kind: str, images: int, rank: int, size: tuple[int, int]) -> tuple[int, ...]:
    rows, columns = size
    return {
        "map": (rank, rows, columns),
        "rows": (rank, rows, 1),
        "columns": (rank, 1, columns),
        "constant": (rank, 1, 1),
        "input": (images, rank, rows, columns),
    }[kind]


def draw(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=dtype)


def layer(
    geometry: Geometry,
    kind: str,
    *,
    images: int = 3,
    rank: int = 3,
    channels: int = 4,
    filters: int = 8,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Input, bases and weights that want gradients."""
    weights = draw(*shape_of(kind, images, rank, geometry.output_size), seed=2)
    x = draw(images, channels, *geometry.input_size)
    bases = draw(rank, filters, channels // geometry.groups, *geometry.kernel_size, seed=1)
    scale = bases[0, 0].numel() ** -0.5
    parts = (x.to(dtype), (scale * bases).to(dtype), weights.to(dtype))
    return tuple(part.requires_grad_() for part in parts)  # type: ignore[return-value]


def able(x: Tensor, bases: Tensor, weights: Tensor, geometry: Geometry) -> list[str]:
    paths = [path for path in OURS if why_not(path, x, bases, weights, geometry) is None]
    assert "recompute" in paths
    return paths


def with_gradients(parts: tuple[Tensor, ...], y: Tensor) -> tuple[Tensor, ...]:
    grad_y = draw(*y.shape, seed=3).to(y.dtype)
    return (y, *torch.autograd.grad(y, parts, grad_y))


def relative(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.double(), wanted.double()
    return ((found - wanted).norm() / wanted.norm().clamp_min(1e-300)).item()


sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))
kernel_sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
steps = st.tuples(st.integers(1, 3), st.integers(1, 3))
sides = st.tuples(*(st.integers(0, 4) for _ in range(4)))


@st.composite
def geometries(drawn: st.DrawFn) -> Geometry:
    """Even kernels, unequal padding, padding beyond the kernel and single lines among them."""
    size, kernel, padding = drawn(sizes), drawn(kernel_sizes), list(drawn(sides))
    dilation = drawn(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    for axis in range(2):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        missing = reach - size[axis] - sum(padding[2 * axis : 2 * axis + 2])
        padding[2 * axis + 1] += max(missing, 0)
    top, bottom, left, right = padding
    groups = drawn(st.sampled_from((1, 1, 2, 4)))
    single = drawn(st.sampled_from((None, None, 0, 1)))
    stride = tuple(99 if axis == single else step for axis, step in enumerate(drawn(steps)))
    return Geometry(size, kernel, stride, (top, bottom, left, right), dilation, groups)


@given(geometries(), st.sampled_from(EVERY_SHAPE), st.integers(1, 3), st.booleans(), st.booleans())
def test_every_path_in_float64(
    geometry: Geometry, kind: str, rank: int, small_tiles: bool, channels_last: bool
) -> None:
    x, bases, weights = layer(geometry, kind, images=2, rank=rank)
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    wanted = with_gradients((x, bases, weights), plain.mix_outputs(x, bases, weights, geometry))
    with pytest.MonkeyPatch.context() as patch:
        if small_tiles:
            patch.setattr(products, "TILE_BYTES", 1)
            patch.setattr(recompute, "CHUNK_BYTES", 1)
        for path in able(x, bases, weights, geometry):
            y = mix(x, bases, weights, geometry, path)
            for found, right in zip(with_gradients((x, bases, weights), y), wanted, strict=True):
                torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10, msg=path)


@given(geometries(), st.booleans(), st.booleans())
def test_a_kernel_for_each_position(
    geometry: Geometry, small_tiles: bool, channels_last: bool
) -> None:
    x = draw(3, 4, *geometry.input_size)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = draw(*geometry.output_size, 8, 4 // geometry.groups, *geometry.kernel_size, seed=1)
    parts = (x.requires_grad_(), weight.requires_grad_())
    wanted = with_gradients(parts, plain.local_plain(*parts, geometry))
    with pytest.MonkeyPatch.context() as patch:
        if small_tiles:
            patch.setattr(products, "TILE_BYTES", 1)
        found = with_gradients(parts, gather(*parts, geometry, "kernels_first"))
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-10, atol=1e-10)


PADDED = Geometry((9, 8), (3, 3), padding=(1, 1, 1, 1))
STRIDED = Geometry((9, 8), (3, 2), (2, 2), (1, 0, 1, 0), (1, 2), 2)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("geometry", [PADDED, STRIDED], ids=["padded", "strided"])
def test_every_path_in_float32(geometry: Geometry, kind: str) -> None:
    exact = layer(geometry, kind, images=8, channels=16, filters=8)
    wanted = with_gradients(exact, plain.mix_outputs(*exact, geometry))
    parts = tuple(part.detach().float().requires_grad_() for part in exact)
    for path in able(*parts, geometry):
        found = with_gradients(parts, mix(*parts, geometry, path))
        for got, right in zip(found, wanted, strict=True):
            assert relative(got, right) < 1e-5, path


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("geometry", [PADDED, STRIDED], ids=["padded", "strided"])
def test_every_path_in_bfloat16_with_float32_weights(geometry: Geometry, kind: str) -> None:
    """Each path rounds to 8 bits at most six times between inputs and a result.

    A rounding is off by at most u = 2^-8 of a value (half of a last bit of 8), and by no more in
    the norm of a tensor. Values rounded on the way are the weights, mixed kernels or K outputs,
    products, and sums over at most 3 overlapping columns and 3 rows, then the result; the K terms
    of a mixture may cancel, which makes a rounding of a term count sqrt(K) times for random signs.
    """
    rank = 3
    parts = layer(geometry, kind, images=8, channels=16, filters=8, rank=rank)
    half = [part.detach().bfloat16() for part in parts[:2]]
    rounded = tuple(part.double().requires_grad_() for part in (*half, parts[2].detach().float()))
    given_parts = (*(part.requires_grad_() for part in half), parts[2].detach().float())
    given_parts[2].requires_grad_()
    y = plain.mix_outputs(*rounded, geometry)
    grad_y = draw(*y.shape, seed=3).bfloat16()
    wanted = (y, *torch.autograd.grad(y, rounded, grad_y.double()))
    for path in able(*given_parts, geometry):
        y = mix(*given_parts, geometry, path)
        found = (y, *torch.autograd.grad(y, given_parts, grad_y))
        assert [got.dtype for got in found] == [torch.bfloat16] * 3 + [torch.float32]
        for got, right in zip(found, wanted, strict=True):
            assert relative(got, right) < 6 * rank**0.5 * 2**-8, path


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("wants", list(product((True, False), repeat=3))[:-1])
def test_only_the_gradients_that_are_wanted(kind: str, wants: tuple[bool, ...]) -> None:
    parts = layer(PADDED, kind)
    wanted = with_gradients(parts, plain.mix_outputs(*parts, PADDED))[1:]
    some = tuple(
        part.detach().requires_grad_(want) for part, want in zip(parts, wants, strict=True)
    )
    for path in able(*some, PADDED):
        y = mix(*some, PADDED, path)
        y.backward(draw(*y.shape, seed=3))
        for part, want, right in zip(some, wants, wanted, strict=True):
            if want:
                torch.testing.assert_close(part.grad, right, rtol=1e-10, atol=1e-10)
                part.grad = None
            else:
                assert part.grad is None


SMALL = Geometry((3, 4), (2, 3), (1, 2), (1, 0, 1, 1))


@pytest.mark.parametrize(
    ("path", "kind"),
    [*product(("kernels_first", "recompute"), ["map"]), ("lines", "rows"), ("recompute", "input")],
)
def test_first_and_second_derivatives(path: str, kind: str) -> None:
    parts = layer(SMALL, kind, images=2, rank=2, channels=2, filters=2)

    def function(x: Tensor, bases: Tensor, weights: Tensor) -> Tensor:
        return mix(x, bases, weights, SMALL, path)

    assert gradcheck(function, parts)
    assert gradgradcheck(function, parts)


def test_derivatives_of_a_kernel_for_each_position() -> None:
    x = draw(2, 2, *SMALL.input_size).requires_grad_()
    weight = draw(*SMALL.output_size, 2, 2, *SMALL.kernel_size, seed=1).requires_grad_()

    def function(x: Tensor, weight: Tensor) -> Tensor:
        return gather(x, weight, SMALL, "kernels_first")

    assert gradcheck(function, (x, weight))
    assert gradgradcheck(function, (x, weight))


@pytest.mark.parametrize("kind", ["rows", "columns", "constant"])
@pytest.mark.parametrize("size", [(6, 3), (3, 6), (3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_lines_of_positions(size: tuple[int, int], kind: str, dtype: torch.dtype) -> None:
    """W' = 1, H' = 1 or both; also by the compiled path, which the shapes above leave out."""
    geometry = Geometry(size, (3, 3))
    parts = layer(geometry, kind, dtype=dtype)
    wanted = with_gradients(parts, plain.mix_outputs(*parts, geometry))
    paths = [path for path in PATHS if why_not(path, *parts, geometry) is None]
    assert {"lines", "kernels_first", "recompute"} <= set(paths)
    assert ("compiled" in paths) == (dtype == torch.float32)
    for path in paths:
        found = with_gradients(parts, mix(*parts, geometry, path))
        for got, right in zip(found, wanted, strict=True):
            assert got.shape == right.shape
            assert relative(got, right) < 10 * torch.finfo(dtype).eps, path


@pytest.mark.parametrize("path", ["plain", *OURS])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_keep_the_layout_of_the_input(path: str, layout: torch.memory_format) -> None:
    kind, rank = ("rows", 3) if path == "lines" else ("map", 1 if path == "conv" else 3)
    x, bases, weights = layer(PADDED, kind, rank=rank)
    x = x.detach().contiguous(memory_format=layout).requires_grad_()
    y = mix(x, bases, weights, PADDED, path)
    assert y.is_contiguous(memory_format=layout)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.shape == x.shape


@pytest.mark.parametrize("kind", SHAPES)
def test_the_same_bits_every_time(kind: str) -> None:
    parts = layer(PADDED, kind, dtype=torch.float32)
    for path in able(*parts, PADDED):
        first, again = (with_gradients(parts, mix(*parts, PADDED, path)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), path


@pytest.mark.parametrize("kind", SHAPES)
def test_paths_keep_their_inputs_and_nothing_else(kind: str) -> None:
    parts = layer(PADDED, kind)
    for path in able(*parts, PADDED):
        kept: list[Tensor] = []

        def keep(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            mix(*parts, PADDED, path)
        assert {tensor.data_ptr() for tensor in kept} == {part.data_ptr() for part in parts}


def test_a_forced_path_that_cannot_compute_a_layer_says_why() -> None:
    parts = layer(PADDED, "input")
    with pytest.raises(InputError, match=r"'lines', which cannot .* more than rows or columns"):
        mix(*parts, PADDED, "lines")
    with pytest.raises(InputError, match="its rank is 3, not 1"):
        mix(*parts, PADDED, "conv")
    with pytest.raises(InputError, match="each sample has combining weights of its own"):
        mix(*parts, PADDED, "kernels_first")
    with pytest.raises(InputError, match="the input is on cpu, not on a GPU"):
        mix(*parts, PADDED, "triton")
    with pytest.raises(InputError, match="path is 'fast'; give 'auto' or one of 'plain', "):
        mix(*parts, PADDED, "fast")
    with pytest.raises(InputError, match="its kernels are no mixtures"):
        gather(parts[0], draw(*PADDED.output_size, 6, 4, 3, 3), PADDED, "recompute")
    with pytest.raises(InputError, match="path is 'fast'"), use_path("fast"):
        pass
    assert set(OURS) < set(PATHS)
