"""The JSON schema of a recipe accepts what the package accepts, and refuses what an editor can know to be wrong."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
import recipe_files as files

from cl_plugins.base.errors import RecipeError
from cl_plugins.cli import main
from cl_plugins.cli.json_schema import recipe_schema, stream_schema
from cl_plugins.methods.registry import list_methods
from cl_plugins.recipe import parse_cl
from cl_plugins.streams import builtin_streams


@pytest.fixture(scope="module")
def schema():
    found = recipe_schema()
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


GOOD = {
    "model_name_or_path": "x",
    "anything_of_the_host": [1, {"deep": None}],
    "cl": {
        "stream": {"name": "s", "tasks": [{"name": "a", "train": "a_train", "test": ["a_test"], "scorer": "bleu"}]},
        "method": {"name": "ewc"},
        "replay": {"capacity_per_task": 3, "ratio": 0.25},
        "eval": {"scope": "all", "max_items": None, "probes": ["lm_eval:x", {"name": "p", "test": "p_test"}]},
    },
}


def changed(path, value):
    """The good recipe with one value set; ``...`` removes it."""
    found = copy.deepcopy(GOOD)
    *parents, last = path
    place = found["cl"]
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return found


TASK = ("stream", "tasks", 0)


def test_what_is_printed_is_the_schema(capsys):
    assert main(["docs", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == recipe_schema()
    assert main(["docs", "stream-schema"]) == 0
    assert json.loads(capsys.readouterr().out) == stream_schema()


@pytest.mark.parametrize("path", files.recipes(), ids=str)
def test_every_recipe_of_the_repository_is_valid(path, schema):
    schema.validate(files.read(path))


@pytest.mark.parametrize("name", builtin_streams())
def test_every_stream_of_the_package_is_valid(name, schema):
    import yaml

    found = stream_schema()
    jsonschema.Draft7Validator.check_schema(found)
    stream = yaml.safe_load(builtin_streams()[name])
    jsonschema.Draft7Validator(found).validate(stream)
    schema.validate({"cl": {"stream": stream, "method": {"name": "seqlora"}}})


def test_streams_of_the_repository_are_valid():
    streams = [path for path in files.yaml_files() if {"name", "tasks"} <= set(files.read(path))]
    for path in streams:
        jsonschema.validate(files.read(path), stream_schema())


def test_a_recipe_without_cl_is_valid(schema):
    schema.validate({"model_name_or_path": "x", "stage": "sft"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("stream",), "medical_cl"),
        (("stream",), "my/stream.yaml"),
        ((*TASK, "max_new_tokens"), 5),
        ((*TASK, "overrides"), {"max_steps": 3}),
        (("replay", "ratio"), "2.5e-1"),
        (("replay", "weight"), 2),
        (("eval", "backend_options"), {"x": [1]}),
        (("order",), ["a"]),
        (("restart",), True),
        (("method",), {"name": "sefe"}),
        (("method",), "ewc"),
    ],
)
def test_what_the_package_accepts_is_valid(path, value, schema):
    recipe = changed(path, value)
    schema.validate(recipe)
    if value != "my/stream.yaml":
        parse_cl({k: v for k, v in recipe["cl"].items() if value != "medical_cl" or k != "order"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("evall",), {}),
        (("eval", "scop"), "seen"),
        (("eval", "scope"), "sen"),
        (("eval", "max_new_tokens"), 0),
        (("eval", "zero_shot"), "yes"),
        (("replay", "capacity_per_task"), -1),
        (("replay", "capacity_per_task"), 2.5),
        (("replay", "ratio"), "half"),
        (("method",), {"name": "ewc", "lamda": 1}),
        (("method",), {"name": "no_such_method"}),
        (("method",), {}),
        (("method",), "no_such_method"),
        (("method",), ...),
        (("stream",), ...),
        (("stream", "tasks"), []),
        ((*TASK, "trian"), "x"),
        ((*TASK, "name"), ...),
        ((*TASK, "train"), {"x": 1}),
        (("task_overrides",), {"a": 3}),
        (("stop_after",), 0),
    ],
)
def test_what_the_package_refuses_is_not_valid(path, value, schema):
    recipe = changed(path, value)
    assert not schema.is_valid(recipe)
    with pytest.raises(RecipeError):
        parse_cl(recipe["cl"])


def test_an_editor_finds_help_defaults_and_choices(schema):
    block = schema.schema["properties"]["cl"]["properties"]
    assert block["eval"]["properties"]["scope"]["enum"] == ["seen", "all", "none"]
    assert block["eval"]["properties"]["max_new_tokens"]["default"] == 64
    assert block["eval"]["properties"]["max_new_tokens"]["minimum"] == 1
    assert {"description"} <= set(block["replay"]["properties"]["selection"])
    names = [entry.name for entry in list_methods() if entry.value is not None]
    assert block["method"]["anyOf"][1]["properties"]["name"]["enum"] == names
    assert "exact_match" in schema.schema["definitions"]["task"]["properties"]["scorer"]["anyOf"][0]["enum"]

    def described(part):
        for entry in part.get("properties", {}).values():
            assert entry.get("description") or "const" in entry, entry
            described(entry)

    described({"properties": block})
    described(schema.schema["definitions"]["task"])
    for rule in block["method"]["anyOf"][1]["allOf"]:
        described(rule["then"])
