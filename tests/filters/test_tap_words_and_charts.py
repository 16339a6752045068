"""What is said of a tap profile, and what its charts show."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from convprior.filters import TapProfile, tap_profile
from convprior.filters.taps.chart import depth_chart
from convprior.filters.taps.conclusion import conclusion
from convprior.filters.taps.heat_maps import heat_maps


def network(*factors: float) -> nn.Sequential:
    """A layer a factor, by which its center is larger than its other taps."""
    generator = torch.Generator().manual_seed(0)
    layers = []
    for factor in factors:
        layer = nn.Conv2d(8, 64, 3)
        with torch.no_grad():
            layer.weight.normal_(generator=generator)
            layer.weight[..., 1, 1] *= factor
        layers.append(layer)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((2, 2), "The center is larger than the corners in all 2 layers (mean ratio "),
        ((2, 1, 2), "The center is larger than the corners in 2 of 3 layers (mean ratio "),
        ((0.5, 1), "The center is smaller than the corners in 1 of 2 layers (mean ratio "),
        ((2, 0.5, 1), "larger than the corners in 1 of 3 layers and smaller in 1 (mean ratio "),
        ((1, 1), "No layer's center is shown to differ from its corners (2 layers, mean ratio "),
        ((2,), "The center is larger than the corners (ratio "),
        ((1,), "The center is not shown to differ from the corners (ratio "),
    ],
)
def test_the_conclusion_comes_in_plain_words(factors: tuple[float, ...], words: str) -> None:
    profile = tap_profile(network(*factors))
    mean = math.exp(sum(math.log(layer.centre_corner or 0) for layer in profile) / len(profile))
    said = conclusion(profile)
    assert words in said
    assert said.endswith(f"ratio {mean:.2f}).")


def test_the_conclusion_tells_the_change() -> None:
    model = network(2, 2)
    assert "ratio 1.0" in conclusion(tap_profile(network(1, 1)))
    before = tap_profile(network(1, 1)).summary()[0]["centre_corner"]
    after = tap_profile(model).summary()[0]["centre_corner"]
    said = conclusion(tap_profile(model, initial=network(1, 1)))
    assert said.endswith(f"(mean ratio {before:.2f} → {after:.2f} in training).")


def test_other_kernels_have_a_conclusion_too() -> None:
    line = {"a.weight": torch.ones(4, 2, 5)}
    assert "from the ends (ratio 1.00)" in conclusion(tap_profile(line))
    both = line | {"b.weight": torch.ones(4, 2, 3, 3)}
    assert "from its ends or corners (2 layers, mean ratio 1.00)" in conclusion(tap_profile(both))
    assert "Every convolution is 1x1" in conclusion(tap_profile({"a.weight": torch.ones(4, 2, 1)}))
    zero = {"a.weight": torch.zeros(4, 2, 3, 3)}
    assert "No layer has a ratio" in conclusion(tap_profile(zero))


def test_small_maps_hold_their_numbers() -> None:
    source = {"a.weight": torch.ones(4, 2, 3, 3), "b.weight": torch.ones(4, 2, 7, 7)}
    chart = heat_maps(tap_profile(source)).to_dict()
    data = chart.get("data") or chart["spec"].get("data")
    rows = data["values"] if "values" in data else chart["datasets"][data["name"]]
    assert [row["text"] for row in rows] == ["1.00"] * 9 + [""] * 49
    colors = chart["spec"]["layer"][0]["encoding"]["color"]["scale"]["range"]
    assert [color.endswith(", 0)") for color in colors] == [False, True, True, False]


def panels(profile: TapProfile) -> list[dict[str, Any]]:
    chart: dict[str, Any] = depth_chart(profile).to_dict()
    return list(chart["hconcat"])


def scale_of(panel: dict[str, Any]) -> list[float]:
    domain: list[float] = panel["layer"][1]["encoding"]["x"]["scale"]["domain"]
    return domain


@pytest.mark.parametrize("center", [(0.01, 30, 1), (0.1, 3, 1)])
def test_a_wide_interval_leaves_room_for_the_others(center: tuple[float, ...]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), *network(1.1, 1.2, 1.3))
    with torch.no_grad():
        model[0].weight[:] = torch.ones(1, 3, 3)
        model[0].weight[:, 0, 1, 1] = torch.tensor(center)
    profile = tap_profile(model)
    span = profile["0"].intervals["centre_edge"]
    assert span is None or span[1] / max(span[0], 1e-9) > 10
    for panel in panels(profile):
        low, high = scale_of(panel)
        assert 0.2 < low < 1
        assert 1.3 < high < 4
        assert "triangle: the interval goes on" in str(panel)
        shapes = {layer["mark"].get("shape") for layer in panel["layer"]}
        assert "triangle-left" in shapes


def test_ordinary_intervals_are_whole() -> None:
    profile = tap_profile(network(1.1, 1.2, 1.3), initial=network(1, 1, 1))
    for panel, name in zip(panels(profile), ("centre_edge", "centre_corner"), strict=True):
        low, high = scale_of(panel)
        spans = [layer.intervals[name] for layer in profile]
        assert all(span is not None and low < span[0] < span[1] < high for span in spans)
        title = panel["layer"][-1]["encoding"]["x"]["title"]
        assert title[1:] == ["upright mark: before training"]
