"""Recipes are read as LLaMA-Factory reads them."""

from __future__ import annotations

import json
import sys

import pytest

from cl_plugins.base.errors import RecipeError
from cl_plugins.cli.recipes import read_recipe, read_stream_recipe


YAML = "learning_rate: 1.0e-4\nmax_steps: 3\nlora_target: [a, b]\ncl:\n  method: {name: seqlora}\n"
OVERRIDES = [
    "cl.method.name=inclora",
    "max_steps=10",
    "cl.order=[b,a]",
    "cl.eval.zero_shot=false",
    "learning_rate=2e-5",
]


def test_equals_what_the_host_reads(tmp_path, monkeypatch):
    from llamafactory.hparams.parser import read_args

    path = tmp_path / "r.yaml"
    path.write_text(YAML)
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(path), *OVERRIDES])
    mine = read_recipe(path, OVERRIDES)
    assert mine == read_args()
    assert mine["cl"] == {"method": {"name": "inclora"}, "order": ["b", "a"], "eval": {"zero_shot": False}}
    assert mine["learning_rate"] == 2e-5


def test_reads_json(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"max_steps": 3, "cl": {"method": {"name": "a"}}}))
    assert read_recipe(path, ["cl.method.name=b"]) == {"max_steps": 3, "cl": {"method": {"name": "b"}}}


@pytest.mark.parametrize(
    ("name", "content", "words", "message"),
    [
        ("gone.yaml", None, [], "does not exist"),
        ("r.txt", "a: 1", [], "not a recipe by its name"),
        ("r.yaml", "a: [1", [], "is not valid YAML"),
        ("r.json", "{", [], "is not valid JSON"),
        ("r.yaml", "- 1\n- 2\n", [], "does not contain keys and values"),
        ("r.yaml", "a: 1", ["max_steps"], "not of the form key=value"),
        ("r.yaml", b"\xff\xfe\x00", [], "cannot be read"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, words, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        read_recipe(path, words)


def test_a_stream_recipe_has_a_block_and_a_directory(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("max_steps: 1\n")
    with pytest.raises(RecipeError) as caught:
        read_stream_recipe(path)
    assert len(caught.value.problems) == 2
    assert "no `cl:` block" in str(caught.value)
    assert "output_dir" in str(caught.value)


@pytest.mark.parametrize("order", [["--json", "max_steps=9"], ["max_steps=9", "--json"]])
def test_overrides_may_stand_before_and_behind_options(cli, fresh, order):
    recipe = fresh()
    code, out, err = cli("plan", recipe, "cl.eval.zero_shot=false", *order)
    assert code == 0, err
    value = json.loads(out)
    assert next(entry["value"] for entry in value["keys"] if entry["key"] == "max_steps") == 9
    assert not any(step["row"] == "zero_shot" for step in value["steps"])
