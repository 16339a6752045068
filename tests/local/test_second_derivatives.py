"""Gradients that can be differentiated again, where a layer's arguments depend on each other."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradgradcheck

from convprior.local import LocalConv2d, LowRankLocalConv2d, use_path

# Paths for layers with these weights; a kernel of its own at each position is "local".
CASES = [
    ("input", "recompute"),
    ("input", "compiled"),
    ("separable", "kernels_first"),
    ("separable", "recompute"),
    ("separable", "compiled"),
    ("rows", "lines"),
    ("columns", "lines"),
    ("local", "kernels_first"),
    ("local", "compiled"),
]


def network(weights: str, size: int, channels: int, dtype: torch.dtype) -> nn.Module:
    """A layer with parameters drawn anew: fresh tables would be uniform."""
    arguments = (channels, channels, 3, 1, 1)
    layer: nn.Module
    if weights == "local":
        layer = LocalConv2d(*arguments, dtype=dtype, input_size=size)
    else:
        layer = LowRankLocalConv2d(
            *arguments, dtype=dtype, input_size=size, rank=2, weights=weights
        )
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return layer


def draw(*size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, dtype=dtype, generator=generator).requires_grad_()


@pytest.mark.parametrize(("weights", "path"), CASES)
def test_a_graph_of_the_gradient_does_not_change_it(weights: str, path: str) -> None:
    """The layer is used twice, so that its second input depends on its parameters."""
    dtype = torch.float32 if path == "compiled" else torch.float64
    layer = network(weights, 8, 3, dtype)
    x = draw(2, 3, 8, 8, dtype=dtype)
    leaves = [x, *layer.parameters()]

    def gradients(create_graph: bool) -> tuple[Tensor, ...]:
        with use_path(path):
            loss = layer(layer(x)).square().sum()
        return torch.autograd.grad(loss, leaves, create_graph=create_graph)

    for alone, with_graph in zip(gradients(False), gradients(True), strict=True):
        assert with_graph.requires_grad
        off = (alone - with_graph).norm() / alone.norm()
        assert off < (1e-4 if dtype == torch.float32 else 1e-10)


def test_layers_as_they_come_at_a_size_where_a_path_is_taken() -> None:
    layer = network("input", 32, 16, torch.float32)
    x = draw(16, 16, 32, 32, dtype=torch.float32)
    y = layer(x)
    assert "Mix" in str(_nodes(y))
    alone, with_graph = (
        torch.autograd.grad(layer(x).square().sum(), x, create_graph=graph)[0]
        for graph in (False, True)
    )
    assert (alone - with_graph).norm() < 1e-4 * alone.norm()


@pytest.mark.parametrize(
    ("weights", "path"), [("input", "recompute"), ("rows", "lines"), ("local", "kernels_first")]
)
def test_second_derivatives_of_whole_layers(weights: str, path: str) -> None:
    layer = network(weights, 3, 1, torch.float64)
    parameters = dict(layer.named_parameters())

    def twice(x: Tensor, *values: Tensor) -> Tensor:
        own = dict(zip(parameters, values, strict=True))
        y = torch.func.functional_call(layer, own, (x,))
        return torch.func.functional_call(layer, own, (y,)).square()

    with use_path(path):
        inputs = (draw(1, 1, 3, 3, dtype=torch.float64), *parameters.values())
        assert gradgradcheck(twice, inputs, fast_mode=True)


def _nodes(y: Tensor) -> set[str]:
    """The names of the operations behind a tensor."""
    seen, names, left = set(), set(), [y.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(node.name())
            left += [before for before, _ in node.next_functions]
    return names
