"""Study and recipe files: what is read, and one sentence for everything that is wrong."""

import json
import re

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convprior.errors import InputError
from convprior.lab.study import (
    Slot,
    list_presets,
    load_recipe,
    load_study,
    parse_study,
    recipe_keys,
    recipe_schema,
    study_schema,
)
from convprior.lab.study.keys import assignment, flatten, leaves, nest
from convprior.lab.train import Recipe, as_dict

WORDS = st.text("abcxyz_", min_size=1, max_size=3)
TREES = st.recursive(
    st.integers() | st.booleans() | st.text(max_size=3).filter(lambda text: text != "none"),
    lambda inner: st.dictionaries(WORDS, inner, min_size=1, max_size=3),
).filter(lambda tree: isinstance(tree, dict))


def document(**changes):
    plain = {
        "name": "tiny",
        "splits": [0, 1],
        "seeds": 2,
        "base": {"data": {"per_class": 5}, "budget": {"examples": 100}},
        "arms": {"baseline": {}, "locality": {"prior": {"law": "quadratic"}}},
    }
    return plain | changes


def tuned(**changes):
    space = {"optimizer.weight_decay": {"values": [1e-4, 1e-3]}}
    return document(tune={"space": space} | changes)


@given(TREES)
def test_flatten_and_nest_are_inverse(tree):
    assert nest(flatten(tree)) == tree


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("optimizer.lr=0.1", ["optimizer", "lr"], 0.1),
        ("data.source=digits", ["data", "source"], "digits"),
        ("data.source = ./my images", ["data", "source"], "./my images"),
        (
            'tune.space."optimizer.lr".values=[1, 2]',
            ["tune", "space", "optimizer.lr", "values"],
            [1, 2],
        ),
        ("data.flip=true", ["data", "flip"], True),
        ("description=a=b", ["description"], "a=b"),
    ],
)
def test_assignments_are_toml_or_text(text, path, value):
    assert assignment(text) == (path, value)


def test_dotted_and_nested_keys_are_the_same_study():
    nested = parse_study(tuned())
    dotted = parse_study(
        document(
            arms={"baseline": {}, "locality": {"prior.law": "quadratic"}},
            tune={"space": {"optimizer": {"weight_decay": {"values": [1e-4, 1e-3]}}}},
        )
    )
    assert nested.arms == dotted.arms
    assert nested.base == dotted.base


def test_later_settings_win():
    study = parse_study(
        document(
            data=["digits", {"source": "digits", "per_class": 7, "flip": True}],
            models=["plain_cnn", {"name": "wrn10_1", "width": 4}],
            arms={"a": {}, "b": {"data.flip": False, "model.width": "none"}},
        )
    )
    assert [v.label for v in study.data] == ["digits", "digits per_class=7 flip=True"]
    assert [v.label for v in study.models] == ["plain_cnn", "wrn10_1"]
    first = study.recipe(Slot("a", study.data[1].label, "wrn10_1"), {}, 1, 3)
    assert (first.data.per_class, first.data.flip, first.model.width) == (7, True, 4)
    assert (first.data.split, first.seed) == (1, 3)
    second = study.recipe(Slot("b", study.data[1].label, "wrn10_1"), {"data.crop": 1}, 0, 0)
    assert (second.data.flip, second.model.width, second.data.crop) == (False, None, 1)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"base": {"optimizer": {"wieght_decay": 1}}},
            "base.optimizer.wieght_decay is not a known key; did you mean 'weight_decay'?",
        ),
        ({"base": {"optimizer": {"lr": "fast"}}}, "base.optimizer.lr = 'fast' must be a number"),
        ({"base": {"optimizer": {"lr": -1}}}, "base.optimizer.lr = -1.0 must be > 0"),
        (
            {"base": {"data": {"per_class": 5.0}}},
            "base.data.per_class = 5.0 must be a whole number",
        ),
        (
            {"base": {"data": {"per_class": "5"}}},
            "base.data.per_class = '5' must be a whole number",
        ),
        (
            {"base": {"data": {"crop": -1, "per_class": 5}}},
            "base.data.crop = -1 must be >= 0",
        ),
        ({"base": {}}, "splits = [0, 1] needs base.data.per_class"),
        ({"base": {"seed": 3}}, "base.seed cannot be set: the study crosses with seeds"),
        (
            {"arms": {"a": {}, "b": {"law": "quadratic"}}},
            "arms.b.law is not a known key; did you mean 'prior.law'?",
        ),
        ({"arms": {"a": {}, "b": {"prior": {"law": "quadratc"}}}}, "did you mean 'quadratic'?"),
        (
            {"arms": {"a": {}, "b": {"optimzer.lr": 1.0}}},
            "arms.b.optimzer is not a known key; did you mean 'optimizer'?",
        ),
        ({"arms": {"a": {}, "b": {"data.source": "x"}}}, "arms.b.data.source cannot be set"),
        ({"arms": {"a": {}, "b": {"data.evaluate": "test"}}}, "arms.b.data.evaluate cannot be set"),
        ({"arms": {"a": {}, "b": {}}}, "arms 'a' and 'b' have equal recipes"),
        ({"arms": {}}, "arms is empty"),
        ({"arms": 3}, "arms = 3 must be a table of keys"),
        ({"baseline": "lokality"}, "baseline = 'lokality' is not an arm; did you mean 'locality'?"),
        ({"seed": 3}, "seed is not a known key; did you mean 'seeds'?"),
        ({"seeds": 0}, "seeds is empty"),
        ({"seeds": "x"}, "seeds = 'x' must be a list"),
        ({"splits": [1, 1]}, "splits = [1, 1] must differ"),
        ({"name": "a/b"}, "name = 'a/b' must be letters"),
        ({"models": [3]}, "models.0 = 3 must be a table of keys"),
        ({"models": ["plain_cnn", "plain_cnn"]}, "model has equal entries: plain_cnn, plain_cnn"),
        (
            {"models": [{"name": "wrn10_1", "widht": 3}]},
            "models 'wrn10_1': model.widht is not a known key; did you mean 'width'?",
        ),
        ({"tune": {"sampler": "grid"}}, "tune.space is missing"),
        (
            {"tune": {"space": {"optimizer.lr": {"valus": [1]}}}},
            "tune.space.optimizer.lr.valus is not a known key; did you mean 'values'?",
        ),
        (
            {"tune": {"space": {"optimizer.lrr": {"values": [1]}}}},
            "optimizer.lrr is not a key of a recipe; did you mean 'optimizer.lr'?",
        ),
        (
            {"tune": {"space": {"optimizer.lr": {"values": [0.1, -1]}}}},
            "tune.space: optimizer.lr = -1.0 must be > 0",
        ),
        ({"tune": {"space": {"optimizer.lr": {"low": 0.1}}}}, "both low = and high ="),
        (
            {"tune": {"space": {"optimizer.lr": {"low": 0, "high": 1, "log": True}}}},
            "0 < low < high",
        ),
        ({"tune": {"space": {"optimizer.lr": {"low": 0.1, "high": 1}}}}, "needs points"),
        (
            {"tune": {"sampler": "tpe", "space": {"optimizer.lr": {"values": [0.1]}}}},
            "trials = None must be >= 1",
        ),
        (
            {"tune": {"trials": 3, "space": {"optimizer.lr": {"values": [0.1]}}}},
            "trials = 3 is not for a grid",
        ),
        (
            {"arms": {"a": {}, "b": {"tuned_as": "a"}}},
            "arms.b says how it is tuned, but there is no [tune]",
        ),
        ({"when": 3}, "when is not a known key"),
    ],
)
def test_a_wrong_study_is_one_sentence(wrong, sentence):
    with pytest.raises(InputError) as caught:
        parse_study(document(**wrong))
    assert any(sentence in line for line in str(caught.value).splitlines())


@pytest.mark.parametrize(("key", "way"), [("name", "name = "), ("arms", "[arms.plain]")])
def test_a_missing_key_is_told_with_an_example(key, way):
    plain = document()
    del plain[key]
    with pytest.raises(InputError, match=f"^{key} is missing; .*{re.escape(way)}"):
        parse_study(plain)


def test_a_wrong_study_key_does_not_hide_what_is_wrong_in_the_base():
    with pytest.raises(InputError) as caught:
        parse_study(document(seed=3, base={"optimizer": {"lrr": 1}}))
    assert str(caught.value).splitlines() == [
        "2 problems:",
        "  seed is not a known key; did you mean 'seeds'?",
        "  base.optimizer.lrr is not a known key; did you mean 'lr'?",
    ]


def test_splits_of_everything_do_not_hide_what_is_wrong_in_an_arm():
    with pytest.raises(InputError) as caught:
        parse_study(document(base={}, arms={"a": {}, "b": {"prior.law": "quadratc"}}))
    first, splits, law = str(caught.value).splitlines()
    assert first == "2 problems:"
    assert "splits = [0, 1] needs base.data.per_class" in splits
    assert "arms.b.prior.law = 'quadratc'" in law


def test_every_problem_is_named_once():
    arms = {"a": {"optimizer.lr": -1}, "b": {"prior.law": "x"}, "c": {}}
    with pytest.raises(InputError) as caught:
        parse_study(document(arms=arms))
    message = str(caught.value)
    assert message.count("arms.a.optimizer.lr = -1.0") == 1
    assert message.count("arms.b.prior.law = 'x'") == 1
    assert "base" not in message


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        ({"optimizer.weight_decay": 0}, "arms.b sets all that [tune] would choose"),
        (
            {"optimizer.weight_decay": 0, "tune": {"optimizer.lr": {"values": [0.1]}}},
            "same number of tuning trials, but they have a 2, b 1",
        ),
        ({"tuned_as": "c"}, "arms.b.tuned_as = 'c' is not an arm; known: a, b"),
        ({"tuned_as": "b"}, "must name an arm that is tuned itself"),
        ({"tuned_as": "a"}, "equal recipes"),
        ({"tuned_as": "a", "optimizer.weight_decay": 0}, "would take it from 'a' as well"),
        ({"tuned_as": "a", "tune": {}}, "arms.b has tune and tuned_as"),
    ],
)
def test_unfair_tuning_is_refused(arm, sentence):
    with pytest.raises(InputError, match="arm") as caught:
        parse_study(tuned() | {"arms": {"a": {}, "b": arm}})
    assert sentence in str(caught.value)


def test_an_arm_may_be_tuned_otherwise_or_not_at_all():
    other = {"optimizer.weight_decay": 0, "tune": {"optimizer.lr": {"values": [0.1, 0.2]}}}
    none = {"optimizer.weight_decay": 1, "tune": {}}
    study = parse_study(tuned() | {"arms": {"a": {}, "b": other, "c": none}})
    assert [list(arm.space) for arm in study.arms] == [
        ["optimizer.weight_decay"],
        ["optimizer.lr"],
        [],
    ]


def test_overrides_reach_base_arms_and_study(tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text(
        'name = "tiny"\n[base.data]\nper_class = 5\n[arms.a]\n[arms.b.prior]\nlaw = "quadratic"\n'
    )
    study = load_study(
        file,
        overrides=["seeds=3", "data.per_class=6", "arms.b.prior.law=linear", "optimizer.clip=1.0"],
    )
    assert study.seeds == (0, 1, 2)
    assert study.base.data.per_class == 6
    assert study.base.optimizer.clip == 1.0
    assert study.arm("b").overrides == {"prior.law": "linear"}
    assert load_study(file, overrides=["data.per_class=none"]).base.data.per_class is None
    several = load_study(file, overrides=["data=['digits', {source='digits', per_class=3}]"])
    assert [len(variant.overrides) for variant in several.data] == [1, 2]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seeds", "must be KEY=VALUE"),
        ("a b=1", "must be KEY=VALUE"),
        ("arms.localty.prior.law=linear", "no such arm; did you mean 'locality'?"),
        ("optimizer.weight_decay=1", "would change nothing because [tune] chooses"),
        ("budget.exmples=1", "did you mean 'examples'?"),
    ],
)
def test_a_wrong_override_is_one_sentence(override, sentence):
    with pytest.raises(InputError) as caught:
        load_study(overrides=[override])
    assert sentence in str(caught.value)


def test_an_override_of_a_tuned_key_holds_without_tuning():
    study = load_study(overrides=["optimizer.weight_decay=1", "tune=false"])
    assert study.tune is None
    assert study.base.optimizer.weight_decay == 1


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"could not read .*no.toml: No such file"):
        load_study(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(InputError, match=r"bad.toml is not a TOML file: .*line 1"):
        load_study(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a TOML file"):
        load_recipe(tmp_path / "bad.toml")
    with pytest.raises(InputError, match="not both"):
        load_study(tmp_path / "bad.toml", preset="digits")
    with pytest.raises(InputError, match="preset 'digit' does not exist; did you mean 'digits'"):
        load_study(preset="digit")


@pytest.mark.parametrize("name", list_presets())
def test_presets_are_valid_for_us_and_for_editors(name):
    study = load_study(preset=name)
    assert study.description
    assert study.baseline in [arm.name for arm in study.arms]
    jsonschema.validate(study.document, study_schema())


def test_a_preset_on_other_data():
    study = load_study(preset="quick", data="./my images/")
    assert study.base.data.source == "./my images/"
    assert study.name == "quick-my-images"
    assert study.data[0].label == "my images"


def test_the_schema_refuses_what_we_refuse():
    for wrong in ({"arms": {"a": {"law": 1}}}, {"seeds": "x"}, {"base": {"optimizer": {"x": 1}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document(**wrong), study_schema())
    jsonschema.validate(as_dict(Recipe()), recipe_schema())
    json.dumps(study_schema())


def test_recipes_from_files(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text("seed = 4\n[optimizer]\nlr = 0.5\n")
    recipe = load_recipe(file, data="x", overrides=["optimizer.lr=0.25", "data.flip=true"])
    assert (recipe.seed, recipe.optimizer.lr, recipe.data.source) == (4, 0.25, "x")
    assert recipe.data.flip
    assert load_recipe() == Recipe()
    with pytest.raises(
        InputError, match=r"^optimizer.lrr is not a known key; did you mean 'lr'\?$"
    ):
        load_recipe(overrides=["optimizer.lrr=1"])


def test_every_recipe_key_is_explained():
    keys = recipe_keys()
    assert list(keys) == list(leaves())
    assert all(text for _, text in keys.values())
    assert keys["optimizer.clip"][0] == "none"


def test_a_study_file_is_no_recipe(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text("[arms.a]")
    with pytest.raises(InputError, match="it is a study file: convprior study"):
        load_recipe(path)
