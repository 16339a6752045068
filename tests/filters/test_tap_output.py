"""What a tap profile gives out: rows, files, summary, table and chart."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from convprior.errors import InputError
from convprior.filters import tap_profile
from convprior.models import create_model


def weights(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_rows_json_and_csv_hold_the_profile(tmp_path: Path):
    model = create_model("plain_cnn", small_input=True, width=8, seed=0)
    profile = tap_profile(model, initial=model)
    profile.save(tmp_path / "taps.json")
    saved = json.loads((tmp_path / "taps.json").read_text())
    assert saved["layers"] == profile.rows()
    assert (saved["confidence"], saved["draws"], saved["seed"]) == (0.95, 1000, 0)
    profile.save(tmp_path / "taps.csv")
    with (tmp_path / "taps.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, layer in zip(lines, profile, strict=True):
        assert float(line["centre_corner"]) == layer.centre_corner
        assert float(line["centre_edge_high"]) == layer.intervals["centre_edge"][1]
    assert not {"rms", "mean_abs"} & lines[0].keys()
    assert not any(text.startswith(("[", "{")) for line in lines for text in line.values())
    with pytest.raises(InputError, match=r"neither in \.json nor in \.csv"):
        profile.save(tmp_path / "taps.xlsx")
    with pytest.raises(KeyError):
        profile["absent"]


def test_the_summary_is_the_geometric_mean_of_each_group():
    model = create_model("mobilenet_v2", small_input=True, seed=0)
    profile = tap_profile(model, initial=model, draws=50)
    larger = [layer for layer in profile if layer.kind != "pointwise"]
    groups = {(g["group"], g["name"]): g for g in profile.summary()}

    def mean(layers, name="centre_corner"):
        return math.exp(np.mean([math.log(getattr(layer, name)) for layer in layers]))

    assert groups["layers", "all"]["layers"] == len(larger)
    assert groups["layers", "all"]["centre_corner"] == pytest.approx(mean(larger))
    assert groups["layers", "all"]["initial_centre_corner"] == pytest.approx(mean(larger))
    depthwise = [layer for layer in larger if layer.kind == "depthwise"]
    assert groups["kind", "depthwise"]["centre_edge"] == pytest.approx(
        mean(depthwise, "centre_edge")
    )
    strided = [layer for layer in larger if layer.stride == (2, 2)]
    assert groups["stride", "2"]["layers"] == len(strided) > 0
    thirds = [groups["depth", name] for name in ("first third", "middle third", "last third")]
    assert sum(third["layers"] for third in thirds) == len(larger)
    assert thirds[0]["centre_corner"] == pytest.approx(mean(larger[: thirds[0]["layers"]]))
    above = sum(layer.intervals["centre_corner"][0] > 1 for layer in larger)
    assert groups["layers", "all"]["above"] == above
    assert tap_profile(nn.Conv2d(3, 3, 1)).summary() == []


def test_the_table_is_aligned_and_stays_on_its_lines():
    profile = tap_profile(
        {"a\x1b[31m\n.weight": weights(8, 4, 3, 3), "b" * 90 + ".weight": weights(4, 4, 5, 5)}
    )
    lines = profile.table().splitlines()
    assert len({len(line) for line in lines[2:4]}) == 1
    assert "\x1b" not in profile.table()
    assert max(map(len, lines)) < 140
    assert repr(profile) == profile.table()
    start, end = profile[0].intervals["centre_edge"]
    assert f"{profile[0].centre_edge:.2f} [{start:.2f}, {end:.2f}]" in lines[2]


def test_the_chart_has_a_tile_a_tap_and_a_mark_a_layer():
    model = create_model("plain_cnn", small_input=True, width=8, seed=0)
    profile = tap_profile(model, initial=model, draws=20)
    spec = profile.chart().to_dict()
    maps, depth = spec["vconcat"]

    def rows(part):
        data = part["data"]
        return data.get("values") or spec["datasets"][data["name"]]

    tiles = rows(maps)
    assert len(tiles) == sum(layer.rms.numel() for layer in profile)
    first = [tile["power"] for tile in tiles if tile["order"] == 0]
    mean = profile[0].rms.square().mean().sqrt()
    assert first == pytest.approx((profile[0].rms / mean).log2().flatten().tolist())
    assert len(depth["hconcat"]) == 2
    marks = rows(depth["hconcat"][1]["layer"][-1])
    assert [mark["ratio"] for mark in marks] == [layer.centre_corner for layer in profile]
    assert [(m["low"], m["high"]) for m in marks] == [
        layer.intervals["centre_corner"] for layer in profile
    ]
    with pytest.raises(InputError, match="no taps to draw"):
        tap_profile(nn.Conv2d(3, 3, 1)).chart()
