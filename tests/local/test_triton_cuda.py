"""The GPU path on a GPU: right, repeatable, timed as any other kernel."""

import pytest
import torch
from torch import Tensor

from convprior.local import gpu, plain
from convprior.local.geometry import Geometry

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SHAPES = {
    "example of the card": (128, 64, 64, 8, Geometry.of_conv(32, 3, padding=1)),
    "first layer": (33, 3, 64, 4, Geometry.of_conv((31, 29), 5, stride=2, padding=2)),
    "stride and dilation": (7, 48, 40, 3, Geometry.of_conv((23, 18), (3, 2), 2, 1, (1, 2))),
    "groups": (16, 64, 96, 2, Geometry.of_conv(9, 3, padding=1, groups=2)),
    "high rank": (40, 32, 32, 40, Geometry.of_conv(8, 3, padding=1)),
    "wide": (64, 256, 192, 8, Geometry.of_conv(8, 3, padding=1)),
}
# Half a unit in the last place of what is multiplied; TF32 keeps 10 bits and Triton cuts off.
PRODUCTS = {"ieee": 2.0**-24, "tf32": 2.0**-10, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SUMS = 2.0**-16


def problem(shape: str, dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Geometry]:
    n, c, f, rank, geometry = SHAPES[shape]
    generator = torch.Generator("cuda").manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device="cuda")

    x = draw(n, c, *geometry.input_size).to(dtype, memory_format=torch.channels_last)
    bases = draw(rank, f, c // geometry.groups, *geometry.kernel_size).to(dtype)
    weights = draw(rank, *geometry.output_size).softmax(0)
    grad_y = draw(n, f, *geometry.output_size).to(dtype)
    return [x, bases, weights], grad_y, geometry


def exact(inputs: list[Tensor], grad_y: Tensor, geometry: Geometry) -> list[Tensor]:
    inputs = [tensor.double().requires_grad_() for tensor in inputs]
    y = plain.mix_outputs(inputs[0], inputs[1], inputs[2], geometry)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad_y.double())]


def assert_allowed(
    found: list[Tensor], inputs: list[Tensor], grad_y: Tensor, geometry: Geometry, unit: float
) -> None:
    """Errors within: of each product, of its two factors; of the sums; of the result's dtype."""
    truth = exact(inputs, grad_y, geometry)
    sizes = exact([tensor.abs() for tensor in inputs], grad_y.abs(), geometry)
    for got, true, size in zip(found, truth, sizes, strict=True):
        rounded = torch.finfo(got.dtype).eps * true.abs()
        assert bool(((got.double() - true).abs() <= (2 * unit + SUMS) * size + rounded).all())


@pytest.fixture
def products_of_float32():
    """Sets how convolutions multiply float32."""
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    yield lambda precision: setattr(convolutions, "fp32_precision", precision)
    convolutions.fp32_precision = before


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", PRODUCTS)
def test_output_and_gradients_are_as_right_as_rounding_allows(
    shape, precision, products_of_float32
):
    dtype = getattr(torch, precision, torch.float32)
    if dtype == torch.float32:
        products_of_float32(precision)
    inputs, grad_y, geometry = problem(shape, dtype)
    assert gpu.available(*inputs, geometry)
    found = [gpu.forward(*inputs, geometry), *gpu.backward(*inputs, grad_y, geometry)]
    assert_allowed(found, inputs, grad_y, geometry, PRODUCTS[precision])


@pytest.mark.parametrize("shape", ["stride and dilation", "groups"])
def test_a_kernel_for_each_position(shape, products_of_float32):
    products_of_float32("ieee")
    (x, bases, weights), grad_y, geometry = problem(shape, torch.float32)
    weight = plain.gather_kernels(bases, weights)
    y = gpu.forward_given(x, weight, geometry)
    dx, dweight = gpu.backward_given(x, weight, grad_y, geometry)
    inputs = [x.double().requires_grad_(), weight.double().requires_grad_()]
    true = plain.local_plain(*inputs, geometry)
    grads = torch.autograd.grad(true, inputs, grad_y.double())
    for got, expected in zip((y, dx, dweight), (true.detach(), *grads), strict=True):
        assert got is not None
        assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


def test_two_runs_are_the_same_to_the_last_bit():
    inputs, grad_y, geometry = problem("example of the card", torch.bfloat16)
    first, second = (gpu.backward(*inputs, grad_y, geometry) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_offsets_beyond_31_bits():
    """The last sample of an input of more than 2^31 elements."""
    geometry = Geometry.of_conv(64, 1)
    n = 2**31 // (64 * 64 * 64) + 2
    x = torch.zeros(n, 64, 64, 64, dtype=torch.bfloat16, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last)
    x[-1] = 1.0
    bases = torch.ones(1, 16, 64, 1, 1, dtype=torch.bfloat16, device="cuda")
    weights = torch.ones(1, 64, 64, device="cuda")
    y = gpu.forward(x, bases, weights, geometry)
    assert bool((y[-1] == 64.0).all())
    assert not bool(y[:-1].any())


def test_launches_in_a_captured_graph_and_between_events():
    """What a timing does: warm up once, then capture or record without a host in the way."""
    inputs, _, geometry = problem("groups", torch.bfloat16)
    expected = gpu.forward(*inputs, geometry)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    gpu.forward(*inputs, geometry)
    end.record()
    torch.cuda.synchronize()
    assert start.elapsed_time(end) > 0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = gpu.forward(*inputs, geometry)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, expected)
