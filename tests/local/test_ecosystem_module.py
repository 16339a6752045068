"""Local layers as modules: states, repr, meta device, copies, dtypes, memory formats."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from convprior.local import LocalConv1d, LocalConv2d, LowRankLocalConv1d, LowRankLocalConv2d

MODES = ["separable", "map", "rows", "columns", "input"]

SHARED = {"weight": (12, 2, 3, 3), "bias": (4,)}
STATES = {
    "separable": {
        "row_logits": (3, 5),
        "column_logits": (3, 6),
        "row_bias": (5,),
        "column_bias": (6,),
    },
    "map": {"map_logits": (3, 5, 6), "map_bias": (5, 6)},
    "rows": {"row_logits": (3, 5), "row_bias": (5,)},
    "columns": {"column_logits": (3, 6), "column_bias": (6,)},
    "input": {
        "map_bias": (5, 6),
        "gate.reduce_weight": (3, 2, 1, 1),
        "gate.reduce_bias": (3,),
        "gate.context1_weight": (3, 1, 3, 3),
        "gate.context1_bias": (3,),
        "gate.context2_weight": (3, 1, 3, 3),
        "gate.context2_bias": (3,),
        "gate.merge_weight": (9, 12, 1, 1),
        "gate.merge_bias": (9,),
        "gate.widen_weight": (18, 9, 1, 1),
        "gate.widen_bias": (18,),
        "gate.logits_weight": (3, 18, 1, 1),
        "gate.logits_bias": (3,),
    },
}


def layer_of(weights="separable", **changed):
    torch.manual_seed(0)
    layer = LowRankLocalConv2d(2, 4, 3, input_size=(7, 8), rank=3, weights=weights, **changed)
    if not changed.get("device"):
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return layer


def every_layer(**factory):
    torch.manual_seed(0)
    layers = [
        LowRankLocalConv2d(
            2, 4, 3, input_size=(7, 8), rank=3, weights=weights, init=init, **factory
        )
        for weights in MODES
        for init in ("variance", "authors")
    ]
    layers += [
        LocalConv2d(2, 4, 3, input_size=(7, 8), init=i, **factory) for i in ("fan_in", "keras")
    ]
    layers += [
        LowRankLocalConv1d(2, 4, 3, input_size=7, rank=3, weights=w, **factory)
        for w in ("map", "input")
    ]
    return nn.ModuleList([*layers, LocalConv1d(2, 4, 3, input_size=7, **factory)])


def images():
    return torch.randn(3, 2, 7, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weights", MODES)
def test_names_and_shapes_of_the_state_are_these(weights):
    state = layer_of(weights).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == SHARED | STATES[weights]
    assert list(state)[:2] == ["weight", "bias"]
    bare = layer_of(weights, bias=False, spatial_bias=False).state_dict()
    logits = {n: s for n, s in STATES[weights].items() if "logits" in n or "gate" in n}
    assert {n: tuple(t.shape) for n, t in bare.items()} == {"weight": (12, 2, 3, 3)} | logits


def test_states_of_the_other_layers_are_these():
    def shapes(layer):
        return {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}

    local = LocalConv2d(2, 4, 3, input_size=(7, 8), groups=2)
    assert shapes(local) == {"weight": (5, 6, 4, 1, 3, 3), "bias": (4, 5, 6)}
    line = LocalConv1d(2, 4, 3, input_size=7, bias=False)
    assert shapes(line) == {"weight": (5, 4, 2, 3)}
    layer = LowRankLocalConv1d(2, 4, 3, input_size=7, rank=3)
    expected = {"weight": (12, 2, 3), "bias": (4,), "map_logits": (3, 5), "map_bias": (5,)}
    assert shapes(layer) == expected


def test_bases_are_the_thirds_of_the_weight():
    layer = layer_of()
    for k in range(3):
        assert torch.equal(layer.bases[k], layer.weight[4 * k : 4 * (k + 1)])
    assert layer.bases.data_ptr() == layer.weight.data_ptr()


@pytest.mark.parametrize("weights", MODES)
def test_states_travel_without_pickle(weights, tmp_path):
    layer, other = (
        layer_of(weights),
        LowRankLocalConv2d(2, 4, 3, input_size=(7, 8), rank=3, weights=weights),
    )
    save_file(layer.state_dict(), tmp_path / "state.safetensors")
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    x = images()
    assert torch.equal(other(x), layer(x))
    torch.save(layer.state_dict(), tmp_path / "state.pt")
    assert set(torch.load(tmp_path / "state.pt", weights_only=True)) == set(layer.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_equal_and_apart(copied):
    for weights in MODES:
        layer, x = layer_of(weights).requires_grad_(weights != "map"), images()
        other, before = copied(layer), layer(x)
        assert torch.equal(other(x), before)
        assert repr(other) == repr(layer)
        assert all(p.requires_grad == (weights != "map") for p in other.parameters())
        nn.init.zeros_(other.weight)
        assert torch.equal(layer(x), before)


def test_repr():
    layer = layer_of(padding="same", groups=2, bias=False, normalize=None, spatial_bias=False)
    assert repr(layer) == (
        "LowRankLocalConv2d(2, 4, kernel_size=(3, 3), stride=(1, 1), padding=same, groups=2, "
        "bias=False, input_size=(7, 8), rank=3, weights='separable', normalize=None, "
        "spatial_bias=False)"
    )


def test_reset_parameters_draws_the_law_of_a_new_layer():
    for layer, fresh in zip(every_layer(), every_layer(), strict=True):
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        torch.manual_seed(5)
        layer.reset_parameters()
        torch.manual_seed(5)
        fresh.reset_parameters()
        for name, parameter in layer.named_parameters():
            assert torch.equal(parameter, fresh.get_parameter(name)), name


def test_layers_are_built_on_the_meta_device():
    for meta, built in zip(every_layer(device="meta"), every_layer(), strict=True):
        assert all(parameter.is_meta for parameter in meta.parameters())
        shape = (3, 2, *built.input_size)
        assert meta(torch.empty(shape, device="meta")).shape == built(torch.zeros(shape)).shape
        layer = meta.to_empty(device="cpu")
        torch.manual_seed(1)
        layer.reset_parameters()
        torch.manual_seed(1)
        built.reset_parameters()
        for name, parameter in layer.named_parameters():
            assert torch.equal(parameter, built.get_parameter(name)), name


def test_the_default_device_and_dtype_are_followed():
    with torch.device("meta"):
        assert all(
            p.is_meta for p in LowRankLocalConv2d(2, 4, 3, input_size=7, rank=2).parameters()
        )
    for layer in every_layer(dtype=torch.bfloat16):
        assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("weights", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_layers_normalize_in_single(weights, dtype):
    layer, x = layer_of(weights).to(dtype), images().to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert layer.combining_weights(x).dtype == torch.float32
    exact = copy.deepcopy(layer).double()(x.double())
    y.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    # A product of 18 terms and a sum of 3, each rounded a few times.
    unit = torch.finfo(dtype).eps
    assert (y.double() - exact).abs().max() < 6.0 * unit * exact.abs().max()


@pytest.mark.parametrize("weights", MODES)
def test_autocast_gives_its_dtype_and_float32_gradients(weights):
    layer, x = layer_of(weights), images().requires_grad_()
    exact = copy.deepcopy(layer).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert layer.combining_weights(x).dtype == torch.float32
    assert y.dtype == torch.bfloat16
    unit = torch.finfo(torch.bfloat16).eps
    assert (y.double() - exact).abs().max() < 6.0 * unit * exact.abs().max()
    y.float().square().mean().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad.dtype == torch.float32
        assert torch.isfinite(tensor.grad).all()


def test_autocast_of_locally_connected_layers():
    layer, x = LocalConv2d(2, 4, 3, input_size=(7, 8)), images()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    exact = layer(x).detach()
    unit = torch.finfo(torch.bfloat16).eps
    assert (y.float() - exact).abs().max() < 3.0 * unit * exact.abs().max()


@pytest.mark.parametrize("weights", MODES)
def test_channels_last_in_channels_last_out(weights):
    layer, x = layer_of(weights), images()
    expected = layer(x)
    layer = layer.to(memory_format=torch.channels_last)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)


def test_channels_last_in_locally_connected_layers():
    layer, x = LocalConv2d(2, 4, 3, input_size=(7, 8)), images()
    y = layer(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("weights", MODES)
def test_frozen_parts_get_no_gradient(weights):
    layer = layer_of(weights)
    layer.weight.requires_grad_(False)
    layer(images()).square().mean().backward()
    assert layer.weight.grad is None
    for name, parameter in layer.named_parameters():
        assert name == "weight" or parameter.grad.abs().max() > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_layers_on_a_gpu_equal_those_on_the_cpu(memory):
    for layer in every_layer(dtype=torch.float64):
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(3, 2, *layer.input_size, dtype=torch.float64)
        expected = layer(x)
        expected.sin().sum().backward()
        other = copy.deepcopy(layer).to("cuda", memory_format=memory)
        other.zero_grad()
        y = other(x.cuda().to(memory_format=memory) if x.dim() == 4 else x.cuda())
        torch.testing.assert_close(y.cpu(), expected)
        y.sin().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(other.get_parameter(name).grad.cpu(), parameter.grad)
        with torch.autocast("cuda", torch.bfloat16):
            assert other.float()(x.cuda().float()).dtype == torch.bfloat16
