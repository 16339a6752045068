"""The tap profile against its definition, for every kind of layer and every source."""

import copy
import doctest
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.stats import spearmanr
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from convprior.errors import InputError
from convprior.filters import tap_distances, tap_profile
from convprior.filters.taps.rank_correlation import distance_correlation
from convprior.filters.taps.reference import reference_taps
from convprior.filters.taps.regions import tap_regions
from convprior.models import create_model


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def one(weight: torch.Tensor, **options):
    return tap_profile({"conv.weight": weight}, **options)[0]


def conv(kernel=3, **options) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(8, 16, kernel, **options)


def test_the_example_in_the_docstring():
    module = sys.modules["convprior.filters.taps.profile"]
    result = doctest.testmod(module, globs={**vars(module), "torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    filters=st.integers(1, 4),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_ratios_agree_with_the_definition(sizes, filters, channels, seed):
    weight = weights(filters, channels, *sizes, seed=seed)
    found = one(weight, draws=3)
    for name, value in reference_taps(weight).items():
        assert getattr(found, name) == (None if value is None else pytest.approx(value, rel=1e-12))
    assert torch.allclose(found.rms, weight.square().mean((0, 1)).sqrt(), rtol=1e-12)
    assert torch.allclose(found.mean_abs, weight.abs().mean((0, 1)), rtol=1e-12)


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (5, 5), (1, 7), (2, 3), (9,), (3, 3, 3), (4, 6)])
def test_equal_taps_have_ratio_one_and_their_share(size):
    found = one(torch.full((6, 2, *size), -0.3))
    center = math.prod(1 if k % 2 else 2 for k in size)
    assert found.centre_edge == pytest.approx(1, abs=1e-12)
    assert found.centre_corner in (None, pytest.approx(1, abs=1e-12))
    assert found.centre_share == pytest.approx(center / math.prod(size))
    assert found.uniform_share == pytest.approx(center / math.prod(size))
    assert found.intervals["centre_edge"] == pytest.approx((1.0, 1.0))
    assert found.spearman is None


@pytest.mark.parametrize("size", [3, 5, 7])
def test_a_scaled_center_scales_the_ratios(size):
    weight = torch.ones(4, 3, size, size)
    weight[..., size // 2, size // 2] = -1.75
    found = one(weight)
    assert found.centre_edge == pytest.approx(1.75, rel=1e-6)
    assert found.centre_corner == pytest.approx(1.75, rel=1e-6)
    assert found.centre_share == pytest.approx(1.75**2 / (1.75**2 + size**2 - 1), rel=1e-6)
    assert found.spearman < 0


@pytest.mark.parametrize(
    ("size", "center", "edge", "corner"),
    [
        ((3, 3), {(1, 1)}, {(0, 1), (1, 0), (1, 2), (2, 1)}, {(0, 0), (0, 2), (2, 0), (2, 2)}),
        ((5, 5), {(2, 2)}, {(0, 2), (2, 0), (2, 4), (4, 2)}, {(0, 0), (0, 4), (4, 0), (4, 4)}),
        (
            (4, 4),
            {(1, 1), (1, 2), (2, 1), (2, 2)},
            {(0, 1), (0, 2), (1, 0), (2, 0), (1, 3), (2, 3), (3, 1), (3, 2)},
            {(0, 0), (0, 3), (3, 0), (3, 3)},
        ),
        ((1, 7), {(0, 3)}, {(0, 0), (0, 6)}, set()),
        ((2, 3), {(0, 1), (1, 1)}, {(0, 0), (1, 0), (0, 2), (1, 2)}, set()),
        ((4,), {(1,), (2,)}, {(0,), (3,)}, set()),
        ((1, 1), {(0, 0)}, set(), set()),
        ((2, 2), {(0, 0), (0, 1), (1, 0), (1, 1)}, set(), set()),
    ],
)
def test_where_center_edge_and_corner_are(size, center, edge, corner):
    regions = tap_regions(size)
    for taps, expected in (
        (regions.center, center),
        (regions.edge, edge),
        (regions.corner, corner),
    ):
        places = {tuple(int(i) for i in torch.unravel_index(tap, size)) for tap in taps}
        assert places == expected


def test_three_axes_have_six_faces_and_eight_corners():
    regions = tap_regions((3, 5, 3))
    assert (len(regions.center), len(regions.edge), len(regions.corner)) == (1, 6, 8)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 6), min_size=1, max_size=3),
    levels=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_rank_correlation_with_ties_is_scipys(sizes, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-levels, levels + 1, (5, 4, *sizes), generator=generator).double()
    distance = tap_distances(tuple(sizes)).flatten().repeat(20).numpy()
    size = weight.abs().flatten().numpy()
    found = distance_correlation(weight)
    if np.ptp(distance) == 0 or np.ptp(size) == 0:
        assert found is None
    else:
        expected = spearmanr(size, distance).statistic
        assert found == pytest.approx(expected, abs=1e-12)
        assert distance_correlation(weight.float()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", [(64, 32, 3, 3), (16, 16, 7, 7), (40, 20, 9)])
def test_rank_correlation_of_any_weights_is_scipys_to_four_digits(shape):
    # 13 significant bits: a rank moves by at most the share of weights in one bin (about 1e-4).
    weight = weights(*shape) * torch.exp(-tap_distances(shape[2:]) / 3)
    distance = tap_distances(shape[2:]).flatten().repeat(shape[0] * shape[1]).numpy()
    expected = spearmanr(weight.abs().flatten().numpy(), distance).statistic
    assert distance_correlation(weight) == pytest.approx(expected, abs=1e-4)


def test_kinds_strides_and_filters():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.Conv2d(8, 16, 3, stride=2, groups=4),
        nn.Conv2d(16, 32, 3, groups=16),
        nn.Conv2d(32, 8, 1, stride=2),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.Linear(3, 3),
        nn.Conv1d(6, 4, 5, stride=3),
        nn.Conv3d(2, 4, (3, 1, 2)),
        nn.ConvTranspose1d(4, 4, 3, groups=4),
    )
    profile = tap_profile(model, draws=5)
    assert [layer.kind for layer in profile] == [
        "dense",
        "grouped",
        "depthwise",
        "pointwise",
        "transposed grouped",
        "dense",
        "dense",
        "transposed depthwise",
    ]
    assert [layer.filters for layer in profile] == [8, 16, 32, 8, 6, 4, 4, 4]
    assert profile[1].stride == (2, 2)
    assert profile["6"].stride == (3,)
    assert profile[3].centre_edge is profile[3].centre_share is profile[3].spearman is None
    assert profile[3].intervals == {}
    assert "1 layer whose taps are all equally far" in profile.table()
    weight = model[4].weight.detach()
    first = torch.cat([weight[:4].transpose(0, 1), weight[4:].transpose(0, 1)])
    expected = one(first, draws=5)
    assert profile["4"].centre_corner == pytest.approx(expected.centre_corner)
    assert profile["4"].filters == len(first)


def test_depthwise_is_seen_in_a_state_dict_and_linear_layers_are_not_convolutions():
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3), nn.Linear(4, 4)
    )
    profile = tap_profile(model.state_dict(), draws=5)
    assert [layer.kind for layer in profile] == ["depthwise", "pointwise", "dense"]
    assert all(layer.stride is None for layer in profile)


def test_every_source_gives_the_same_numbers(tmp_path: Path):
    model = create_model("plain_cnn", small_input=True, width=8, seed=0)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    wrapped = nn.DataParallel(model)
    sources = [
        model.state_dict(),
        tmp_path / "weights.safetensors",
        str(tmp_path / "weights.safetensors"),
        torch.compile(model),
        wrapped,
        wrapped.state_dict(),
        torch.compile(model).state_dict(),
        copy.deepcopy(model).to(torch.float64),
    ]
    expected = tap_profile(model, draws=50)
    for source in sources:
        for found, layer in zip(tap_profile(source, draws=50), expected, strict=True):
            assert found.name == layer.name
            assert found.centre_corner == pytest.approx(layer.centre_corner, rel=1e-6)
            assert found.intervals["centre_edge"] == pytest.approx(layer.intervals["centre_edge"])
            assert found.spearman == pytest.approx(layer.spearman, abs=1e-4)


def test_timm_networks():
    profile = tap_profile(create_model("timm:mobilenetv3_small_050", seed=0), draws=20)
    assert {layer.kind for layer in profile} == {"dense", "depthwise", "pointwise"}
    assert {layer.kernel_size for layer in profile} >= {(1, 1), (3, 3), (5, 5)}


def test_half_precision_and_tiny_weights():
    weight = weights(16, 8, 3, 3)
    expected = one(weight)
    assert one(weight.to(torch.bfloat16)).centre_corner == pytest.approx(
        expected.centre_corner, rel=1e-2
    )
    assert one(weight * 1e-200).centre_corner == pytest.approx(expected.centre_corner)
    tiny = one((weight * 1e-30).float())
    assert tiny.centre_corner == pytest.approx(expected.centre_corner, rel=1e-5)
    assert tiny.rms.max() == pytest.approx(1e-30 * float(expected.rms.max()), rel=1e-5)


def test_a_parametrized_weight_is_measured_as_it_acts():
    layer = conv()
    effective = layer.weight.detach().clone()
    normed = weight_norm(layer)
    assert tap_profile(normed)[0].centre_edge == pytest.approx(one(effective).centre_edge, rel=1e-5)
    with pytest.raises(InputError, match="part of a parametrized weight"):
        tap_profile(normed.state_dict())


def test_tied_weights_appear_once():
    model = nn.Sequential(conv(), nn.Conv2d(8, 16, 3), conv())
    model[1].weight = model[0].weight
    assert [layer.name for layer in tap_profile(model, draws=5)] == ["0", "2"]
    assert [layer.name for layer in tap_profile(model.state_dict(), draws=5)] == ["0", "2"]


@pytest.mark.parametrize("form", ["module", "state dict"])
def test_layers_are_chosen_by_name_and_pattern(form):
    model = create_model("resnet18", small_input=True, width=8, seed=0)
    source = model if form == "module" else model.state_dict()
    names = [layer.name for layer in tap_profile(source, include="layer1", draws=2)]
    assert names == [f"layer1.{block}.conv{i}" for block in (0, 1) for i in (1, 2)]
    kept = tap_profile(source, include=["layer1.*", "conv1"], exclude="*.conv2", draws=2)
    assert [layer.name for layer in kept] == ["conv1", "layer1.0.conv1", "layer1.1.conv1"]
    with pytest.raises(InputError, match="'stem' matches no convolution"):
        tap_profile(source, include="stem")


def test_the_initial_weights_are_the_baseline():
    before, model = conv(), conv()
    with torch.no_grad():
        model.weight[..., 1, 1] *= 3
    layer = tap_profile(model, initial=before.state_dict())[0]
    assert layer.initial.centre_edge == pytest.approx(tap_profile(before)[0].centre_edge)
    assert layer.relative("centre_edge") == pytest.approx(3, rel=1e-6)
    assert layer.relative("centre_corner") == pytest.approx(3, rel=1e-6)
    assert layer.relative("center_edge") == layer.relative("centre_edge")
    with pytest.raises(InputError, match="'corner' is unknown"):
        layer.relative("corner")
    alone = tap_profile(model)[0]
    assert alone.initial is None
    assert alone.relative("centre_edge") == alone.centre_edge  # the null is exactly 1
    for other in (nn.Sequential(before), conv(5)):
        with pytest.raises(InputError, match="give the same network before training"):
            tap_profile(model, initial=other)


def test_zero_taps_are_said_and_not_divided_by():
    weight = weights(8, 4, 3, 3)
    no_corner = weight.clone()
    no_corner[..., ::2, ::2] = 0
    found = one(no_corner)
    assert found.centre_corner is None
    assert found.intervals["centre_corner"] is None
    assert found.note == "zero in every filter: corner"
    assert found.centre_edge is not None
    assert one(torch.zeros(8, 4, 3, 3)).note == "all weights are zero"
    assert one(weight[:1]).note == "one filter, so no interval"
    sparse = torch.zeros(40, 1, 3, 3)
    sparse[0] = 1
    assert one(sparse).note == "no interval: few filters are not zero"
    assert one(sparse).centre_edge == 1
    assert "all weights are zero" in tap_profile({"a.weight": torch.zeros(2, 2, 3, 3)}).table()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value):
    model = nn.Sequential(conv(), conv())
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0] = value
    for source in (model, model.state_dict()):
        with pytest.raises(InputError, match="1 of 1152 weights of '1' are not finite"):
            tap_profile(source)


def test_what_cannot_be_profiled_is_one_sentence(tmp_path: Path):
    with pytest.raises(InputError, match="no convolution"):
        tap_profile(nn.Linear(3, 3))
    with pytest.raises(InputError, match="no convolution"):
        tap_profile({"fc.weight": torch.ones(3, 3)})
    with pytest.raises(InputError, match="holds no values"):
        tap_profile(nn.Conv2d(3, 3, 3, device="meta"))
    with pytest.raises(InputError, match="is a dict and no tensor"):
        tap_profile({"model": {}})
    (tmp_path / "x.safetensors").write_bytes(b"PK not one of these")
    with pytest.raises(InputError, match=r"could not read .*x\.safetensors"):
        tap_profile(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"no file or folder .*absent\.safetensors"):
        tap_profile(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="confidence is 95"):
        tap_profile(conv(), confidence=95)
    with pytest.raises(InputError, match="draws is 0"):
        tap_profile(conv(), draws=0)
    with pytest.raises(InputError, match="exclude leave no convolution"):
        tap_profile({"a.weight": torch.ones(2, 2, 3, 3)}, exclude="a")
