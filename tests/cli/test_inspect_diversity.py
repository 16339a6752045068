"""``convprior inspect --diversity``: of runs, files and networks by name; pages, data, errors."""

import csv
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from convprior.__main__ import main
from convprior.diagnose import feature_diversity
from convprior.errors import InputError, RunError
from convprior.lab.data import DataRecipe, batches, prepare
from convprior.lab.report import targets
from convprior.lab.train import BudgetRecipe, ModelRecipe, Recipe, load_run, train
from convprior.models import create_model

HOSTILE = "<script>alert(1)</script>"


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
    folder = tmp_path_factory.mktemp("study") / f"{HOSTILE[1:7]} {{{{ 7 * 7 }}}} & run"
    budget = BudgetRecipe(600, 30, "fp32", evaluations=0)
    train(
        Recipe(DataRecipe(per_class=30), ModelRecipe("plain_cnn", width=8), budget=budget), folder
    )
    return folder


def test_a_run_brings_its_images(inspect: Run, run_folder: Path) -> None:
    result = inspect(run_folder, "--diversity", "--out", "d.json")
    assert result.code == 0, result.err
    assert "plain_cnn trained on digits, 600 examples; images: digits (test)" in result.out
    assert "AUROC" in result.out.splitlines()[1]
    (saved,) = json.loads(Path("d.json").read_text())["networks"]
    network, recipe = load_run(run_folder)
    data = prepare(recipe.data)
    loader = list(batches(data.evaluation, 500, mean=data.mean, std=data.std))
    expected = feature_diversity(network, loader)
    assert saved["layers"] == json.loads(json.dumps(expected.rows()))
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert saved["accuracy"] == metrics["accuracy"]
    assert saved["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
    assert (saved["target"], saved["data"]) == (str(run_folder), "digits (test)")


def test_several_networks_in_one_table(inspect: Run, run_folder: Path) -> None:
    result = inspect(run_folder, run_folder, "--diversity", "--layers", "conv?", "--out", "d.csv")
    assert result.code == 0, result.err
    assert sum(line.startswith("network") for line in result.out.splitlines()) == 1
    with Path("d.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["conv1", "conv2", "conv3", "conv4"] * 2
    assert all(0 <= float(row["auroc"]) <= 1 for row in rows)


def test_other_images_are_normalized_as_in_training(inspect: Run, run_folder: Path) -> None:
    plain = inspect(run_folder, "--diversity").out
    assert inspect(run_folder, "--diversity", "--data", "digits").out == plain
    smaller = inspect(run_folder, "--diversity", "--set", "data.image_size=6")
    assert smaller.code == 0
    assert smaller.out != plain


def test_a_file_with_the_networks_name(inspect: Run, run_folder: Path) -> None:
    weights = run_folder / "weights.safetensors"
    # The run's width is not the network's own, so a file of that is made here.
    save_file(
        create_model("plain_cnn", 10, 1, small_input=True, seed=1).state_dict(), "w.safetensors"
    )
    result = inspect("w.safetensors", "--diversity", "--model", "plain_cnn", "--data", "digits")
    assert result.code == 0, result.err
    assert "weights in a file, as plain_cnn" in result.out
    assert "359 images, 10 classes" in result.out
    narrow = inspect(weights, "--diversity", "--model", "plain_cnn", "--data", "digits")
    assert narrow.code == 1
    assert "another width" in narrow.err


def test_a_network_that_is_not_trained_is_built_for_the_images(inspect: Run) -> None:
    result = inspect("wrn10_1", "--diversity", "--data", "digits")
    assert result.code == 0, result.err
    assert "not trained" in result.out
    assert "359 images, 10 classes" in result.out


def test_published_weights_have_their_own_size_and_normalization(
    inspect: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convprior.lab.report import diversity

    known = {"input_size": (3, 40, 40), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}

    def create(name: str, **options: Any) -> torch.nn.Module:
        network = create_model("plain_cnn", 10, 3, seed=3)
        network.pretrained_cfg = known  # type: ignore[assignment]
        return network

    seen = []
    whole = diversity.measure

    def measure(one: Any, layers: Any) -> Any:
        seen.append(one)
        return whole(one, layers)

    monkeypatch.setattr(targets, "create_model", create)
    monkeypatch.setattr(diversity, "measure", measure)
    result = inspect("timm:resnet10t", "--pretrained", "--diversity", "--data", "digits")
    assert result.code == 0, result.err
    (one,) = seen
    assert (one.mean, one.std) == (known["mean"], known["std"])
    assert (one.images.size, one.images.channels) == ((40, 40), 3)


def test_the_page_is_whole_and_names_do_not_act(inspect: Run, run_folder: Path) -> None:
    result = inspect(run_folder, run_folder, "--diversity", "--out", "d.html")
    assert result.code == 0, result.err
    page = Path("d.html").read_text()
    assert "<script" not in page
    assert "{{ 7 * 7 }}" in page  # not evaluated
    assert "default-src 'none'" in page
    for link in ("http://", "https://"):
        assert page.replace("http://www.w3.org/", "").count(link) == 0
    assert page.count("<svg") == 4
    assert page.count("<h2>") == 2
    lead = result.out.splitlines()[1]
    assert lead[:60] in page
    start = 0
    for _ in range(4):
        begin = page.index("<svg", start)
        start = page.index("</svg>", begin) + len("</svg>")
        ET.fromstring(page[begin:start])


def test_a_picture(inspect: Run, run_folder: Path) -> None:
    assert inspect(run_folder, "--diversity", "--layers", "conv?", "--out", "d.svg").code == 0
    root = ET.fromstring(Path("d.svg").read_text())
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"chance", "all images", "right", "wrong", "1. conv1", "4. conv4"} <= set(texts)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet18", "--diversity"], "resnet18 has no images of its own; add --data"),
        (["resnet18", "--diversity", "--data", "absent"], "absent"),
        (["resnet18", "--data", "digits"], "--data needs --diversity"),
        (["resnet18", "--set", "data.crop=1"], "--set needs --diversity"),
        (["resnet18", "--diversity", "--save-prior", "p"], "--save-prior belongs to --taps"),
        (["resnet18", "--diversity", "--taps"], "--taps belongs to --taps"),
        (["resnet18", "--diversity", "--data", "digits", "--set", "seed=1"], "give data.KEY=VALUE"),
        (["resnet18", "--diversity", "--data", "digits", "--set", "data.sizes=1"], "data.sizes"),
        (["w.safetensors", "--diversity", "--data", "digits"], "add --model NAME"),
        (
            ["w.safetensors", "--diversity", "--data", "digits", "--model", "resnet18"],
            "are not those of resnet18",
        ),
        (
            ["w.safetensors", "--diversity", "--data", "digits", "--model", "plain_cnn"],
            "labels go from 0 to 9 where the network has 4 classes",
        ),
        (["wrn10_1", "--diversity", "--data", "digits", "--layers", "stem"], "wrn10_1: "),
        (["resnet18", "--diversity", "--data", "digits", "--out", "d.png"], ".html, .svg"),
        (["resnet19", "--diversity", "--data", "digits"], "resnet18"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(inspect: Run, arguments: list[str], words: str) -> None:
    network = create_model("plain_cnn", 4, 1, small_input=True, seed=0)
    save_file(network.state_dict(), "w.safetensors")
    result = inspect(*arguments)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "error", [RunError("cat3.png is damaged; delete it"), torch.OutOfMemoryError("size 4 GiB")]
)
def test_what_another_size_does_not_mend_passes_unchanged(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from convprior.lab.report import diversity, diversity_sources

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(diversity, "feature_diversity", fails)
    network = create_model("plain_cnn", 10, 1, small_input=True)
    data = prepare(DataRecipe())
    one = diversity_sources.Classifier(
        "t", "a", network, data.evaluation, data.mean, data.std, torch.float32
    )
    with pytest.raises(type(error)) as raised:
        diversity.measure(one)
    assert raised.value is error
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(InputError, match=r"give its size by --set data.image_size=N"):
        diversity.measure(one)
