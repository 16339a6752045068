import dataclasses
import json

import pytest
from pydantic import TypeAdapter, ValidationError

from convprior.errors import InputError
from convprior.lab.data import DataRecipe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", ""),
        ("per_class", 0),
        ("per_class", 2.5),
        ("split", -1),
        ("rule", "first"),
        ("validation", 0.0),
        ("validation", 1.0),
        ("validation", float("nan")),
        ("evaluate", "train"),
        ("image_size", 1),
        ("channels", 4),
        ("channels", True),
        ("crop", -1),
        ("crop", 1.5),
        ("cutout", -2),
        ("color", -0.1),
        ("color", 1.0),
        ("color", "much"),
    ],
)
def test_a_value_outside_its_range_is_named(field, value):
    with pytest.raises(InputError, match=rf"data\.{field} = {value!r} must"):
        DataRecipe(**{field: value})


def test_split_without_per_class_is_refused():
    with pytest.raises(InputError, match=r"data\.split = 2 needs data\.per_class"):
        DataRecipe(split=2)


def test_validation_must_leave_an_image_on_both_sides():
    DataRecipe(per_class=1)
    with pytest.raises(InputError, match="both parts need one"):
        DataRecipe(per_class=1, evaluate="validation")


def test_a_recipe_is_plain_data_and_pydantic_reads_it():
    recipe = DataRecipe("x", per_class=5, split=1, evaluate="validation", channels=3, flip=True)
    text = json.dumps(dataclasses.asdict(recipe))
    adapter = TypeAdapter(DataRecipe)
    assert adapter.validate_json(text) == recipe
    with pytest.raises(ValidationError, match="per_clas"):
        adapter.validate_python({"per_clas": 5})
    properties = adapter.json_schema()["properties"]
    assert all("description" in properties[field.name] for field in dataclasses.fields(recipe))
