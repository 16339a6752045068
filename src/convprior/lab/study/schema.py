"""JSON schemas of study and recipe files, for editors, and the list of a recipe's keys."""

import copy
from typing import Any

from convprior.lab.study.keys import flatten
from convprior.lab.study.parse import ArmFile, StudyFile
from convprior.lab.study.problems import adapter
from convprior.lab.train import Recipe, as_dict

Schema = dict[str, Any]


def recipe_schema() -> Schema:
    """The JSON schema of a recipe file."""
    return {**adapter(Recipe).json_schema(), "title": "A convprior recipe"}


def study_schema() -> Schema:
    """The JSON schema of a study file, with its short forms."""
    schema = adapter(StudyFile).json_schema()
    definitions, own = schema["$defs"], schema["properties"]
    arm = copy.deepcopy(definitions["Recipe"])
    arm["properties"] |= adapter(ArmFile).json_schema()["properties"]
    arm.pop("description", None)
    definitions["Arm"] = {**arm, "title": "Arm"}
    own["arms"]["additionalProperties"] = {"$ref": "#/$defs/Arm"}
    for key, slot in (("data", "DataRecipe"), ("models", "ModelRecipe")):
        entry = {"anyOf": [{"type": "string"}, {"$ref": f"#/$defs/{slot}"}]}
        own[key] |= {"items": entry}
    for table in (own, definitions["Tune"]["properties"]):
        many = table["seeds"]
        table["seeds"] = {
            "description": many.pop("description"),
            "anyOf": [{"type": "integer", "minimum": 1}, many],
        }
    group = definitions["Curve"]["properties"]["group"]
    kind, items = group.pop("type"), group.pop("items")
    group["anyOf"] = [{"type": "string"}, {"type": kind, "items": items}]
    own["tune"]["anyOf"] = [*own["tune"]["anyOf"], {"const": False}]
    return {**schema, "title": "A convprior study"}


def recipe_keys() -> dict[str, tuple[str, str]]:
    """The dotted keys of a recipe, each with its default and what it means."""
    schema = adapter(Recipe).json_schema()
    found = {}
    for key, value in flatten(as_dict(Recipe())).items():
        *path, last = key.split(".")
        table = schema
        for part in path:
            reference = table["properties"][part]
            name = (reference.get("$ref") or reference["allOf"][0]["$ref"]).rsplit("/", 1)[-1]
            table = schema["$defs"][name]
        text = table["properties"][last].get("description", "")
        found[key] = (_shown(value), " ".join(text.split()))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
