"""The command line as a person meets it: help, results, and errors of one sentence."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from convprior.__main__ import main
from convprior.lab.train.recipe import PriorRecipe

SMALL = ["budget.examples=60", "budget.batch_size=10", "budget.precision=fp32"]


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def convprior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Runs the command in an empty folder, on a terminal 100 columns wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["convprior", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, *capfd.readouterr())

    return run


def settings(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 16x16 images: a vertical and a horizontal edge in noise."""
    random = np.random.default_rng(0)
    for name, axis in (("left", 1), ("top", 0)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(15):
            pixels = random.integers(0, 100, (16, 16, 3))
            np.moveaxis(pixels, axis, 0)[:8] += 150
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "images" / name / f"{number:02}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("command", [[], ["study"], ["train"], ["report"], ["list"]])
def test_help_fits_the_terminal_and_shows_every_option(convprior: Run, command: list[str]) -> None:
    result = convprior(*command, "--help")
    assert result.code == 0, result.err
    assert "Usage: convprior" in result.out
    assert max(map(len, result.out.splitlines())) <= 100


def test_version(convprior: Run) -> None:
    assert convprior("--version").out.startswith("convprior 0.")


def test_list_names_what_can_be_asked_for(convprior: Run) -> None:
    words = convprior("list").out
    for word in ("wrn16_2", "digits", "quadratic", "optimizer.weight_decay"):
        assert word in words
    only = convprior("list", "models").out
    assert "wrn16_2" in only
    assert "quadratic" not in only


def test_list_has_every_law_of_a_recipe(convprior: Run) -> None:
    words = convprior("list", "laws").out.replace(",", " ").split()
    for law in get_args(get_type_hints(PriorRecipe)["law"]):
        assert law in words


@pytest.mark.parametrize("command", ["study", "train"])
def test_schema_is_json(convprior: Run, command: str) -> None:
    schema = json.loads(convprior(command, "--schema").out)
    assert schema["type"] == "object"
    assert "properties" in schema


def test_a_folder_of_images_and_a_preset_are_enough(
    convprior: Run, tmp_path: Path, images: Path
) -> None:
    small = settings(*SMALL, "data.image_size=16", "seeds=2", "tune.examples=60")
    command = ["study", "--data", images, "--preset", "quick", *small]
    result = convprior(*command)
    assert result.code == 0, result.err
    assert "locality" in result.out
    assert "report.html" in result.out
    reports = list((tmp_path / "runs").glob("*/report.html"))
    assert len(reports) == 1
    assert "locality" in reports[0].read_text()

    metrics = sorted((tmp_path / "runs").rglob("metrics.json"))
    written = [path.stat().st_mtime_ns for path in metrics]
    again = convprior(*command)
    assert again.code == 0, again.err
    assert [path.stat().st_mtime_ns for path in metrics] == written
    assert result.out.endswith(again.out)  # the same table, without any training


def test_train_and_its_second_call(
    convprior: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *settings(*SMALL, "data.per_class=4"), "--out", "one"]
    result = convprior(*command)
    assert result.code == 0, result.err
    assert result.out.startswith("accuracy ")
    assert {path.name for path in (tmp_path / "one").iterdir()} >= {
        "recipe.json",
        "metrics.json",
        "weights.safetensors",
        "log.jsonl",
    }
    assert convprior(*command).out == result.out
    monkeypatch.setenv("RANK", "1")  # of several processes the first alone speaks
    assert convprior(*command) == Result(0, "", "")


def test_after_ctrl_c_it_says_how_to_go_on(convprior: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convprior.lab.study.run_study", stopped)
    result = convprior("study")
    assert (result.code, result.err.strip()) == (
        130,
        "interrupted: run the same command again to go on",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study", "absent.toml"], "absent.toml"),
        (["study", "--preset", "digitz"], "digits"),
        (["study", "--preset", "quick", "--data", "./absent"], "absent"),
        (["study", "--preset", "digits", "--set", "optimizer.lrr=1"], "optimizer.lr"),
        (["study", "--preset", "digits", "--set", "arms.locality.prior.law=cubic"], "quadratic"),
        (["study", "--preset", "digits", "--set", "data.per_class=1000"], "per_class"),
        (["study", "--preset", "digits", "--device", "cuda:99"], "cuda:99"),
        (["train", "--set", "model.name=wrn16_x"], "wrn16_x"),
        (["train", "--set", "budget.examples=-1"], "budget.examples"),
        (["report", "absent"], "absent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence(
    convprior: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = convprior(*arguments)
    assert result.code in (1, 2)
    assert "Traceback" not in result.err
    assert result.err.startswith("error: ")
    assert words in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_an_interrupted_run_says_where_it_stopped_and_goes_on(
    convprior: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *settings(*SMALL, "data.per_class=4"), "--out", "one"]
    with monkeypatch.context() as patch:
        patch.setattr("convprior.cli._StopOnSignal.__call__", lambda _: True)
        result = convprior(*command)
    assert result.code == 130
    assert "stopped after 10 of 60 examples" in result.err
    assert "run the same command again to go on" in result.err
    assert "error" not in result.err
    again = convprior(*command)
    assert again.code == 0
    assert "going on from the state saved in one" in again.err


def test_python_m_and_the_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convprior", "report", "absent"]
    result = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True)
    assert result.returncode == 1
    assert result.stderr.startswith(b"error: ")
