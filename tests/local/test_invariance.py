"""How far layers are from convolutions, against all their kernels; and the way back."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from convprior.errors import InputError
from convprior.local import (
    LocalConv2d,
    LowRankLocalConv1d,
    LowRankLocalConv2d,
    delocalize,
    invariance_report,
    localize,
    to_conv,
)


def moved(layer, scale=0.5, seed=0):
    """The layer with every parameter somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)
    return layer


def of_kernels(kernels):
    """Distance and effective rank from the definition: every kernel, every eigenvalue."""
    kernels = kernels.detach().double().flatten(2).flatten(0, 1).flatten(1)
    mean = kernels.mean(0)
    deviation = kernels - mean
    distance = deviation.square().sum(1).mean().sqrt() / mean.norm()
    values = torch.linalg.svdvals(deviation).square()
    return float(distance), float(values.sum() ** 2 / values.square().sum())


@settings(max_examples=30)
@given(
    weights=st.sampled_from(["separable", "map", "rows", "columns"]),
    normalize=st.sampled_from(["softmax", "l2", None]),
    rank=st.integers(2, 5),
    size=st.tuples(st.integers(6, 9), st.integers(6, 9)),
)
def test_equal_to_all_kernels(weights, normalize, rank, size):
    layer = LowRankLocalConv2d(
        2, 3, 3, dtype=torch.float64, input_size=size, rank=rank, weights=weights,
        normalize=normalize,
    )  # fmt: skip
    report = invariance_report(moved(layer))[""]
    distance, effective_rank = of_kernels(layer.combined_kernels())
    assert report.distance == pytest.approx(distance, rel=1e-10)
    assert report.effective_rank == pytest.approx(effective_rank, rel=1e-8)
    bases = layer.bases.detach()
    mean = bases.mean(0)
    spread = (bases - mean).square().sum((1, 2, 3, 4)).mean().sqrt() / mean.norm()
    assert report.basis_spread == pytest.approx(float(spread), rel=1e-10)
    bias = layer.spatial_bias_map().detach()
    assert report.spatial_bias == pytest.approx(float(bias.std(correction=0)), rel=1e-10)
    # The same layer as a locally connected one, without knowing of any basis.
    full = invariance_report(layer.to_local())[""]
    assert full.distance == pytest.approx(distance, rel=1e-10)
    assert full.effective_rank == pytest.approx(effective_rank, rel=1e-8)
    assert full.spatial_bias == pytest.approx(report.spatial_bias, rel=1e-10)


def test_known_values():
    layer = LowRankLocalConv2d(1, 1, 1, input_size=(2, 2), rank=2, weights="rows", normalize=None)
    with torch.no_grad():
        # The kernels 3 and 1 in the two rows: mean 2, each one away from it.
        layer.weight.copy_(torch.tensor([3.0, 1.0]).view(2, 1, 1, 1))
        layer.row_logits.copy_(torch.eye(2))
        layer.row_bias.copy_(torch.tensor([1.0, -1.0]))
    (entry,) = invariance_report(layer)
    assert (entry.distance, entry.effective_rank) == (0.5, pytest.approx(1.0))
    assert (entry.basis_spread, entry.spatial_bias) == (0.5, 1.0)
    assert (entry.weights, entry.rank) == ("rows", 2)


def test_zero_for_layers_that_are_convolutions():
    for normalize in ("softmax", "l2", None):
        for rank in (1, 3, 6):
            layer = LowRankLocalConv2d(2, 2, 3, input_size=9, rank=rank, normalize=normalize)
            entry = invariance_report(layer)[""]
            assert (entry.distance, entry.effective_rank, entry.spatial_bias) == (0.0, 0.0, 0.0)
    # K independent bases around their mean: (1 - 1/K) of the variance over 1/K of it.
    layer = LowRankLocalConv2d(64, 64, 3, input_size=9, rank=4)
    assert invariance_report(layer)[""].basis_spread == pytest.approx(math.sqrt(3), rel=0.02)
    full = nn.Sequential(nn.Conv2d(2, 3, 3))
    entry = invariance_report(localize(full, torch.randn(1, 2, 8, 8), "full"))["0"]
    assert (entry.distance, entry.effective_rank, entry.rank) == (0.0, 0.0, None)


def test_half_precision_tables_are_read_in_full():
    layer = moved(LowRankLocalConv2d(2, 3, 3, input_size=8, rank=3)).to(torch.bfloat16)
    exact = copy.deepcopy(layer).double()
    assert invariance_report(layer)[""] == invariance_report(exact)[""]
    assert layer.weight.dtype is torch.bfloat16


def test_weights_that_depend_on_the_input():
    layer = LowRankLocalConv2d(2, 3, 3, dtype=torch.float64, input_size=8, rank=3, weights="input")
    net = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, dtype=torch.float64), moved(layer))
    report = invariance_report(net)
    assert report["1"].distance is report["1"].effective_rank is None
    assert "give images" in report.table()
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        weights = layer.combining_weights(net[0](x))
        kernels = torch.einsum("nkhw,kfcij->nhwfcij", weights, layer.bases).flatten(0, 1)
    distance, effective_rank = of_kernels(kernels)
    for images in (x, [x[:2], x[2:]]):
        entry = invariance_report(net, images)["1"]
        assert entry.distance == pytest.approx(distance, rel=1e-9)
        assert entry.effective_rank == pytest.approx(effective_rank, rel=1e-7)
    assert invariance_report(net, x, limit=2)["1"].distance != entry.distance


def test_one_dimension():
    layer = moved(LowRankLocalConv1d(2, 3, 3, dtype=torch.float64, input_size=9, rank=3))
    kernels = layer.combined_kernels()
    entry = invariance_report(layer)[""]
    expected = of_kernels(kernels[:, None])
    assert (entry.distance, entry.effective_rank) == pytest.approx(expected, rel=1e-9)
    full = invariance_report(layer.to_local())[""]
    assert (full.distance, full.effective_rank) == pytest.approx(expected, rel=1e-9)


def test_the_table_and_its_rows():
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
    local = localize(net, torch.randn(1, 2, 9, 9), 3)
    report = invariance_report(nn.DataParallel(local))
    assert [row["name"] for row in report.rows()] == ["0", "1.0"]
    assert json.loads(json.dumps(report.rows()))[0]["rank"] == 3
    assert len(report) == 2
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["layer", "weights", "rank"]
    assert lines[2].split()[:4] == ["0", "separable", "3", "0"]
    assert "convolution" in report.table()
    with pytest.raises(InputError, match=r"no local layer '2'; there are 0, 1.0"):
        report["2"]
    with pytest.raises(InputError, match="the network has no local layer"):
        invariance_report(net)


@pytest.mark.parametrize("normalize", ["softmax", "l2", None])
@pytest.mark.parametrize("weights", ["separable", "map", "input"])
@pytest.mark.parametrize("rank", [1, 3])
def test_there_and_back(weights, normalize, rank):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2),
        nn.Conv2d(4, 4, 3, bias=False),
    ).double()
    x = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    local = localize(net, x, rank, weights=weights, normalize=normalize)
    if weights == "input" and (normalize != "softmax" or rank > 1):
        reason = "depend on the input" if normalize != "softmax" else "differ over the positions"
        with pytest.raises(InputError, match=f"'0': the .*{reason}"):
            delocalize(local)
        return
    back = delocalize(local)
    assert [type(layer) for layer in back] == [nn.Conv2d, nn.Conv2d]
    for layer, original in zip(back, net, strict=True):
        assert repr(layer) == repr(original)
        assert torch.allclose(layer.weight, original.weight, rtol=1e-12, atol=1e-14)
    assert torch.allclose(back(x), net(x), rtol=1e-12, atol=1e-13)
    assert type(local[0]) is LowRankLocalConv2d


def test_rank_one_is_a_convolution_exactly():
    layer = moved(LowRankLocalConv2d(3, 4, 3, input_size=8, rank=1, spatial_bias=False))
    conv, x = layer.to_conv(), torch.randn(2, 3, 8, 8)
    assert torch.equal(conv.weight, layer.weight)
    assert torch.equal(conv.bias, layer.bias)
    assert conv.weight is not layer.weight
    assert torch.allclose(conv(x), layer(x), atol=1e-6)
    one = moved(LowRankLocalConv1d(3, 4, 3, input_size=8, rank=1, spatial_bias=False))
    assert type(one.to_conv()) is nn.Conv1d
    assert torch.equal(one.to_conv().weight, one.weight)


def test_what_is_no_convolution_says_how_far():
    layer = LowRankLocalConv2d(1, 1, 1, input_size=(2, 2), rank=2, weights="rows", normalize=None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([3.0, 1.0]).view(2, 1, 1, 1))
        layer.row_logits.copy_(torch.eye(2))
    with pytest.raises(
        InputError, match=r"kernels .* by up to 0.5 of their mean, .*tolerance=1e-06"
    ):
        layer.to_conv()
    assert layer.to_conv(tolerance=0.6).weight.item() == pytest.approx(2.0)
    layer = LowRankLocalConv2d(1, 2, 3, bias=False, input_size=8, rank=1)
    with torch.no_grad():
        layer.row_bias[2] = 0.3
    with pytest.raises(InputError, match=r"spatial bias .* by up to 0.25"):
        layer.to_conv()
    net = nn.Sequential(LowRankLocalConv2d(1, 2, 3, input_size=8, rank=1), layer)
    with pytest.raises(InputError, match="'1': the spatial bias"):
        delocalize(net, inplace=True)
    assert type(net[0]) is LowRankLocalConv2d


def test_a_constant_spatial_bias_is_a_bias():
    for bias in (True, False):
        layer = LowRankLocalConv2d(1, 2, 3, bias=bias, input_size=8, rank=1)
        assert (layer.to_conv().bias is None) == (not bias)
        with torch.no_grad():
            layer.row_bias += 0.5
        conv, x = layer.to_conv(), torch.randn(1, 1, 8, 8)
        assert conv.bias.tolist() == [0.5, 0.5]
        assert torch.allclose(conv(x), layer(x), atol=1e-6)


def test_locally_connected_layers_go_back_too():
    net, x = nn.Sequential(nn.Conv2d(2, 3, 3)), torch.randn(1, 2, 8, 8)
    full = localize(net, x, "full")
    back = delocalize(full)
    assert torch.equal(back[0].weight, net[0].weight)
    assert torch.equal(back[0].bias, net[0].bias)
    assert isinstance(to_conv(full[0]), nn.Conv2d)
    with torch.no_grad():
        full[0].bias[0, 0, 0] += 1
    with pytest.raises(InputError, match="spatial bias"):
        to_conv(full[0])
    with pytest.raises(InputError, match="kernels"):
        to_conv(LocalConv2d(2, 3, 3, input_size=8))


def test_going_back_keeps_what_hangs_on_a_layer():
    net, seen = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), []
    net[0].register_forward_hook(lambda m, *_: seen.append(type(m)))
    net = net.to(memory_format=torch.channels_last).eval()
    net[0].weight.requires_grad_(False)
    x = torch.randn(1, 2, 8, 8)
    local = localize(net, x, 1)
    assert delocalize(local, inplace=True) is local
    seen.clear()
    assert torch.allclose(local(x), net(x), atol=1e-6)
    assert seen == [nn.Conv2d, nn.Conv2d]
    assert local[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert (local[0].weight.requires_grad, local[0].bias.requires_grad) == (False, True)
    assert not hasattr(local[0], "rank")
    assert not local[0].training
    with pytest.raises(InputError, match="the network has no local layer"):
        delocalize(local)
    parametrized = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 3, 3)))
    back = delocalize(localize(parametrized, x, 1))
    assert type(back[0]) is nn.Conv2d
    assert torch.allclose(back(x), parametrized(x), atol=1e-6)


def tied_network(what):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1))
    for layer in net[1:] if what == "bias" else net[1:2]:
        setattr(layer, what, getattr(net[0], what))
    return net


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_ties_survive_there_and_back(what):
    net, x = tied_network(what), torch.randn(1, 3, 12, 12)
    for inplace in (False, True):
        back = delocalize(localize(net, x, 2), inplace=inplace)
        assert type(back[0]) is type(back[1]) is nn.Conv2d
        assert getattr(back[0], what) is getattr(back[1], what)
        assert torch.allclose(back(x), net(x), atol=1e-6)
        if what == "bias":
            assert back[2].bias is back[0].bias


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_ties_that_cannot_survive(what):
    local = localize(tied_network(what), torch.randn(1, 3, 12, 12), 2)
    with torch.no_grad():
        if what == "weight":
            # The second layer takes its first basis alone.
            local[1].row_logits[0] += 50
        else:
            local[1].row_bias += 0.5
    modules = list(local)
    reason = "'0' and '1' share their weight" if what == "weight" else "'1' shares its bias with 2"
    with pytest.raises(InputError, match=reason):
        delocalize(local, inplace=True)
    assert list(local) == modules
    if what == "bias":
        pair = nn.Sequential(*modules[:2])
        with pytest.raises(InputError, match="'0' and '1' share their bias and have become"):
            delocalize(pair)
