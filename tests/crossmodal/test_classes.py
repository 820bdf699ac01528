"""Which classes a head has learned: those of the tasks that were trained, whatever their rows hold."""

from __future__ import annotations

import json

import pytest
import torch
from encoder_runs import REPLAY
from method_cases import slow_unless
from safetensors.torch import load_file
from small_encoders import small_recipe, stream, write
from tiny_encoders import CONFIGS, batch_of, classifier, encoder

import cl_plugins
from cl_plugins.base.errors import CompatibilityError, DataError, RecipeError
from cl_plugins.cli import main
from cl_plugins.crossmodal.model import CrossModalClassifier
from cl_plugins.encoders.launch import run_recipe


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("cl_plugins.report.write_report", lambda *args: None)
    monkeypatch.setattr("cl_plugins.report.terminal_table", lambda *args: "")


METHODS = {
    "crossmodal": ({"name": "crossmodal"}, REPLAY),
    "seqfull": ({"name": "seqfull"}, {}),
    "lwf": ({"name": "lwf"}, {}),
    "ewc": ({"name": "ewc", "weight": 10.0, "fisher_samples": 4}, {}),
    "der": ({"name": "der"}, REPLAY),
    "joint": ({"name": "multitask"}, {}),
}


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return write(folder, stream(folder, ["ant"], ["bee"], ["cat"]))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_stream_of_one_class_per_step(single, tmp_path, name, decay):
    method, replay = METHODS[name]
    raw = small_recipe(single, tmp_path / "run", method, tasks=3, cl={"replay": replay}, weight_decay=decay)
    run_recipe(raw)
    rows = json.loads((tmp_path / "run/matrix.json").read_text())["scores"]
    if name != "joint":
        assert rows[0][0] == 100  # there is one class
    assert cl_plugins.load(tmp_path / "run").config.labels == ["ant", "bee", "cat"]


def test_an_export_after_the_first_class_has_it(single, tmp_path):
    run_recipe(small_recipe(single, tmp_path / "run", {"name": "lwf"}, tasks=1, cl={"replay": {}}))
    assert main(["export", str(tmp_path / "run"), "--to", "merged", "--out", str(tmp_path / "out")]) == 0
    assert CrossModalClassifier.from_pretrained(tmp_path / "out").config.labels == ["ant"]


def test_a_first_class_is_in_the_finished_model(single, tmp_path):
    run_recipe(small_recipe(single, tmp_path / "run", {"name": "seqfull"}, tasks=1, cl={"replay": {}}))
    model = cl_plugins.load(tmp_path / "run")
    assert model.config.labels == ["ant"]
    assert not model.classifier.weight.any()  # nothing to tell it from


def test_one_step_per_task_is_enough(tmp_path):
    """Distillation and preservation are rightly zero at the first step."""
    data = write(tmp_path / "data", stream(tmp_path, ["ant", "bee"], ["cat", "dog"]))
    run_recipe(small_recipe(data, tmp_path / "run", max_steps=1))


@pytest.mark.parametrize("name", slow_unless(METHODS, ("crossmodal", "ewc")))
def test_bf16_on_a_cpu_resumed_after_every_step(tmp_path, name):
    data = write(tmp_path / "data", stream(tmp_path, ["ant", "bee"], ["cat", "dog"]))
    method, replay = METHODS[name]
    run_recipe(small_recipe(data, tmp_path / "whole", method, cl={"replay": replay}, bf16=True))
    for _ in range(12):
        run_recipe(small_recipe(data, tmp_path / "parts", method, cl={"replay": replay, "stop_after": 1}, bf16=True))
        if (tmp_path / "parts/final/MANIFEST.json").is_file():
            break
    one, two = (load_file(tmp_path / run / "final/model.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)


NAMES = [("malignant", "malignant?"), ("Stage II", "stage ii"), ("fi\u00e8vre", "fie\u0300vre"), (" ant", "ant")]


@pytest.mark.parametrize("pair", NAMES)
def test_names_that_the_scorer_takes_for_each_other_are_refused(tmp_path, pair):
    data = write(tmp_path / "data", stream(tmp_path, [pair[0], "bee"], [pair[1], "dog"]))
    with pytest.raises(DataError) as found:
        run_recipe(small_recipe(data, tmp_path / "run"))
    text = str(found.value)
    assert text.count("`exact_match` takes") == 1
    assert all(repr(name) in text for name in pair)
    assert "1_train.jsonl, record 1" in text
    assert "2_train.jsonl, record 1" in text
    assert not (tmp_path / "run/tasks").exists()


def test_a_reference_must_be_written_as_its_class(tmp_path):
    sets = stream(tmp_path, ["ant", "bee"], ["cat", "dog"])
    sets["2_test"][1]["label"] = "Dog"
    with pytest.raises(DataError, match=r"2_test\.jsonl, record 2.*'Dog'.*'dog'"):
        run_recipe(small_recipe(write(tmp_path / "data", sets), tmp_path / "run"))


def test_another_scorer_takes_other_names_for_each_other(tmp_path):
    data = write(tmp_path / "data", stream(tmp_path, ["ant", "bee"], ["ant eater", "dog"]))
    tasks = [{"name": f"t{n}", "train": f"{n}_train", "test": f"{n}_test", "scorer": "starts_with"} for n in (1, 2)]
    with pytest.raises(DataError, match=r"'ant eater'.*`starts_with` takes|takes for 'ant eater'"):
        run_recipe(small_recipe(data, tmp_path / "run", cl={"stream": {"name": "toy", "tasks": tasks}}))


def test_a_text_must_fit_its_encoder(tmp_path):
    data = write(tmp_path / "data", stream(tmp_path, ["ant", "bee"], ["cat", "dog"]))
    for family, most in (("bert", 16), ("roberta", 14)):
        config = {**CONFIGS[family], "num_hidden_layers": 2, "max_position_embeddings": 16}
        raw = small_recipe(data, tmp_path / "run")
        raw["encoders"] = {**raw["encoders"], "words": {"kind": "text", "config": config}}
        with pytest.raises(RecipeError, match=rf"encoders\.words\.max_length: is 64.*positions for {most} tokens"):
            run_recipe(raw)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_the_longest_text_that_is_allowed_can_be_encoded(family):
    from cl_plugins.crossmodal.encoders import config_of, make_encoder
    from cl_plugins.crossmodal.inputs import EncoderSpec
    from cl_plugins.encoders.checking import length_problems

    config = config_of({**CONFIGS[family], "max_position_embeddings": 16})
    lengths = [n for n in range(1, 20) if not length_problems("", EncoderSpec("text", "x", max_length=n), config)]
    made = make_encoder(config)
    ids = torch.full((1, max(lengths)), 5)
    made(input_ids=ids, attention_mask=torch.ones_like(ids))
    more = torch.full((1, max(lengths) + 1), 5)
    with pytest.raises((IndexError, RuntimeError)):
        made(input_ids=more, attention_mask=torch.ones_like(more))


# --- from Python


def test_a_name_is_given_once():
    with pytest.raises(CompatibilityError, match="'a' twice"):
        classifier(labels=("a", "a"))
    model = classifier()
    with pytest.raises(CompatibilityError, match="'c' twice"):
        model.add_labels(["c", "c"])
    assert model.config.labels == ["a", "b"]


@pytest.mark.parametrize("adapters", ["multiplicative", "additive", "none"])
def test_encoders_in_another_dtype(tmp_path, adapters):
    encoders = {name: encoder(name).to(torch.bfloat16) for name in ("vit", "bert", "signal")}
    made = {"blocks": 2, "experts": 4, "bottleneck": 8, "projection": 16, "adapters": adapters}
    model = CrossModalClassifier.from_encoders(encoders, labels=["a", "b"], **made)
    model(**batch_of(), labels=torch.tensor([0, 1, 0])).loss.backward()
    with torch.no_grad():
        model.classifier.weight.normal_()
        found = model.eval()(**batch_of()).logits
    model.save_pretrained(tmp_path)
    again = CrossModalClassifier.from_pretrained(tmp_path)
    assert again(**batch_of()).logits.shape == found.shape


def test_the_first_token_of_every_frame_counts():
    model, batch = classifier(pool="first", adapters="none", double=True), batch_of(double=True)
    frames = torch.randn(3, 4, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        hidden = {}
        model.projections["vit"].register_forward_pre_hook(lambda m, args: hidden.update(vit=args[0]))
        alone = []
        for number in range(4):
            model(**{**batch, "vit.pixel_values": frames[:, number]})
            alone.append(hidden["vit"])
        model(**{**batch, "vit.pixel_values": frames})
    assert torch.allclose(hidden["vit"], torch.stack(alone).mean(0))
