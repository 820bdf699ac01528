"""What a user of a recipe with `encoders:` reads: no prompts, no tokenizer, no LLaMA-Factory."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from encoder_runs import CLASSES, ENCODERS, build, recipe
from safetensors.torch import load_file
from tiny_encoders import encoder
from transformers import ViTImageProcessor

import cl_plugins
from cl_plugins.base.errors import CompatibilityError, RecipeError, RunStateError
from cl_plugins.cli import main
from cl_plugins.crossmodal.inputs import CrossModalProcessor
from cl_plugins.crossmodal.model import CrossModalClassifier
from cl_plugins.encoders.launch import run_recipe


FOREIGN = re.compile(r"LLaMA|llama|prompt|token|language model|LoRA", re.IGNORECASE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def keys(data, tmp_path_factory):
    """A recipe one of whose encoders is a folder of this machine."""
    folder = tmp_path_factory.mktemp("texts")
    encoder("vit").save_pretrained(folder / "my_vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "my_vit")
    made = recipe(data, folder / "run")
    picture = {"kind": "vision", "model": str(folder / "my_vit")}
    return {**made, "encoders": {**ENCODERS, "picture": picture}, "max_steps": 2, "save_strategy": "no"}


@pytest.fixture(scope="module")
def written(keys):
    path = Path(keys["output_dir"]).with_name("recipe.yaml")
    path.write_text(yaml.safe_dump(keys))
    return path


@pytest.fixture(scope="module")
def finished(keys):
    run_recipe(keys)
    return Path(keys["output_dir"])


@pytest.fixture
def cli(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def go(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out if "--json" in words else out + err

    return go


def test_plan(cli, written, keys, finished, monkeypatch):
    def no_weights(*args):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr("cl_plugins.encoders.session.load_encoder", no_weights)
    code, text = cli("plan", written)
    assert code == 0
    assert "what Transformers gets" in text
    assert "1_test (6 items) with exact_match" in text
    assert not FOREIGN.search(text)
    _, value = cli("plan", written, "--json")
    value = json.loads(value)
    assert value["host"] == "Transformers"
    assert value["tasks"][0]["max_new_tokens"] is None
    update = load_file(finished / "tasks/01_one/update.safetensors")
    trained = sum(v.numel() for name, v in update.items() if not name.startswith("classifier."))
    assert value["model"]["trainable"] == trained + 2 * (8 + 1)  # the head has the classes of the first step
    encoders = CrossModalClassifier.from_pretrained(finished / "final").encoders
    assert value["model"]["parameters"] == sum(p.numel() for p in encoders.parameters())


def test_plan_without_data(cli, written):
    code, text = cli("plan", written, "dataset_dir=nowhere")
    assert code == 0
    assert "The data are not there yet" in text


def test_everything_that_is_wrong_is_told_at_once(cli, written):
    code, text = cli("validate", written, "dataset_dir=nowhere", "learning_rat=1")
    assert code == 2
    assert "nowhere/dataset_info.json" in text
    assert "learning_rat" in text


def test_validate(cli, written, tmp_path):
    assert cli("validate", "--quick", written)[0] == 0
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "vit"}')
    made = yaml.safe_load(written.read_text())
    made["encoders"]["picture"]["model"] = str(broken)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    code, text = cli("validate", tmp_path / "recipe.yaml")
    assert "the encoders cannot be loaded here" in text
    assert not FOREIGN.search(text.replace(str(tmp_path), ""))
    code, text = cli("validate", written, "lr_scheduler_type=zigzag")
    assert code == 2
    assert "Transformers says:" in text


def test_an_encoder_in_half_precision_is_held_in_fp32(keys, tmp_path):
    place = Path(keys["output_dir"]).with_name("my_vit")
    shutil.copytree(place, tmp_path / "vit")
    encoder("vit").half().save_pretrained(tmp_path / "vit")
    made = {**ENCODERS, "picture": {"kind": "vision", "model": str(tmp_path / "vit")}}
    run_recipe({**keys, "encoders": made, "output_dir": str(tmp_path / "run")})
    model = CrossModalClassifier.from_pretrained(tmp_path / "run/final")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    kept = model.encoders["picture"].encoder.state_dict()
    assert all(torch.equal(v.half().float(), kept[name]) for name, v in encoder("vit").state_dict().items())


@pytest.mark.parametrize("left", ["model.safetensors", "preprocessor_config.json"])
def test_an_incomplete_encoder_is_named(keys, tmp_path, left):
    shutil.copytree(Path(keys["output_dir"]).with_name("my_vit"), tmp_path / "vit")
    (tmp_path / "vit" / left).unlink()
    made = {**ENCODERS, "picture": {"kind": "vision", "model": str(tmp_path / "vit")}}
    with pytest.raises(CompatibilityError, match=r"encoders\.picture\.model"):
        run_recipe({**keys, "encoders": made, "output_dir": str(tmp_path / "run")})


def test_settings_of_generated_answers_are_refused(keys, tmp_path):
    block = dict(keys["cl"])
    block["stream"] = {"name": "toy", "tasks": [dict(task) for task in block["stream"]["tasks"]]}
    block["stream"]["tasks"][0] |= {"max_new_tokens": 3, "options_column": "options"}
    block["eval"] = {"max_new_tokens": 5, "backend": "vllm"}
    with pytest.raises(RecipeError) as found:
        run_recipe({**keys, "output_dir": str(tmp_path / "run"), "cl": block})
    problems = {problem.where: problem.what for problem in found.value.problems}
    for where in (
        "cl.stream.tasks.one.max_new_tokens",
        "cl.stream.tasks.one.options_column",
        "cl.eval.max_new_tokens",
    ):
        assert "answers of this recipe are classes" in problems[where]
    assert any("vllm generates text" in problem.what for problem in found.value.problems)


def test_a_method_that_cannot_is_told_which_can(keys, tmp_path):
    with pytest.raises(RecipeError) as found:
        run_recipe({**keys, "output_dir": str(tmp_path / "run"), "cl": {**keys["cl"], "method": {"name": "olora"}}})
    (problem,) = (p for p in found.value.problems if p.where == "cl.method.name")
    assert problem.fix == "Methods that are: crossmodal, der, ewc, lwf, multitask, seqfull."


def test_a_recipe_without_a_block(cli, written, tmp_path):
    made = yaml.safe_load(written.read_text())
    del made["cl"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    code, text = cli("run", tmp_path / "recipe.yaml")
    assert code == 2
    assert "has no `cl:` block" in text
    assert "llamafactory" not in text


def test_list_methods(cli):
    assert re.search(r"encoders\s+tested", cli("list", "methods", "crossmodal")[1])
    assert re.search(r"encoders\s+not tested", cli("list", "methods", "olora")[1])


def test_an_encoder_may_be_moved_and_not_replaced(keys, finished, tmp_path, caplog):
    shutil.copytree(Path(keys["output_dir"]).with_name("my_vit"), tmp_path / "moved")
    moved = {**keys["encoders"], "picture": {**keys["encoders"]["picture"], "model": str(tmp_path / "moved")}}
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with caplog.at_level("INFO", logger="cl_plugins"):
        run_recipe({**keys, "encoders": moved, "output_dir": str(run)})
    assert "this run is finished" in caplog.text
    encoder("vit", seed=5).save_pretrained(tmp_path / "moved")
    with pytest.raises(RunStateError):
        run_recipe({**keys, "encoders": moved, "output_dir": str(run)})


def test_report_and_status(cli, finished):
    text = (finished / "report.md").read_text()
    told = text[: text.index("The resolved recipe")] + text[text.index("## Files") : text.index("For the software")]
    told = "\n".join(line for line in told.splitlines() if not line.startswith("- versions:"))
    assert not FOREIGN.search(told)
    assert "every test item with its prediction" in told
    assert not FOREIGN.search(cli("status", finished, "--verify")[1])


def test_the_card_says_what_the_model_takes(finished, keys):
    from huggingface_hub import ModelCard

    card = ModelCard.load(finished / "final/README.md")
    assert not FOREIGN.search(card.text)
    assert card.data.library_name == "cl_plugins"
    assert card.data.pipeline_tag is None
    assert card.data.base_model is None
    assert "llama-factory" not in card.data.tags
    assert "a classifier over picture, sound, words" in card.text.lower()
    assert "the file of a video" in card.text
    assert "picture=my_vit" in card.text
    assert {result.dataset_name for result in card.data.eval_results} == {"one", "two"}


def test_a_model_names_no_place_of_this_machine(finished, keys):
    place = str(Path(keys["output_dir"]).parent)
    for path in (finished / "final").rglob("*"):
        if path.is_file():
            assert place.encode() not in path.read_bytes(), path.name


def test_the_code_of_the_card_runs(finished, data, tmp_path, monkeypatch, capsys):
    final = tmp_path / "final"
    shutil.copytree(finished / "final", final)
    shutil.copy(data / "1_test_0.png", final / "sample.png")
    shutil.copy(data / "1_test_0.wav", final / "sample.wav")
    (code,) = re.findall(r"^```python\n(.*?)^```", (final / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(final)
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.strip() in CLASSES


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_export_writes_the_classifier(cli, finished, data, tmp_path, dtype):
    code, text = cli("export", finished, "--to", "merged", "--dtype", dtype, "--out", tmp_path / "out")
    assert code == 0, text
    model = cl_plugins.load(tmp_path / "out")
    expected = getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[dtype])
    assert {v.dtype for v in load_file(tmp_path / "out/model.safetensors").values()} == {expected}
    assert {p.dtype for p in model.parameters()} == {expected}
    last = cl_plugins.load(finished)
    processor = CrossModalProcessor.from_pretrained(finished / "final", last.config)
    records = [json.loads(line) for line in (data / "2_test.jsonl").read_text().splitlines()]
    given = processor([{k: str(data / v) if k in ("picture", "sound") else v for k, v in r.items()} for r in records])
    exact = last(**given).logits
    assert (model(**given).logits.float() - exact).abs().max() <= {"fp32": 0, "bf16": 0.05}[dtype] * exact.abs().max()
    assert model.config.labels == list(CLASSES)


def test_export_of_an_earlier_step(cli, finished, tmp_path):
    code, text = cli("export", finished, "--to", "merged", "--task", "one", "--out", tmp_path / "out")
    assert code == 0, text
    assert cl_plugins.load(tmp_path / "out").config.labels == ["ant", "bee"]


@pytest.mark.parametrize("form", ["adapter", "tasks"])
def test_export_has_no_adapters_to_write(cli, finished, tmp_path, form):
    code, text = cli("export", finished, "--to", form, "--out", tmp_path / "out")
    assert code == 1
    assert "--to merged" in text
    assert "--to adapter" not in text
    assert not (tmp_path / "out").exists()


def test_evaluate_gives_the_scores_of_the_run(cli, finished, tmp_path):
    code, text = cli("evaluate", finished, "--out", tmp_path / "out", "--json")
    assert code == 0, text
    value = json.loads(text)
    assert value["in_the_run"] == {task: score["score"] for task, score in value["scores"].items()}
    assert set(value["scores"]) == {"one", "two"}
    ours, theirs = (root / "predictions/after_two/two.jsonl" for root in (tmp_path / "out", finished))
    assert ours.read_bytes() == theirs.read_bytes()
    code, text = cli("evaluate", finished, "--after", "one", "--task", "one", "--out", tmp_path / "old", "--json")
    assert code == 0, text
    value = json.loads(text)
    assert value["in_the_run"]["one"] == value["scores"]["one"]["score"]


def test_evaluate_on_another_test_set(cli, finished, data, tmp_path):
    words = ["--test-set", "1_train", "--scorer", "exact_match", "--out", tmp_path / "out", "--json"]
    code, text = cli("evaluate", finished, *words)
    assert code == 0, text
    (score,) = json.loads(text)["scores"].values()
    assert score["n"] == 10


def test_evaluate_refuses_settings_of_generated_answers(cli, finished, tmp_path):
    words = ["--max-new-tokens", "4", "--options-column", "options", "--out", tmp_path / "out"]
    code, text = cli("evaluate", finished, *words)
    assert code == 2
    assert "--max-new-tokens, --options-column" in text
    assert "the answers of this run are classes" in text
    code, text = cli("evaluate", finished, "--backend", "vllm", "--out", tmp_path / "out")
    assert code == 2
    assert "the answers of this recipe are classes" in text


def test_llama_factory_sends_such_a_recipe_to_its_command(keys):
    from llamafactory.hparams import get_train_args

    with pytest.raises(RecipeError, match="Start this recipe with `cl-plugins run`"):
        get_train_args(dict(keys))


@pytest.mark.parametrize("key", ["cl", "model_name_or_path"])
def test_llama_factory_does_not_open_such_a_model(finished, key):
    from llamafactory.hparams import get_infer_args

    final = str(finished / "final")
    raw = {"template": "default", **({"cl": {"model": final}} if key == "cl" else {key: final})}
    with pytest.raises(RecipeError, match="a classifier on frozen encoders"):
        get_infer_args(raw)
