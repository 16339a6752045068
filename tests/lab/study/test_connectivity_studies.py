"""Studies that vary the connectivity: files, keys, and what is looked at before they start."""

import pytest

from convprior.errors import InputError
from convprior.lab.study import load_recipe, load_study, parse_study, recipe_keys, run_study
from convprior.lab.study.sources import check_sources

PRESETS = ("local-connectivity", "local-connectivity-depth")


def small(arms: dict, **base) -> dict:
    return {
        "name": "small",
        "seeds": 1,
        "base": {
            "data": {"per_class": 4},
            "model": {"name": "simple_local_net", "width": 4},
            "budget": {"examples": 40, "batch_size": 10, "precision": "fp32"},
            **base,
        },
        "arms": arms,
    }


@pytest.mark.parametrize("name", PRESETS)
def test_every_network_of_a_preset_can_be_built(name: str) -> None:
    overrides = ["splits=[0]", "base.data.per_class=4"]
    check_sources(load_study(preset=name, data="positions-shifted", overrides=overrides))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_pairs_enough_for_its_arms(name: str) -> None:
    study = load_study(preset=name)
    pairs, comparisons = len(study.splits) * len(study.seeds), len(study.arms) - 1
    assert 2 * 0.5**pairs * comparisons <= 0.05  # the least p of a sign test after Holm


def test_a_recipe_takes_connectivity_from_the_command_line() -> None:
    overrides = ["connectivity.kind=low_rank", "connectivity.rank=6", "connectivity.normalize=none"]
    slot = load_recipe(None, data="digits", overrides=overrides).connectivity
    assert (slot.kind, slot.rank, slot.normalize) == ("low_rank", 6, None)
    assert recipe_keys()["connectivity.rank"][0] == "4"


def test_a_layer_that_does_not_exist_is_found_before_training() -> None:
    study = parse_study(small({"plain": {}, "wrong": {"connectivity.kind": "local"}}))
    check_sources(study)
    arms = {"plain": {}, "wrong": {"connectivity": {"kind": "local", "layers": "conv9"}}}
    with pytest.raises(InputError, match=r"^arms\.wrong: connectivity: .*conv9.*conv1"):
        check_sources(parse_study(small(arms)))


def test_a_combination_without_meaning_names_its_arm() -> None:
    arms = {"plain": {}, "odd": {"connectivity": {"kind": "local", "control": "shuffled"}}}
    with pytest.raises(InputError, match=r"arms\.odd\.connectivity.*changes nothing where"):
        parse_study(small(arms))


def test_a_study_of_connectivity_runs(tmp_path) -> None:
    arms = {
        "conv": {},
        "spatial_bias": {"connectivity": {"kind": "spatial_bias", "layers": "conv3"}},
        "coordinates": {"connectivity": {"kind": "coordinates"}},
    }
    result = run_study(parse_study(small(arms)), tmp_path / "small", jobs=1)
    assert [row.status for row in result.rows] == ["finished"] * 3
