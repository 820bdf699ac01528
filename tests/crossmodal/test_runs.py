"""Runs with `encoders:`: the same journal, matrix, resume and export as those of a language model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from encoder_runs import CLASSES, ENCODERS, REPLAY, build, recipe
from safetensors.torch import load_file
from tiny_encoders import CONFIGS

import cl_plugins
from cl_plugins.base.errors import RecipeError
from cl_plugins.crossmodal.encoders import config_of, make_encoder
from cl_plugins.crossmodal.inputs import CrossModalProcessor
from cl_plugins.crossmodal.model import CrossModalClassifier
from cl_plugins.encoders.launch import run_recipe
from cl_plugins.run.interrupt import Interrupted


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return build(tmp_path_factory.mktemp("records"))


def scores(out):
    return json.loads((out / "matrix.json").read_text())["scores"]


def logged(out, task):
    history = json.loads((out / "tasks" / task / "trainer_state.json").read_text())["log_history"]
    return {key for entry in history for key in entry}


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Reports are tested elsewhere, and that of `finished` is written."""
    monkeypatch.setattr("cl_plugins.report.write_report", lambda *args: None)
    monkeypatch.setattr("cl_plugins.report.terminal_table", lambda *args: "")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nobody stops."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cl_plugins.report.write_report", lambda *args: None)
        patch.setattr("cl_plugins.report.terminal_table", lambda *args: "")
        run_recipe(recipe(data, out))
    return out


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    run_recipe(recipe(data, out, {"name": "crossmodal", "freeze": "samples"}, logging_steps=1, cl={"eval": {}}))
    return out


def test_a_run_leaves_what_every_run_leaves(finished):
    assert [len(row) for row in scores(finished)] == [2, 2]
    matrix = json.loads((finished / "matrix.json").read_text())
    assert matrix["zero_shot"] == [0, 0]  # before any class is learned there is no answer
    for name in ("run.json", "journal.jsonl", "report.html", "report.md", "matrix.png", "final/MANIFEST.json"):
        assert (finished / name).is_file(), name
    lines = (finished / "predictions/after_two/two.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert {line["reference"] for line in found} == {"cat", "dog"}
    assert {line["prediction"] for line in found} <= set(CLASSES)
    assert not list(finished.glob("tasks/*/checkpoint-*"))


def test_the_losses_join_in_their_steps(finished):
    terms = {f"penalty/{name}" for name in ("memory", "distil", "preserve")}
    assert "penalty/align" in logged(finished, "01_one")
    assert not terms & logged(finished, "01_one")
    assert terms <= logged(finished, "02_two")


def test_frozen_experts_and_encoders_stay_bit_for_bit(finished):
    record = json.loads((finished / "carry/carry.json").read_text())
    first = load_file(finished / "tasks/01_one/update.safetensors")
    second = load_file(finished / "tasks/02_two/update.safetensors")
    last = load_file(finished / "carry/classifier.safetensors")
    usage = load_file(finished / "tasks/01_one/usage.safetensors")["assignments"]
    assert usage.sum(1).tolist() == [20, 20]  # ten samples, two experts each, per adapter
    frozen = {(a, e) for a in range(2) for e in range(4) if usage[a, e] / 10 > 0.1}
    assert frozen
    assert all(e in record["meta"]["frozen"][a] for a, e in frozen)
    names = {name for name in first for a, e in frozen if name.startswith(f"adapters.{a}.experts.{e}.")}
    assert names
    assert not names & set(second)
    assert all(torch.equal(last[name], first[name]) for name in names)
    assert all(torch.equal(last[name], second[name]) for name in second)
    assert not any(name.startswith("encoders.") for name in last)


def test_encoders_are_those_of_the_recipe_bit_for_bit(finished):
    final = CrossModalClassifier.from_pretrained(finished / "final")
    for name, spec in ENCODERS.items():
        torch.manual_seed(0)  # `seed` of an encoder
        fresh = make_encoder(config_of(spec["config"])).state_dict()
        kept = final.encoders[name].encoder.state_dict()
        assert fresh.keys() == kept.keys()
        assert all(torch.equal(value, kept[key]) for key, value in fresh.items())


def test_two_modalities(data, tmp_path):
    """K = 2: frozen experts stay as they are, and a sample without a sound is one of the words alone."""
    two = {name: ENCODERS[name] for name in ("sound", "words")}
    out = tmp_path / "run"
    run_recipe(recipe(data, out, {"name": "crossmodal", "freeze": "samples"}, encoders=two, save_strategy="no"))
    frozen = json.loads((out / "carry/carry.json").read_text())["meta"]["frozen"]
    first = load_file(out / "tasks/01_one/update.safetensors")
    second = load_file(out / "tasks/02_two/update.safetensors")
    last = load_file(out / "carry/classifier.safetensors")
    kept = set(first) - set(second)
    assert kept
    assert all(name.startswith("adapters.") for name in kept)
    assert {(int(n.split(".")[1]), int(n.split(".")[3])) for n in kept} <= {
        (a, e) for a, numbers in enumerate(frozen) for e in numbers
    }
    assert all(torch.equal(last[name], first[name]) for name in kept)


def test_final_opens_with_transformers_and_answers_as_the_run(finished, data):
    model = cl_plugins.load(finished)
    assert isinstance(model, CrossModalClassifier)
    processor = CrossModalProcessor.from_pretrained(finished / "final", model.config)
    assert model.config.labels == list(CLASSES)
    records = [json.loads(line) for line in (data / "2_test.jsonl").read_text().splitlines()]
    given = [{k: str(data / v) if k in ("picture", "sound") else v for k, v in r.items()} for r in records]
    with torch.no_grad():
        answers = [CLASSES[i] for i in model(**processor(given)).logits.argmax(-1).tolist()]
    lines = (finished / "predictions/after_two/two.jsonl").read_text().splitlines()
    assert answers == [json.loads(line)["prediction"] for line in lines]


def test_a_run_with_a_start_per_step_ends_as_one_without(data, whole, tmp_path):
    for _ in range(20):
        run_recipe(recipe(data, tmp_path / "parts", cl={"stop_after": 1}))
        if (tmp_path / "parts/final/MANIFEST.json").is_file():
            break
    compare(whole, tmp_path / "parts")


def compare(one, two):
    assert scores(one) == scores(two)
    for name in ("carry/classifier.safetensors", "tasks/02_two/update.safetensors"):
        first, second = load_file(one / name), load_file(two / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    assert (one / "carry/replay/samples.jsonl").read_bytes() == (two / "carry/replay/samples.jsonl").read_bytes()


@pytest.mark.parametrize("task", ["one", "two"])
def test_a_training_is_resumed_from_its_checkpoint(data, whole, tmp_path, task):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        """As a signal in the third step of a task; from step 2 there is a checkpoint."""

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3 and task in args.output_dir:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe(data, tmp_path / "stopped"), [Stop()])
    checkpoints = list((tmp_path / "stopped").glob(f"tasks/*_{task}/checkpoint-2"))
    assert [(path / "trained.safetensors").is_file() for path in checkpoints] == [True]
    assert not (checkpoints[0] / "model.safetensors").exists()  # the frozen encoders are in no checkpoint
    run_recipe(recipe(data, tmp_path / "stopped"))
    compare(whole, tmp_path / "stopped")


def test_sigterm_ends_with_a_checkpoint(data, tmp_path):
    import os
    import signal

    from transformers import TrainerCallback

    class Signal(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run_recipe(recipe(data, tmp_path / "run"), [Signal()])
    assert list((tmp_path / "run").glob("tasks/*/checkpoint-*"))


BASELINES = {
    "seqfull": ({"name": "seqfull"}, {}),
    "replay": ({"name": "seqfull"}, REPLAY),
    "ewc": ({"name": "ewc", "weight": 10.0, "fisher_samples": 4}, {}),
    "lwf": ({"name": "lwf"}, {}),
    "der": ({"name": "der"}, REPLAY),
    "der_full": ({"name": "der", "store": "full"}, REPLAY),
    "joint": ({"name": "multitask"}, {}),
    "no freezing": ({"name": "crossmodal", "freeze": "none"}, REPLAY),
    "contrastive": ({"name": "crossmodal", "align": "contrastive"}, REPLAY),
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_train_the_same_classifier(data, tmp_path, name):
    method, replay = BASELINES[name]
    out = tmp_path / "run"
    run_recipe(recipe(data, out, method, cl={"replay": replay}, max_steps=2, save_strategy="no"))
    assert (out / "final/MANIFEST.json").is_file()
    rows = scores(out)
    assert all(value is not None for value in rows[-1])
    model = CrossModalClassifier.from_pretrained(out / "final")
    assert model.config.labels == list(CLASSES)


def test_no_adapters_is_a_baseline_too(data, tmp_path):
    keys = {"classifier": {"adapters": "none", "projection": 8, "blocks": 1}}
    run_recipe(recipe(data, tmp_path / "run", max_steps=2, **keys))
    assert not any("adapters" in name for name in load_file(tmp_path / "run/carry/classifier.safetensors"))


def test_the_same_labels_in_a_new_domain(data, tmp_path):
    """Domain-incremental: the head has all classes from the first step on."""
    tasks = [{"name": n, "train": "1_train", "test": "1_test"} for n in ("first", "second")]
    run_recipe(recipe(data, tmp_path / "run", cl={"stream": {"name": "domains", "tasks": tasks}}))
    model = CrossModalClassifier.from_pretrained(tmp_path / "run/final")
    assert model.config.labels == ["ant", "bee"]


def test_a_step_that_is_appended_makes_the_head_grow(data, whole, tmp_path):
    tasks = [{"name": n, "train": f"{i}_train", "test": f"{i}_test"} for i, n in enumerate(("one", "two"), start=1)]
    for count in (1, 2):
        run_recipe(recipe(data, tmp_path / "run", cl={"stream": {"name": "toy", "tasks": tasks[:count]}}))
    one, two = (load_file(path / "carry/classifier.safetensors") for path in (tmp_path / "run", whole))
    assert all(torch.equal(one[name], two[name]) for name in two)


# --- what is refused before anything loads


def problems(raw):
    with pytest.raises(RecipeError) as found:
        run_recipe(raw)
    return str(found.value)


def test_wrong_recipes_are_refused_with_every_problem(data, tmp_path):
    raw = recipe(data, tmp_path / "run", {"name": "olora"})
    raw["template"] = "llava"
    raw["learning_rat"] = 1
    raw["do_eval"] = True
    raw["encoders"] = {**ENCODERS, "other": {"kind": "vision", "config": CONFIGS["bert"]}, "none": {"kind": "text"}}
    raw["classifier"] = {"block": 2}
    text = problems(raw)
    for part in (
        "template",
        "learning_rate",
        "do_eval",
        "'olora' is not tested",
        "encoders.other.kind",
        "encoders.none",
        "classifier.block",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("name", "value"),
    [("ACCELERATE_USE_FSDP", "true"), ("ACCELERATE_USE_DEEPSPEED", "1"), ("ACCELERATE_MIXED_PRECISION", "fp16")],
)
def test_engines_that_the_environment_chooses_are_refused(data, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert name in problems(recipe(data, tmp_path / "run"))


def test_more_choices_than_experts_are_refused(data, tmp_path):
    assert "classifier.top" in problems(recipe(data, tmp_path / "run", classifier={"top": 9, "experts": 4}))


def test_selections_by_features_are_refused(data, tmp_path):
    raw = recipe(data, tmp_path / "run", cl={"replay": {"capacity_total": 8, "selection": "herding"}})
    assert "cl.replay.selection" in problems(raw)


def test_broken_records_are_named(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    lines = [json.loads(line) for line in (folder / "1_train.jsonl").read_text().splitlines()]
    lines[0]["picture"] = "gone.png"
    del lines[1]["label"]
    lines[2] = {"id": "x", "label": "ant"}
    (folder / "1_train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    text = problems(recipe(folder, tmp_path / "run"))
    assert "record 1, picture" in text
    assert "gone.png" in text
    assert "record 2: has no `label`" in text
    assert "record 3: has none of the modalities" in text


def test_a_language_model_is_no_base_for_it():
    from cl_plugins.contract.capabilities import RunFacts
    from cl_plugins.methods.registry import make_method
    from cl_plugins.streams import Stream

    found = make_method("crossmodal", {}).problems(RunFacts("full", Stream("s", ())))
    assert [p.where for p in found] == ["cl.method.name"]
