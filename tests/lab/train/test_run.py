"""A whole run on digits: its files, how it ends, and that nothing else decides the outcome."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import convprior
from convprior.errors import ConvPriorError, InputError, RunError
from convprior.lab.data import DataRecipe, StreamedSet, prepare
from convprior.lab.train import (
    BudgetRecipe,
    Diverged,
    Interrupted,
    ModelRecipe,
    OptimizerRecipe,
    PriorRecipe,
    Recipe,
    build_model,
    evaluate,
    recipe_key,
    run,
    train,
)

SMALL = Recipe(
    data=DataRecipe(per_class=8, crop=1),
    model=ModelRecipe(width=4),
    prior=PriorRecipe(law="quadratic"),
    optimizer=OptimizerRecipe(lr=0.05, ema=0.9),
    budget=BudgetRecipe(examples=330, batch_size=20, evaluations=4),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "deep" / "run"
    train(SMALL, folder)
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_folder_of_a_finished_run(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"recipe.json", "log.jsonl", "weights.safetensors", "metrics.json"}
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["format"] == 1
    assert metrics["version"] == convprior.__version__
    assert metrics["key"] == recipe_key(SMALL)
    assert metrics["examples"] == 330
    assert metrics["steps"] == 17
    assert metrics["evaluated_on"] == "test"
    assert metrics["evaluated_images"] > 100
    assert metrics["threads"] == torch.get_num_threads()
    assert len(metrics["per_class_accuracy"]) == 10
    assert metrics["images_per_second"] == pytest.approx(330 / metrics["seconds"])
    assert {"loss", "train_accuracy", "train_loss", "precision", "device", "torch", "python"} < set(
        metrics
    )
    assert metrics["hardware"]
    curve = lines(finished)
    # The first batch that reaches a quarter, a half, ... of the budget.
    assert [point["examples"] for point in curve] == [100, 180, 260, 330]
    assert all({"examples", "loss", "lr", "train_accuracy"} == set(point) for point in curve)


def test_the_saved_weights_give_the_saved_accuracy(finished: Path) -> None:
    """With an average of the weights, they are the average."""
    data = prepare(SMALL.data)
    model = build_model(replace(SMALL, seed=9), data)
    model.load_state_dict(load_file(finished / "weights.safetensors"))
    metrics = json.loads((finished / "metrics.json").read_text())
    result = evaluate(model, data.evaluation, data.mean, data.std)
    # bf16 in the run where the hardware has it, float32 here.
    assert result.accuracy == pytest.approx(metrics["accuracy"], abs=0.02)
    assert result.loss == pytest.approx(metrics["loss"], rel=0.02)
    with safe_open(finished / "weights.safetensors", framework="pt") as file:
        assert recipe_key(SMALL) in file.metadata()["convprior"]


def test_a_finished_run_is_not_run_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "prepare", None)
    metrics = train(SMALL, finished)
    assert metrics == json.loads((finished / "metrics.json").read_text())
    with pytest.raises(InputError, match=r"holds the finished run of recipe \w+, not of \w+"):
        train(replace(SMALL, seed=4), finished)


def test_a_result_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"format": 7}')
    with pytest.raises(RunError, match="holds a result of format 7, this is convprior"):
        train(SMALL, tmp_path)


def test_interrupted_runs_go_on_to_the_same_bits(finished: Path, tmp_path: Path) -> None:
    for _ in range(3):
        calls = iter([False] * 4 + [True])
        with pytest.raises(Interrupted, match=r"stopped after \d+ of 330 examples"):
            train(SMALL, tmp_path, should_stop=lambda: next(calls))  # noqa: B023
        assert not (tmp_path / "metrics.json").exists()
    metrics = train(SMALL, tmp_path)
    assert not (tmp_path / "state.safetensors").exists()
    assert (tmp_path / "weights.safetensors").read_bytes() == (
        finished / "weights.safetensors"
    ).read_bytes()
    assert lines(tmp_path) == lines(finished)
    expected = json.loads((finished / "metrics.json").read_text())
    for clock in ("seconds", "images_per_second"):
        assert metrics.pop(clock) > 0
        expected.pop(clock)
    assert metrics == expected


def test_a_killed_run_goes_on_from_its_last_save(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> bool:
        raise KeyboardInterrupt

    calls = iter([False] * 7)
    with pytest.raises(KeyboardInterrupt):
        train(
            SMALL,
            tmp_path,
            should_stop=lambda: next(calls, None) is None and killed(),
            checkpoint_seconds=0.0,
        )
    assert (tmp_path / "state.safetensors").exists()
    train(SMALL, tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == (
        finished / "weights.safetensors"
    ).read_bytes()


def test_a_disk_that_fills_up_loses_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        train(SMALL, tmp_path, should_stop=lambda: next(calls))
    before = (tmp_path / "state.safetensors").read_bytes()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"could not save .*No space left .*; free some space"):
            train(SMALL, tmp_path)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert not (tmp_path / "metrics.json").exists()
    train(SMALL, tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == (
        finished / "weights.safetensors"
    ).read_bytes()


def test_a_diverged_run_says_so_and_leaves_no_result(tmp_path: Path) -> None:
    wild = replace(SMALL, optimizer=OptimizerRecipe(lr=1e12, warmup=0.0))
    with pytest.raises(Diverged, match=r"at step \d+ .*lower optimizer.lr or set optimizer.clip"):
        train(wild, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.json", "log.jsonl"}


def test_the_test_images_are_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(model: Any, images: Any, *args: Any, **named: Any) -> Any:
        seen.append(images.name)
        return evaluate(model, images, *args, **named)

    monkeypatch.setattr(run, "evaluate", spy)
    train(replace(SMALL, budget=BudgetRecipe(examples=60, batch_size=20)), tmp_path / "test")
    assert seen == ["digits (test)", "digits (train)"]
    seen.clear()
    validation = replace(
        SMALL,
        data=DataRecipe(per_class=8, evaluate="validation"),
        budget=BudgetRecipe(examples=60, batch_size=20, evaluations=3),
    )
    metrics = train(validation, tmp_path / "validation")
    # Each point of the curve; the last one is the result.
    assert seen == ["digits (validation)"] * 3 + ["digits (train)"]
    curve = lines(tmp_path / "validation")
    assert curve[-1]["accuracy"] == metrics["accuracy"]
    assert metrics["evaluated_on"] == "validation"


def test_progress_and_the_callers_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_PROGRESS_SECONDS", 0.0)
    threads, random = torch.get_num_threads(), torch.get_rng_state()
    told: list[dict[str, Any]] = []
    small = replace(SMALL, budget=BudgetRecipe(examples=60, batch_size=20, evaluations=0))
    metrics = train(small, tmp_path, threads=2, on_progress=told.append)
    assert metrics["threads"] == 2
    assert [entry["examples"] for entry in told] == [20, 40, 60]
    assert all(entry["total"] == 60 and entry["images_per_second"] > 0 for entry in told)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
    assert not (tmp_path / "log.jsonl").exists()


def test_progress_is_told_at_most_five_times_a_second(finished: Path, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    metrics = train(SMALL, tmp_path, on_progress=told.append)
    assert len(told) <= 5 * metrics["seconds"] + 1


def test_bad_recipes_end_in_one_sentence(tmp_path: Path) -> None:
    for slot, message in (
        ({"model": ModelRecipe(name="resnet_18")}, "resnet18"),
        ({"data": DataRecipe(source="digits", per_class=10_000)}, "10000"),
        ({"data": DataRecipe(source="no/such/folder")}, "no/such/folder"),
    ):
        with pytest.raises(ConvPriorError, match=message):
            train(replace(SMALL, **slot), tmp_path / "bad")
    with pytest.raises(InputError, match="device = 'tpu'"):
        train(SMALL, tmp_path / "bad", device="tpu")
    assert not (tmp_path / "bad" / "metrics.json").exists()


ELSEWHERE = """
import json, sys

absent = {names}
sys.modules.update(dict.fromkeys(absent))  # how Python marks a module that cannot be imported

import torch
from convprior.lab.train import Recipe, from_dict, train

torch.set_num_threads(1)
train(from_dict(Recipe, json.loads(sys.argv[1])), sys.argv[2])
assert not any(sys.modules[name] for name in absent)
"""

# Training must run where only torch, numpy, safetensors, scikit-learn and pyarrow are.
OPTIONAL = {
    "PIL", "altair", "datasets", "jinja2", "optuna", "pandas", "pydantic", "rich", "timm", "typer",
    "vl_convert",
}  # fmt: skip


def test_other_processes_without_optional_packages_give_the_same_bits(
    finished: Path, tmp_path: Path
) -> None:
    values = (finished / "recipe.json").read_text()
    others = [
        subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE.format(names=OPTIONAL), values, tmp_path / name],
            env={**os.environ, "PYTHONHASHSEED": name},
        )
        for name in ("1", "2")
    ]
    assert [process.wait() for process in others] == [0, 0]
    expected = (finished / "weights.safetensors").read_bytes()
    for name in ("1", "2"):
        assert (tmp_path / name / "weights.safetensors").read_bytes() == expected


def test_images_larger_than_memory_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 5)):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    recipe = replace(
        SMALL,
        data=DataRecipe(source=str(tmp_path / "images"), flip=True),
        budget=BudgetRecipe(examples=55, batch_size=10),
    )
    monkeypatch.setenv("CONVPRIOR_MEMORY_LIMIT", "1e-6")
    assert isinstance(prepare(recipe.data).train, StreamedSet)
    random = torch.get_rng_state()
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "streamed", should_stop=lambda: True)
    metrics = train(recipe, tmp_path / "streamed")
    monkeypatch.delenv("CONVPRIOR_MEMORY_LIMIT")
    expected = train(recipe, tmp_path / "memory")
    assert metrics["loss"] == expected["loss"]
    assert metrics["train_loss"] == expected["train_loss"]
    assert torch.equal(torch.get_rng_state(), random)
    streamed, memory = (tmp_path / name / "weights.safetensors" for name in ("streamed", "memory"))
    assert streamed.read_bytes() == memory.read_bytes()


def test_no_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="threads = 0 must be >= 1"):
        train(SMALL, tmp_path, threads=0)


@pytest.mark.parametrize("garbage", ["[]", "3", "{}", '{"format": 1}', "{"])
def test_a_result_that_is_none_is_one_sentence(tmp_path, garbage):
    (tmp_path / "metrics.json").write_text(garbage)
    with pytest.raises(ConvPriorError, match=r"metrics\.json|holds"):
        train(Recipe(), tmp_path)
    assert (tmp_path / "metrics.json").read_text() == garbage
