"""Studies that vary the loss or the network: presets, what is looked at first, what is told."""

import csv

import pytest

from convprior.errors import InputError
from convprior.lab.report import write_study_report
from convprior.lab.study import load_recipe, load_study, parse_study, run_study
from convprior.lab.study.sources import check_sources

PRESETS = {"bias-loss": [], "skipnet": ["base.model.width=4", "arms.widened.model.width=5"]}


def small(arms: dict) -> dict:
    return {
        "name": "small",
        "seeds": 1,
        "base": {
            "data": {"per_class": 4},
            "model": {"width": 4},
            "budget": {"examples": 40, "batch_size": 10, "precision": "fp32"},
        },
        "arms": arms,
    }


@pytest.mark.parametrize("name", PRESETS)
def test_every_network_of_a_preset_can_be_built(name: str) -> None:
    overrides = ["splits=[0]", "tune=false", "base.data.per_class=4", *PRESETS[name]]
    check_sources(load_study(preset=name, data="positions", overrides=overrides))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_pairs_enough_for_its_arms(name: str) -> None:
    study = load_study(preset=name)
    pairs, comparisons = len(study.splits) * len(study.seeds), len(study.arms) - 1
    assert 2 * 0.5**pairs * comparisons <= 0.05  # the least p of a sign test after Holm


def test_a_recipe_takes_its_loss_from_the_command_line() -> None:
    overrides = ["loss.name=bias", "loss.alpha=0.5", "loss.max_weight=2", "loss.control=2021"]
    with pytest.raises(InputError, match=r"loss\.control = 2021 "):
        load_recipe(None, data="digits", overrides=overrides)
    overrides[-1] = 'loss.control="2021"'
    slot = load_recipe(None, data="digits", overrides=overrides).loss
    assert (slot.name, slot.alpha, slot.max_weight, slot.control) == ("bias", 0.5, 2.0, "2021")


def test_a_layer_that_does_not_exist_is_found_before_training() -> None:
    arms = {"plain": {}, "wrong": {"loss": {"name": "bias", "features": "conv9"}}}
    with pytest.raises(InputError, match=r"^arms\.wrong: loss\.features: .*'conv9'.*conv"):
        check_sources(parse_study(small(arms)))


def test_a_study_of_losses_runs_and_tells_the_weights(tmp_path) -> None:
    arms = {
        "cross_entropy": {},
        "bias": {"loss": {"name": "bias"}},
        "mean_one": {"loss": {"name": "bias", "mean_one": True}},
        "focal": {"loss": {"name": "focal"}},
    }
    folder = tmp_path / "small"
    result = run_study(parse_study(small(arms)), folder, jobs=1)
    assert [row.status for row in result.rows] == ["finished"] * 4
    page = write_study_report(folder).path.read_text()
    assert "Weights of the images in training: bias mean 0." in page
    assert "mean_one mean 1.000, largest 1." in page
    with (folder / "results.csv").open(newline="") as file:
        told = {line["arm"]: line["mean_weight"] for line in csv.DictReader(file)}
    assert told["cross_entropy"] == told["focal"] == ""
    assert float(told["mean_one"]) == pytest.approx(1.0, abs=1e-6)
