"""``convprior inspect``: tables, pictures and files of tap profiles, and errors of one sentence."""

import csv
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from convprior.__main__ import main
from convprior.filters import load_priors, measured_priors, tap_profile
from convprior.lab.data import DataRecipe
from convprior.lab.train import BudgetRecipe, ModelRecipe, Recipe, train
from convprior.models import create_model

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}\x1b[31m\n"


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


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "run"
    data = DataRecipe(per_class=4)
    budget = BudgetRecipe(40, 10, "fp32", evaluations=0)
    train(Recipe(data, ModelRecipe("plain_cnn", width=8), budget=budget), folder)
    return folder


@pytest.fixture(scope="module")
def hostile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "hostile.safetensors"
    torch.manual_seed(0)
    save_file(
        {
            f"{HOSTILE}.weight": torch.randn(8, 4, 3, 3),
            "datum.x;alert(1).weight": torch.randn(8, 1, 5, 5),
            "plain.weight": torch.randn(8, 4, 7),
            "deep.weight": torch.randn(4, 4, 3, 3, 3),
            "zero.weight": torch.zeros(4, 4, 3, 3),
            "head.weight": torch.randn(4, 4),
        },
        path,
    )
    return path


def test_a_run_is_compared_with_its_initial_weights(inspect: Run, run_folder: Path) -> None:
    result = inspect(run_folder, "--taps")
    assert result.code == 0, result.err
    assert "plain_cnn trained on digits, 40 examples" in result.out
    assert "initial" in result.out
    assert "--out taps.html" in result.out
    assert inspect(run_folder).out == result.out


def test_numbers_are_those_of_the_library(inspect: Run, tmp_path: Path) -> None:
    assert inspect("plain_cnn", "wrn10_1", "--out", "taps.json").code == 0
    saved = json.loads((tmp_path / "taps.json").read_text())
    assert [one["target"] for one in saved["profiles"]] == ["plain_cnn", "wrn10_1"]
    expected = tap_profile(create_model("plain_cnn", seed=0))
    assert saved["profiles"][0]["layers"] == expected.rows()
    assert inspect("plain_cnn", "wrn10_1", "--out", "taps.csv").code == 0
    with (tmp_path / "taps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["target"] for row in rows} == {"plain_cnn", "wrn10_1"}
    assert [float(row["centre_corner"] or 0) for row in rows[: len(expected)]] == [
        layer.centre_corner or 0 for layer in expected
    ]


def test_help_fits_the_terminal(inspect: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    result = inspect("--help")
    assert result.code == 0
    assert "--pretrained" in result.out
    assert max(map(len, result.out.splitlines())) <= 100


def test_layers_can_be_chosen(inspect: Run) -> None:
    out = inspect("resnet18", "--layers", "layer1.0.*", "--layers", "conv1").out
    assert "layer1.0.conv2" in out
    assert "layer1.1" not in out


def test_the_page_is_whole_and_names_do_not_act(
    inspect: Run, hostile_file: Path, run_folder: Path, tmp_path: Path
) -> None:
    result = inspect(hostile_file, run_folder, "--out", "taps.html")
    assert result.code == 0, result.err
    assert "\x1b" not in result.out
    page = (tmp_path / "taps.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page  # not evaluated
    assert "default-src 'none'" in page
    for link in ("http://", "https://"):
        assert page.replace("http://www.w3.org/", "").count(link) == 0
    assert page.count("<svg") == 4
    assert page.count("<h2>") == 2
    assert "upright marks: the same layer before training" in page
    assert "all weights are zero" in page
    start = 0
    for _ in range(4):
        begin = page.index("<svg", start)
        start = page.index("</svg>", begin) + len("</svg>")
        ET.fromstring(page[begin:start])


def test_a_picture_of_several_networks(inspect: Run, hostile_file: Path, tmp_path: Path) -> None:
    assert inspect(hostile_file, "plain_cnn", "--out", "taps.svg").code == 0
    root = ET.fromstring((tmp_path / "taps.svg").read_text())
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("plain_cnn" in text for text in texts)
    assert sum("center/corner" in text for text in texts) >= 4
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


@pytest.mark.parametrize("per", ["layer", "kernel_size"])
def test_a_prior_is_kept_for_recipes(
    inspect: Run, run_folder: Path, tmp_path: Path, per: str
) -> None:
    found = inspect(run_folder, run_folder, "--save-prior", "priors.safetensors", "--per", per)
    assert found.code == 0
    assert "prior saved: priors.safetensors" in found.out
    priors = load_priors(tmp_path / "priors.safetensors")
    expected = measured_priors(run_folder, per=per)
    assert priors.keys() == expected.keys()
    for name, prior in priors.items():
        torch.testing.assert_close(prior.covariance, expected[name].covariance)


def test_a_singular_prior_says_what_it_is_good_for(inspect: Run, tmp_path: Path) -> None:
    model = create_model("plain_cnn", in_chans=1, small_input=True, width=8, seed=0)
    save_file(model.state_dict(), tmp_path / "gray.safetensors")
    said = inspect("gray.safetensors", "--save-prior", "p.safetensors").out
    assert (
        "conv1.0: 8 filters for 9 taps, so it has no precision: good for initial weights only; "
        "add --shrinkage 0.1 to decay by it\n"
    ) in said
    assert load_priors(tmp_path / "p.safetensors")["conv1.0"].is_singular
    said = inspect("gray.safetensors", "--save-prior", "p.safetensors", "--shrinkage", "0.1").out
    assert "no precision" not in said
    expected = measured_priors(model, per="layer", shrinkage=0.1)
    for name, prior in load_priors(tmp_path / "p.safetensors").items():
        torch.testing.assert_close(prior.covariance, expected[name].covariance)


def test_the_conclusion_comes_first(inspect: Run, run_folder: Path, tmp_path: Path) -> None:
    out = inspect(run_folder, "--out", "taps.html").out
    second = out.splitlines()[1]
    assert "center" in second
    assert "→" in second
    assert (
        f'<p class="lead">{second}</p>'.replace("'", "&#39;")
        in (tmp_path / "taps.html").read_text()
    )


def test_a_networks_name_tells_the_strides_of_a_file(inspect: Run, tmp_path: Path) -> None:
    model = create_model("resnet18", 7, 1, small_input=True, width=64, seed=0)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert "strides are unknown" in inspect("w.safetensors").out
    out = inspect("w.safetensors", "--model", "resnet18", "--out", "a.json").out
    assert "as resnet18" in out
    layers = json.loads((tmp_path / "a.json").read_text())["profiles"][0]["layers"]
    assert [one["stride"] for one in layers] == [one["stride"] for one in tap_profile(model).rows()]
    # A folder with one such file is that file.
    assert "strides are unknown" in inspect(tmp_path).out


def test_published_weights_of_timm(inspect: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from convprior.lab.report import targets

    asked = {}

    def create(name: str, **options: object) -> object:
        asked.update(options)
        return create_model(name, seed=3)

    monkeypatch.setattr(targets, "create_model", create)
    assert "published weights" in inspect("timm:resnet10t", "--pretrained").out
    assert asked == {"pretrained": True}

    def offline(name: str, **options: object) -> object:
        if options:
            raise OSError("no route to host\nand more lines")
        return create_model(name)

    monkeypatch.setattr(targets, "create_model", offline)
    result = inspect("timm:resnet10t", "--pretrained")
    assert result.code == 1
    assert "could not be loaded (no route to host); try again with a connection" in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet19"], "resnet18"),
        (["timm:resnet10x"], "timm:resnet10t"),
        (["runs/absent/cell"], "there is no file or folder runs/absent/cell"),
        (["resnet18", "--pretrained"], "--pretrained means"),
        (["resnet18", "--model", "resnet18"], "is no file"),
        (["resnet18", "--layers", "stem"], "'stem' matches no convolution"),
        (["resnet18", "--out", "taps.png"], ".html, .svg"),
        (["linear.safetensors"], "linear.safetensors has no convolution"),
        (["odd.safetensors"], "could not read odd.safetensors"),
        (["odd.pt"], "pickle"),
        (["od.safetensors"], "odd.safetensors"),
        (["unfinishd"], "unfinished"),
        (["conv.safetensors", "--model", "resnet18"], "resnet18: there is no layer conv1, which"),
        (["narrow.safetensors", "--model", "plain_cnn"], "conv1.0 has 8 filters where plain_cnn"),
        (["narrow.safetensors", "--model", "plain_cnn"], "another width; give the run's folder"),
        (["resnet18", "--shrinkage", "0.1"], "add --save-prior FILE"),
        (["resnet18", "--save-prior", "p", "--shrinkage", "2"], "give a share from 0 to 1"),
        (["."], "holds 4 safetensors files"),
        (["unfinished"], "not finished"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(
    inspect: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    save_file({"fc.weight": torch.ones(3, 3)}, tmp_path / "linear.safetensors")
    save_file({"c.weight": torch.ones(3, 3, 3, 3)}, tmp_path / "conv.safetensors")
    narrow = create_model("plain_cnn", small_input=True, width=8, seed=0)
    save_file(narrow.state_dict(), tmp_path / "narrow.safetensors")
    for name in ("odd.safetensors", "odd.pt"):
        (tmp_path / name).write_bytes(b"no tensors")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.json").write_text("{}")
    result = inspect(*arguments)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "taps.png").exists()


def test_a_study_folder_says_where_its_runs_are(inspect: Run, run_folder: Path) -> None:
    assert str(run_folder) in inspect(run_folder.parent).err
