"""Local layers under torch.func, torch.compile, torch.export and ONNX."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from convprior.local import (
    LocalConv1d,
    LocalConv2d,
    LowRankLocalConv1d,
    LowRankLocalConv2d,
    low_rank_local_conv2d,
)

LAYERS = {
    **{
        weights: lambda weights=weights: LowRankLocalConv2d(
            2, 4, 3, padding="same", input_size=(5, 6), rank=3, weights=weights
        )
        for weights in ("separable", "map", "rows", "columns", "input")
    },
    "strided": lambda: LowRankLocalConv2d(
        *(2, 4, (2, 3), 2, 1), groups=2, padding_mode="reflect", input_size=(5, 6), rank=2
    ),
    "local": lambda: LocalConv2d(2, 4, 3, padding=1, input_size=(5, 6)),
    "line": lambda: LowRankLocalConv1d(2, 4, 3, padding="same", input_size=6, rank=2),
    "local line": lambda: LocalConv1d(2, 4, 3, input_size=6),
}


def layer_and_input(kind, n=3):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer, torch.randn(n, 2, *layer.input_size)


def called(layer):
    return lambda parameters, x: torch.func.functional_call(layer, parameters, (x,))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
def test_vmap_over_samples_and_over_ensembles(kind):
    layer, x = layer_and_input(kind)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    close(torch.func.vmap(called(layer), (None, 0))(parameters, x), layer(x))
    members = {name: torch.stack([p, 0.5 * p]) for name, p in parameters.items()}
    y = torch.func.vmap(called(layer), (0, None))(members, x)
    close(y[0], layer(x))
    close(y[1], called(layer)({name: 0.5 * p for name, p in parameters.items()}, x))


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_per_sample(kind):
    layer, x = layer_and_input(kind)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, sample):
        return called(layer)(parameters, sample).sin().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for index, sample in enumerate(x):
        layer.zero_grad()
        layer(sample).sin().sum().backward()
        for name, parameter in layer.named_parameters():
            close(each[name][index], parameter.grad)


@pytest.mark.parametrize("kind", LAYERS)
def test_jacobians(kind):
    layer, x = layer_and_input(kind, 1)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    jacobian = torch.func.jacrev(called(layer))(parameters, x)
    y = layer(x)
    (y * (cotangent := torch.randn_like(y))).sum().backward()
    for name, parameter in layer.named_parameters():
        close(torch.tensordot(cotangent, jacobian[name], cotangent.dim()), parameter.grad)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["separable", "input", "local"])
def test_forward_mode(kind):
    layer, x = layer_and_input(kind, 1)
    direction = torch.randn_like(x)
    y, tangent = torch.func.jvp(layer, (x,), (direction,))
    close(y, layer(x))
    jacobian = torch.func.jacrev(layer)(x)
    close(tangent, torch.tensordot(jacobian, direction, x.dim()))


class Everything(nn.Module):
    """Every layer side by side: traced once, since tracing is what takes the time."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({kind: layer_and_input(kind)[0] for kind in LAYERS})

    def forward(self, images, lines):
        return [
            layer(lines if len(layer.kernel_size) == 1 else images)
            for layer in self.layers.values()
        ]


def inputs(n=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, 2, 5, 6, generator=generator), torch.randn(n, 2, 6, generator=generator)


def step(function, model):
    """Outputs and gradients."""
    model.zero_grad()
    outputs = function(*inputs())
    sum(y.sin().sum() for y in outputs).backward()
    return outputs, {name: p.grad for name, p in model.named_parameters()}


def test_compiled_without_a_break():
    model = Everything()
    expected = step(model, model)
    torch.compiler.reset()
    close(step(torch.compile(model, fullgraph=True, backend="aot_eager"), model), expected)


def test_the_function_and_autocast_compile_without_a_break():
    layer, x = layer_and_input("separable")
    bases, weights = layer.bases.detach(), layer.combining_weights().detach()
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(x, bases, weights):
        with torch.autocast("cpu", torch.bfloat16):
            return low_rank_local_conv2d(x, bases, weights, padding="same")

    with torch.autocast("cpu", torch.bfloat16):
        expected = low_rank_local_conv2d(x, bases, weights, padding="same")
    y = function(x, bases, weights)
    assert y.dtype == torch.bfloat16
    # Three products and two sums, which the paths round at different places.
    unit = torch.finfo(torch.bfloat16).eps
    assert (y - expected).abs().max() < 3.0 * unit * expected.abs().max()


def test_inductor_compiles_a_training_step():
    layer, x = layer_and_input("separable")
    layer(x).sin().sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    expected = layer(x).detach()
    layer.zero_grad()
    torch.compiler.reset()
    y = torch.compile(layer, fullgraph=True)(x)
    close(y, expected)
    y.sin().sum().backward()
    close({name: p.grad for name, p in layer.named_parameters()}, gradients)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_with_any_batch(strict):
    model = Everything()
    batch = torch.export.Dim("batch")
    shapes = {"images": {0: batch}, "lines": {0: batch}}
    program = torch.export.export(model, inputs(), dynamic_shapes=shapes, strict=strict)
    for n in (3, 5):
        close(program.module()(*inputs(n)), model(*inputs(n)))


def test_onnx_runs_elsewhere(tmp_path):
    model, path = Everything().eval(), tmp_path / "layers.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(model, inputs(), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    names = [given.name for given in session.get_inputs()]
    outputs = session.run(None, dict(zip(names, (x.numpy() for x in inputs()), strict=True)))
    for y, expected in zip(outputs, model(*inputs()), strict=True):
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-4, atol=1e-4)
