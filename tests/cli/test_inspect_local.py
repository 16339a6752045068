"""``convprior inspect`` of networks with local layers: a table, maps, data."""

import json
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from convprior.__main__ import main
from convprior.lab.data import DataRecipe
from convprior.lab.train import BudgetRecipe, ConnectivityRecipe, ModelRecipe, Recipe, train
from convprior.local import LocalConv2d, LowRankLocalConv2d, combining_maps

IMAGE = "{http://www.w3.org/2000/svg}image"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def inspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["convprior", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, *capfd.readouterr())

    return run


def trained(folder: Path, **connectivity: object) -> Path:
    recipe = Recipe(
        DataRecipe(per_class=4),
        ModelRecipe("simple_local_net", width=4),
        connectivity=ConnectivityRecipe(**connectivity),  # type: ignore[arg-type]
        budget=BudgetRecipe(80, 20, "fp32", evaluations=0),
    )
    train(recipe, folder)
    return folder


@pytest.fixture(scope="module")
def low_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "low_rank", kind="low_rank", rank=2)


@pytest.fixture(scope="module")
def by_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "input"
    return trained(folder, kind="low_rank", rank=2, weights="input", layers="conv2")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "full", kind="local")


def table(text: str) -> dict[str, list[str]]:
    """The lines of the table of local layers, by the layer."""
    lines = text[text.index("effective rank") :].splitlines()[2:]
    return {line.split()[0]: line.split()[1:] for line in lines[: lines.index("")]}


def pictures(page: str) -> list[str]:
    """Every picture of a page's or file's SVG, which parses."""
    found = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    return [str(image.attrib) for root in found for image in root.iter(IMAGE)]


def test_a_run_shows_how_far_its_layers_are_from_convolutions(inspect: Run, low_rank: Path) -> None:
    result = inspect(low_rank)
    assert result.code == 0, result.err
    assert "Local layers: kernels differ between positions in 3 of 3, most in conv" in result.out
    found = table(result.out)
    assert list(found) == ["conv1", "conv2", "conv3"]
    assert all(line[:2] == ["separable", "2"] and float(line[2]) > 0 for line in found.values())
    assert "center/corner" in result.out  # the taps of the bases, as before
    assert list(table(inspect(low_rank, "--layers", "conv[12]").out)) == ["conv1", "conv2"]


def test_the_page_has_the_maps_and_loads_nothing(
    inspect: Run, low_rank: Path, full: Path, tmp_path: Path
) -> None:
    assert inspect(low_rank, full, "plain_cnn", "--out", "taps.html").code == 0
    page = (tmp_path / "taps.html").read_text()
    assert page.count("<h3>Where kernels differ</h3>") == 2
    maps = pictures(page)
    assert len(maps) == 3 * (1 + 2 + 1) + 3 * 2
    assert all("data:image/png;base64," in one for one in maps)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    assert "<script" not in page
    for link in ("http://", "https://"):
        assert page.replace("http://www.w3.org/", "").count(link) == 0


def test_images_are_those_of_the_run(
    inspect: Run, by_input: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert float(table(inspect(by_input, "--out", "taps.html").out)["conv2"][2]) >= 0
    page = (tmp_path / "taps.html").read_text()
    assert "mean over 64 images" in page
    assert len(pictures(page)) >= 2 + 3 * (2 + 1)
    recipe = json.loads((by_input / "recipe.json").read_text())
    recipe["data"]["source"] = "gone"
    recipe["model"]["small_input"] = True
    shutil.copytree(by_input, tmp_path / "moved")
    (tmp_path / "moved" / "recipe.json").write_text(json.dumps(recipe))
    without = inspect("moved")
    assert without.code == 0, without.err
    assert table(without.out)["conv2"][2] == "-"
    assert "their kernels depend on the image" in without.out


def test_a_network_of_local_layers_alone_has_no_taps(
    inspect: Run, full: Path, tmp_path: Path
) -> None:
    result = inspect(full, "--out", "maps.svg")
    assert result.code == 0, result.err
    assert "center" not in result.out
    assert list(table(result.out)) == ["conv1", "conv2", "conv3"]
    assert len(pictures((tmp_path / "maps.svg").read_text())) >= 3
    assert list(table(inspect(full, "--layers", "conv3").out)) == ["conv3"]
    assert inspect(full, "--out", "maps.html").code == 0
    refused = inspect(full, "--out", "taps.csv")
    assert refused.code == 1
    assert "no layer has taps, so taps.csv would be empty" in refused.err
    assert "'conv7' matches no" in inspect(full, "--layers", "conv7").err


def test_a_file_of_weights_is_enough(inspect: Run, low_rank: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes((low_rank / "weights.safetensors").read_bytes())
    result = inspect("w.safetensors", "--out", "maps.svg")
    assert result.code == 0, result.err
    assert table(result.out) == table(inspect(low_rank).out)
    assert len(pictures((tmp_path / "maps.svg").read_text())) == 3 * (1 + 2 + 1)


def test_the_data_are_those_of_the_library(inspect: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        LowRankLocalConv2d(1, 4, 3, input_size=8, rank=3, weights="map"),
        LocalConv2d(4, 2, 3, input_size=6),
    )
    with torch.no_grad():
        network.get_parameter("0.map_logits").normal_()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert inspect("w.safetensors", "--out", "all.json").code == 0
    (saved,) = json.loads((tmp_path / "all.json").read_text())["profiles"]
    assert [layer["name"] for layer in saved["layers"]] == ["0"]
    assert saved["local"]["maps"] == combining_maps(network).rows()
    assert [row["name"] for row in saved["local"]["invariance"]] == ["0", "1"]
    assert inspect("w.safetensors", "--out", "taps.csv").code == 0
    assert len((tmp_path / "taps.csv").read_text().splitlines()) == 2
