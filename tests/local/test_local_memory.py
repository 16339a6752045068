"""What local layers keep for the gradient, and biases added in place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convprior.local import LowRankLocalConv2d
from convprior.local.bias import add_bias
from convprior.local.paths import use_path


def kept(layer, x):
    """Bytes of tensors saved between forward and backward, each storage once."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    return sum(sizes.values()), y


@pytest.mark.parametrize("weights", ["separable", "map", "rows", "columns", "input"])
@pytest.mark.parametrize("rank", [2, 8])
def test_no_activation_but_the_input_is_kept_at_any_rank(weights, rank):
    layer = LowRankLocalConv2d(16, 16, 3, padding=1, input_size=16, rank=rank, weights=weights)
    x = torch.randn(8, 16, 16, 16, requires_grad=True)
    with use_path("recompute"):  # in a layer this small the definition is cheaper
        size, y = kept(layer, x)
    tables = 8 * rank * 16 * 16 * 4 if weights == "input" else 2 * rank * 16 * 16 * 4
    assert size <= x.nbytes + 2 * layer.weight.nbytes + tables
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("path", "weights"),
    [
        ("recompute", "separable"),
        ("recompute", "input"),
        ("kernels_first", "separable"),
        ("lines", "rows"),
        ("lines", "columns"),
        ("compiled", "map"),
    ],
)
def test_biases_are_added_to_the_output_of_every_path(path, weights, memory):
    torch.manual_seed(0)
    layer = LowRankLocalConv2d(4, 6, 3, padding=1, input_size=(6, 5), rank=2, weights=weights)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 4, 6, 5).contiguous(memory_format=memory).requires_grad_()
    results = {}
    for name in ("plain", path):
        with use_path(name):
            y = layer(x)
            assert (
                y.is_contiguous(memory_format=torch.channels_last) or memory != torch.channels_last
            )
            results[name] = [y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])]
    torch.testing.assert_close(results[path], results["plain"], rtol=1e-4, atol=1e-4)


@given(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.sampled_from(["none", "channels", "positions"]),
    st.sampled_from(["none", "rows", "columns", "map"]),
    st.booleans(),
)
def test_biases_and_their_gradients(shape, channels, positions, last):
    n, f, h, w = shape
    generator = torch.Generator().manual_seed(n)

    def tensor(*size):
        return torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_()

    y = tensor(n, f, h, w)
    if last:
        y = y.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    bias = {"none": None, "channels": tensor(f), "positions": tensor(f, h, w)}[channels]
    spatial = {"none": None, "rows": tensor(h, 1), "columns": tensor(1, w), "map": tensor(h, w)}
    given_bias = [b for b in (bias, spatial[positions]) if b is not None]
    expected = y.clone()
    if bias is not None:
        expected = expected + (bias[:, None, None] if channels == "channels" else bias)
    if spatial[positions] is not None:
        expected = expected + spatial[positions]
    result = add_bias(y.clone(), bias, spatial[positions])
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=torch.channels_last) or not last
    cotangent = tensor(n, f, h, w).detach()
    ours = torch.autograd.grad(result, [y, *given_bias], cotangent)
    theirs = torch.autograd.grad(expected, [y, *given_bias], cotangent)
    torch.testing.assert_close(ours, theirs)
