"""Credentials and training text of a recipe: in no file and no output of a run, and never handed to the host as ``***``."""

from __future__ import annotations

import json

import pytest
import sealed
from running import NO_TESTS, go, load, recipe

from cl_plugins.cli import main
from cl_plugins.run.reopen import read_recipe


SECRETS = {
    "hf_hub_token": "hf_SeCrEt1",
    "hub_token": "SeCrEt2",
    "swanlab_api_key": "SeCrEt3",
    "swanlab_lark_secret": "SeCrEt4",
    "swanlab_lark_webhook_url": "https://hooks.example/SeCrEt5",
}
RECORD = {"question": "what is it?", "answer": "a tumour"}


def leaks(root, pattern=b"SeCrEt"):
    return [str(p.relative_to(root)) for p in sorted(root.rglob("*")) if p.is_file() and pattern in p.read_bytes()]


@pytest.fixture(scope="module")
def keys(llama, text_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("credentials") / "run"
    return recipe(llama, text_data, out, "seqlora", cl=NO_TESTS, **SECRETS)


@pytest.fixture(scope="module")
def out(keys):
    from pathlib import Path

    go(keys)
    return Path(keys["output_dir"])


def test_no_file_of_a_run_holds_a_credential(out):
    assert leaks(out) == []
    assert {key: load(out, "run.json")["recipe"][key] for key in SECRETS} == dict.fromkeys(SECRETS, "***")


def test_other_credentials_are_not_another_recipe(keys, out):
    journal = (out / "journal.jsonl").read_bytes()
    go({**{k: v for k, v in keys.items() if k not in SECRETS}, "hf_hub_token": "another"})
    assert (out / "journal.jsonl").read_bytes() == journal
    go(keys)


def test_a_run_that_recorded_a_key_in_clear_goes_on(keys, out):
    """Earlier versions masked fewer keys; the next start writes the record anew."""
    sealed.edit(out / "run.json", lambda record: record["recipe"].update(swanlab_lark_secret="SeCrEt4"))
    assert leaks(out)
    go(keys)
    assert leaks(out) == []


def test_a_recipe_that_is_read_back_has_no_masked_keys(out):
    host_keys, config = read_recipe(out)
    assert not set(SECRETS) & set(host_keys)
    assert "***" not in json.dumps([host_keys, config.method_options], default=str)
    assert host_keys["learning_rate"] == 1e-2


def test_evaluate_and_export_give_the_host_no_masked_key(out, text_data, tmp_path, monkeypatch):
    from llamafactory.hparams import parser

    given, original = [], parser._parse_train_args

    def parse(args=None, *rest, **kwargs):
        given.append(dict(args))
        return original(args, *rest, **kwargs)

    monkeypatch.setattr(parser, "_parse_train_args", parse)
    assert main(["export", str(out), "--to", "adapter", "--out", str(tmp_path / "adapter")]) == 0
    assert main(["evaluate", str(out), "--task", "one", "--out", str(tmp_path / "scores")]) == 0
    assert given
    assert all("***" not in str(value) for keys in given for value in keys.values())
    assert not any(set(SECRETS) & set(keys) for keys in given)
    assert leaks(tmp_path) == []


@pytest.mark.parametrize(
    "words", [["plan"], ["plan", "--json"], ["plan", "--all-keys"], ["validate"], ["validate", "--json"]]
)
def test_commands_show_no_credential(words, keys, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**keys, "output_dir": str(tmp_path / "new")}))
    command, *options = words
    assert main([command, str(path), *options]) == 0
    shown = capsys.readouterr()
    assert "SeCrEt" not in shown.out + shown.err
    assert command == "validate" or "hf_hub_token" in shown.out


def test_errors_of_commands_show_no_credential(keys, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    wrong = {"cl": {**keys["cl"], "eval": {"backend_options": ["api_key=SeCrEt"]}}, "hub_token": {"a": "SeCrEt"}}
    path.write_text(json.dumps({**keys, **wrong}))
    assert main(["validate", str(path), "no_such_token=SeCrEt"]) == 2
    path.write_text('output_dir: x\nhf_hub_token: "SeCrEt\ncl: {}\n')
    assert main(["plan", str(path)]) == 2
    path.write_text("output_dir: x\n")
    assert main(["plan", str(path), "--hf_hub_token=SeCrEt"]) == 2
    shown = capsys.readouterr()
    assert "SeCrEt" not in shown.out + shown.err


def test_a_failed_training_leaves_no_record_in_run_json(llama, text_data, tmp_path):
    """Messages of other libraries may quote a whole record."""
    from transformers import TrainerCallback

    class Refuse(TrainerCallback):
        def on_step_begin(self, args, state, control, train_dataloader=None, **kwargs):
            raise RuntimeError(f"Expected a string, got {RECORD}")

    keys = recipe(llama, text_data, tmp_path / "run", "seqlora", cl=NO_TESTS)
    with pytest.raises(RuntimeError, match="a tumour"):  # shown, but not kept
        go(keys, [Refuse()])
    failed = load(tmp_path / "run", "run.json")["failed"]
    assert failed["step"] == "train:one"
    assert failed["error"].startswith("RuntimeError in test_credentials, line ")
    assert failed["error"].endswith(": Expected a string, got …")
    assert leaks(tmp_path / "run", b"tumour") == []
    go(keys)
    assert "failed" not in load(tmp_path / "run", "run.json")
