"""``[curve]``: every arm has the place its recipe says, and a wrong word is one sentence."""

import copy
import json
from pathlib import Path

import pytest

import convprior
from convprior.errors import InputError
from convprior.lab.study import parse_study, study_schema
from convprior.lab.study.curve import find_place

DOCUMENT = {
    "name": "lengths",
    "splits": [0, 1],
    "seeds": 1,
    "base": {"data": {"source": "digits", "per_class": 10}},
    "arms": {
        "plain": {},
        "wide": {"model": {"width": 20}},
        "short": {"prior": {"law": "correlated", "lengthscale": 0.5}},
        "long": {"prior": {"law": "correlated", "lengthscale": 3}},
        "long smooth": {
            "prior": {"law": "correlated", "lengthscale": 3, "family": "squared_exponential"}
        },
        "law": {"prior": {"law": "quadratic"}},
    },
    "curve": {
        "x": "prior.lengthscale",
        "group": "prior.family",
        "references": ["plain", "wide"],
        "at": {"law": "none at all"},
    },
}


def places(document):
    study = parse_study(document)
    found = ((slot, find_place(study, slot)) for slot in study.slots())
    return {slot.arm: (place.color, place.x) for slot, place in found if place}


def test_an_arm_lies_where_its_recipe_says():
    assert places(DOCUMENT) == {
        "short": ("family matern32", 0.5),
        "long": ("family matern32", 3),
        "long smooth": ("family squared_exponential", 3),
        "law": ("family matern32", "none at all"),
    }


def test_without_a_group_there_is_one_line():
    document = copy.deepcopy(DOCUMENT)
    del document["arms"]["long smooth"], document["curve"]["group"]
    assert {color for color, _ in places(document).values()} == {""}


def test_the_first_key_is_the_color_and_the_others_the_style():
    document = copy.deepcopy(DOCUMENT)
    document["curve"]["group"] = ["prior.law", "prior.family", "prior.control"]
    study = parse_study(document)
    place = find_place(study, next(slot for slot in study.slots() if slot.arm == "short"))
    assert (place.color, place.style) == ("law correlated", "family matern32")
    document["curve"]["group"] = ["prior.family", "prior.control"]
    study = parse_study(document)
    place = find_place(study, next(slot for slot in study.slots() if slot.arm == "short"))
    assert (place.color, place.style) == ("family matern32", "")


def test_a_key_that_the_data_set_gives_a_line_to_each_arm():
    document = {
        "name": "sizes",
        "splits": [0, 1],
        "data": [{"source": "digits", "per_class": n} for n in (5, 10, 20)],
        "arms": {"plain": {}, "law": {"prior": {"law": "quadratic"}}},
        "curve": {"x": "data.per_class", "log": True},
    }
    study = parse_study(document)
    found = [find_place(study, slot) for slot in study.slots()]
    assert {place.data for place in found} == {"digits"}
    assert {(place.color, place.x) for place in found} == {
        (arm, n) for arm in ("plain", "law") for n in (5, 10, 20)
    }
    document["curve"]["references"] = ["plain"]
    with pytest.raises(InputError, match="every arm has a line of its own"):
        parse_study(document)


def test_a_study_without_a_curve_has_no_places():
    document = {key: value for key, value in DOCUMENT.items() if key != "curve"}
    assert places(document) == {}
    assert parse_study(document).curve is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": "prior.lengthscal"}, "did you mean 'prior.lengthscale'?"),
        ({"group": "prior.famly"}, "curve.group = 'prior.famly' is not a key of a recipe"),
        ({"references": ["plan"]}, "curve.references: 'plan' is not an arm; did you mean 'plain'?"),
        ({"at": {"lw": "x"}}, "curve.at: 'lw' is not an arm; did you mean 'law'?"),
        ({"at": {"wide": 1}}, "'wide' is one of curve.references as well"),
        ({"group": []}, "'long' and 'long smooth' both lie at prior.lengthscale = 3"),
        ({"x": "loss.label_smoothing", "at": {}}, "so there is no curve"),
        ({"log": True, "at": {"law": 0}}, "needs values > 0, and law has prior.lengthscale = 0"),
        ({"logg": True}, "curve.logg is not a known key; did you mean 'log'?"),
        ({"log": 1}, "curve.log = 1 must be true or false"),
        ({"at": {"law": [1]}}, "curve.at.law"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_word_is_one_sentence(change, words):
    with pytest.raises(InputError) as raised:
        parse_study({**DOCUMENT, "curve": DOCUMENT["curve"] | change})
    assert words in str(raised.value)


def test_a_tuned_key_has_no_place():
    tune = {"space": {"optimizer.weight_decay": {"values": [1e-4, 1e-3]}}}
    curve = {"x": "optimizer.weight_decay"}
    with pytest.raises(InputError, match="is tuned, so an arm has no one value"):
        parse_study({**DOCUMENT, "tune": tune, "curve": curve})


def test_arms_that_tuning_leaves_out_may_be_named():
    arms = {**DOCUMENT["arms"], "as long": {"tuned_as": "long"}}
    curve = {**DOCUMENT["curve"], "references": ["plain", "as long"]}
    study = parse_study({**DOCUMENT, "arms": arms, "tune": False, "curve": curve})
    assert "as long" not in [arm.name for arm in study.arms]


def test_the_schema_takes_one_key_or_several():
    group = study_schema()["$defs"]["Curve"]["properties"]["group"]
    assert [kind["type"] for kind in group["anyOf"]] == ["string", "array"]


@pytest.mark.parametrize(
    "path",
    sorted((Path(convprior.__file__).parents[2] / "results").glob("*/study.json")),
    ids=lambda path: path.parent.name,
)
def test_committed_studies_still_load(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])  # some name a prior's file from there
    assert parse_study(json.loads(path.read_text())["study"]).arms
