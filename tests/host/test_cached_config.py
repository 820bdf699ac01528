"""What a recipe is checked against where its base is a name on a hub: the configuration that was downloaded before."""

from __future__ import annotations

import json

import pytest

from cl_plugins.host.facts import base_quantisation, setting_problems


NAME = "someone/a-base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path):
    """A hub cache with one base, stored in fp16."""
    folder = tmp_path / "hub" / "models--someone--a-base"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    config = {"dtype": "float16", "quantization_config": {"quant_method": "gptq"}}
    (snapshot / "config.json").write_text(json.dumps(config))
    return tmp_path / "hub"


def recipe(hub, **more):
    keys = {"model_name_or_path": NAME, "cache_dir": str(hub), "output_dir": "out", "template": "llava"}
    return {**keys, "additional_target": "multi_modal_projector", **more}


def test_its_precision_and_quantisation_are_known(hub):
    (problem,) = setting_problems(recipe(hub))
    assert "the base is stored in float16" in str(problem)
    assert setting_problems(recipe(hub, bf16=True)) == []
    assert base_quantisation(recipe(hub), NAME) == "gptq"


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("someone/another", {}),
        (NAME, {"model_revision": "v2"}),
        (NAME, {"cache_dir": "/nowhere"}),
        ("no name of a base?", {}),
    ],
)
def test_what_was_not_downloaded_is_not_asked_for(hub, name, more, monkeypatch):
    import socket

    def connect(*args, **kwargs):
        raise AssertionError("a recipe is checked without a network")

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(socket.socket, "connect", connect)
    keys = recipe(hub, model_name_or_path=name, **more)
    assert setting_problems(keys) == []
    assert base_quantisation(keys, name) is None


def test_a_broken_configuration_is_left_to_the_host(hub):
    (found,) = hub.rglob("config.json")
    for text in ("{", "[1]", '"x"'):
        found.write_text(text)
        assert setting_problems(recipe(hub)) == []
