"""The maps of local layers are those of the kernels themselves, and each is a picture of pixels."""

import base64
import json
import struct
import xml.etree.ElementTree as ET
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convprior.errors import InputError
from convprior.lab.report.drawing import render
from convprior.local import (
    LocalConv1d,
    LocalConv2d,
    LowRankLocalConv1d,
    LowRankLocalConv2d,
    combining_maps,
)
from convprior.local.learned.chart import draw_maps
from convprior.local.learned.invariance import invariance_report
from convprior.local.learned.pixels import Palette, colored, photograph
from convprior.local.learned.tables import layers_of_weights

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
FIXED = ("separable", "map", "rows", "columns")


def stirred(layer: nn.Module, seed: int = 0) -> Any:
    """With random tables, so that every position differs."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layer.double()


def low_rank(weights: str, rank: int = 3, **more: Any) -> LowRankLocalConv2d:
    layer = LowRankLocalConv2d(2, 4, 3, input_size=(8, 10), rank=rank, weights=weights, **more)
    return stirred(layer)


def distance(kernels: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Of the kernels (..., F, C, kh, kw) from their mean over ``axes``, relative to it."""
    mean = kernels.mean(axes, keepdim=True)
    away = (kernels - mean).flatten(-4).square().sum(-1)
    return away / mean.square().sum()


@pytest.mark.parametrize("normalize", ["softmax", "l2", None])
@pytest.mark.parametrize("weights", FIXED)
def test_the_maps_are_those_of_the_kernels(weights, normalize):
    layer = low_rank(weights, normalize=normalize)
    (found,) = combining_maps(layer)
    torch.testing.assert_close(found.combining, layer.combining_weights().detach())
    torch.testing.assert_close(found.bias, layer.spatial_bias_map().detach())
    expected = distance(layer.combined_kernels().detach(), (0, 1)).sqrt()
    torch.testing.assert_close(found.distance, expected)


def test_input_weights_are_averaged_over_all_images_of_all_batches():
    layer = low_rank("input")
    x = torch.randn(7, 2, 8, 10, dtype=torch.float64)
    maps = combining_maps(layer, [(x[:3], 0), (x[3:4], 0), (x[4:], 0)], examples=5)
    (found,) = maps
    weights = layer.combining_weights(x).detach()
    torch.testing.assert_close(found.combining, weights.mean(0))
    torch.testing.assert_close(found.examples, weights[:5])
    torch.testing.assert_close(maps.pictures, x[:5])
    kernels = torch.einsum("nkhw,kfcij->nhwfcij", weights, layer.bases.detach())
    expected = distance(kernels, (0, 1, 2)).mean(0).sqrt()
    torch.testing.assert_close(found.distance, expected)
    assert maps.images == 7


def test_input_weights_without_images_are_unknown():
    (found,) = combining_maps(low_rank("input"))
    assert found.combining is None
    assert found.distance is None
    assert found.mean_distance is None
    assert found.bias is not None


def test_a_layer_of_own_kernels_and_one_dimension():
    full = stirred(LocalConv2d(2, 3, 3, input_size=6))
    line = stirred(LowRankLocalConv1d(2, 3, 3, input_size=9, rank=2, weights="map"))
    fullline = stirred(LocalConv1d(2, 3, 3, input_size=9))
    maps = combining_maps(nn.ModuleDict({"a": full, "b": line, "c": fullline}))
    assert [layer.size for layer in maps] == [(4, 4), (1, 7), (1, 7)]
    expected = distance(full.weight.detach(), (0, 1)).sqrt()
    torch.testing.assert_close(maps["a"].distance, expected)
    torch.testing.assert_close(maps["a"].bias, full.bias.detach().mean(0))
    torch.testing.assert_close(maps["b"].combining[:, 0], line.combining_weights().detach())
    assert maps["c"].bias.shape == (1, 7)


@given(rank=st.integers(1, 5), weights=st.sampled_from([*FIXED, "input"]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_picture_and_the_table_say_the_same(rank, weights, seed):
    layer = stirred(LowRankLocalConv2d(2, 4, 3, input_size=7, rank=rank, weights=weights), seed)
    x = torch.randn(4, 2, 7, 7, dtype=torch.float64)
    (found,) = combining_maps(layer, x)
    (expected,) = invariance_report(layer, x)
    assert found.mean_distance == pytest.approx(expected.distance, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("weights", [*FIXED, "input"])
def test_a_fresh_layer_is_a_convolution(weights):
    layer = LowRankLocalConv2d(2, 4, 3, input_size=8, rank=4, weights=weights)
    (found,) = combining_maps(layer, torch.randn(5, 2, 8, 8))
    assert found.mean_distance == 0
    torch.testing.assert_close(found.combining, torch.full((4, 6, 6), 0.25, dtype=torch.float64))


def test_the_network_is_left_as_it_is_and_names_are_its_own():
    inner = nn.Sequential(nn.Dropout(0.5), LowRankLocalConv2d(2, 4, 3, input_size=8, rank=2))
    wrapped = nn.DataParallel(inner)
    maps = combining_maps(wrapped)
    assert [layer.name for layer in maps] == ["1"]
    assert inner.training
    with pytest.raises(InputError, match="no local layer"):
        combining_maps(nn.Conv2d(1, 1, 3))
    with pytest.raises(KeyError):
        maps["2"]
    assert maps[0:1] == (maps[0],)


def test_rows_are_plain_data():
    rows = combining_maps(low_rank("map")).rows()
    (row,) = json.loads(json.dumps(rows))
    assert np.shape(row["combining"]) == (3, 6, 8)
    assert row["name"] == ""


def pixels(uri: str) -> np.ndarray:
    """Reads back what :func:`convprior.local.learned.pixels.png` writes."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, {}
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        found[kind] = data[at + 8 : at + 8 + size]
        (check,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert check == zlib.crc32(kind + found[kind])
        at += 12 + size
    width, height = struct.unpack(">II", found[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 4)


def test_the_middle_has_no_color_and_the_ends_the_strongest():
    palette = Palette(0.5, 0.25, 0.5, "#0000ff", "#ff0000")
    rgba = pixels(colored(torch.tensor([[0.5, 0.25, 0.0], [0.75, 1.0, 9.0]]), palette))
    full = round(0.85 * 255)
    assert rgba[0].tolist() == [[0, 0, 0, 0], [0, 0, 255, full], [0, 0, 255, full]]
    assert rgba[1].tolist() == [[255, 0, 0, 108], [255, 0, 0, full], [255, 0, 0, full]]
    assert palette.ends == [0.25, 0.5, 1.0]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_photograph_reaches_from_black_to_white(channels):
    image = torch.arange(channels * 6.0).view(channels, 2, 3) - 4
    rgba = pixels(photograph(image))
    assert rgba.shape == (2, 3, 4)
    assert rgba[..., :3].min() == 0
    assert rgba[..., :3].max() == 255
    assert (rgba[..., 3] == 255).all()
    assert pixels(photograph(torch.ones(3, 2, 2)))[..., :3].max() == 0


def drawn(network: nn.Module, x: torch.Tensor | None = None) -> tuple[list[str], list[str]]:
    """Pictures and texts of the chart."""
    svg = render(draw_maps(combining_maps(network, x)))
    root = ET.fromstring(svg)
    images = [node.attrib[HREF] for node in root.iter(f"{SVG}image")]
    assert all(uri.startswith("data:image/png;base64,") for uri in images)
    return images, ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]


def test_the_chart_has_a_picture_of_each_map():
    layer = low_rank("separable", rank=10)
    images, texts = drawn(layer)
    assert len(images) == 10 + 2
    assert {"basis 10", "spatial bias", "distance", "combining weight; no color: 1/10"} <= {*texts}
    weights = layer.combining_weights().detach()
    strong = pixels(images[1])[..., 3] > 200
    assert strong.any()
    assert (weights[0][torch.from_numpy(strong.copy())] - 0.1).abs().min() > 0.05


def test_the_chart_of_input_weights_shows_single_images():
    images, texts = drawn(low_rank("input"), torch.randn(6, 2, 8, 10))
    assert len(images) == 1 + 3 + 3 * (3 + 1) + 1
    assert {"mean over 6 images", "single images", "image"} <= set(texts)
    _, texts = drawn(low_rank("input"))
    assert any("give images to see them" in text for text in texts)


def test_every_kind_of_layer_is_drawn():
    one = LowRankLocalConv2d(2, 4, 3, input_size=8, rank=1, spatial_bias=False)
    line = stirred(LowRankLocalConv1d(2, 3, 3, input_size=90, rank=2, weights="map"))
    network = nn.ModuleDict(
        {
            "fresh": one,
            "line": line,
            "signed": low_rank("map", normalize=None),
            "full": stirred(LocalConv2d(2, 3, 3, input_size=6, bias=False)),
            "</script>\x1b[31m": low_rank("rows", rank=2),
            "unseen": LowRankLocalConv2d(
                2, 4, 3, input_size=8, rank=2, weights="input", spatial_bias=False
            ),
        }
    )
    _, texts = drawn(network)
    assert "5. </script>?[31m" in texts
    assert any("the same kernel everywhere" in text for text in texts)
    assert combining_maps(network).chart().to_dict()["vconcat"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weights", FIXED)
def test_weights_by_name_are_enough(weights, bias):
    layer = low_rank(weights, spatial_bias=bias, groups=2, padding=1, stride=2)
    network = nn.ModuleDict({"a": nn.ModuleDict({"b": layer}), "c": nn.Conv2d(2, 2, 3)})
    found = layers_of_weights(network.state_dict())
    (one,) = combining_maps(found)
    (expected,) = combining_maps(network)
    assert one.name == "a.b"
    torch.testing.assert_close(one.distance.expand(expected.size), expected.distance)
    torch.testing.assert_close(one.combining.expand(-1, *expected.size), expected.combining)
    assert (one.bias is None) == (not bias)


def test_layers_of_weights_finds_nothing_else():
    full = stirred(LocalConv2d(2, 3, 3, input_size=6))
    line = stirred(LowRankLocalConv1d(2, 3, 3, input_size=9, rank=2, weights="map"))
    network = nn.ModuleDict(
        {"full": full, "line": line, "conv": nn.Conv2d(2, 2, 3), "gate": low_rank("input")}
    )
    weights = network.state_dict()
    found = combining_maps(layers_of_weights(weights))
    assert [layer.name for layer in found] == ["full", "line"]
    torch.testing.assert_close(found[0].distance, combining_maps(full)[0].distance)
    torch.testing.assert_close(found[1].combining, combining_maps(line)[0].combining)
    del weights["line.map_logits"], weights["full.bias"]
    weights["conv.row_logits"] = torch.ones(3, 4)  # a table of another rank is no layer
    assert [layer.name for layer in combining_maps(layers_of_weights(weights))] == ["full"]
    assert not list(layers_of_weights({}).children())
