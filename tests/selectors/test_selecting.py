"""Runs whose model finds out the task by itself: with a perfect selector they answer as the runs that are told."""

from __future__ import annotations

import json

import apart
import pytest
import tiny
import torch
from apart import MARKS, TASKS
from running import NO_TESTS, go, journal, load

from cl_plugins.base.errors import CompatibilityError, RecipeError, RunStateError


SYSTEM = tiny.SYSTEM
SELECTOR = {"kind": "prototype", "features": "text"}
KEYS = {"kind": "keys", "features": "text"}


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory):
    return apart.build(tmp_path_factory.mktemp("data") / "apart")


@pytest.fixture(scope="module")
def runs(llava, told_apart, tmp_path_factory):
    """Directory of a finished run by method and selector."""
    found = {}

    def get(name, selector=None, **options):
        key = json.dumps([name, selector, options])
        if key not in found:
            found[key] = out = tmp_path_factory.mktemp(name) / "run"
            method = {"name": name, **options, **({} if selector is None else {"selector": selector})}
            keys = tiny.recipe(llava, told_apart, out, method, TASKS, max_steps=6, learning_rate=3e-2)
            go(keys)
        return found[key]

    return get


def texts(out, row, task):
    lines = (out / "predictions" / f"after_{row}" / f"{task}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "selector",
    [SELECTOR, {"kind": "ridge", "features": ["text"], "penalty": 0.1}, {**KEYS, "learn": "mean"}],
    ids=["p", "r", "k"],
)
def test_single_task_with_a_perfect_selector_is_its_diagonal(runs, selector):
    told, chosen = runs("single_task"), runs("single_task", selector)
    for last in TASKS:
        for task in TASKS[: TASKS.index(last) + 1]:
            ours, theirs = texts(chosen, last, task), texts(told, task, task)
            assert [line["prediction"] for line in ours] == [line["prediction"] for line in theirs]
            assert {line["route"] for line in ours} == {task}
            assert "route" not in theirs[0]
    assert len({json.dumps([x["prediction"] for x in texts(told, t, t)]) for t in TASKS}) > 1
    assert load(chosen, "matrix.json")["scores"][2] == [load(told, "matrix.json")["scores"][i][i] for i in range(3)]


def test_the_training_is_the_same_with_and_without_a_selector(runs):
    from safetensors.torch import load_file

    for number, task in enumerate(TASKS, start=1):
        files = [
            runs("single_task", s) / "tasks" / f"{number:02d}_{task}" / "update.safetensors" for s in (None, SELECTOR)
        ]
        one, two = map(load_file, files)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[n], two[n]) for n in one)


def test_the_oracle_is_told(runs):
    told, chosen = runs("single_task"), runs("single_task", {"kind": "oracle"})
    for task in TASKS:
        assert [x["prediction"] for x in texts(chosen, "three", task)] == [
            x["prediction"] for x in texts(told, task, task)
        ]
    assert not list(chosen.rglob("selector.safetensors"))


def test_mslora_cr_answers_without_being_told_as_it_answers_when_told(runs):
    told, chosen = runs("mslora_cr"), runs("mslora_cr", SELECTOR)
    for last in TASKS:
        for task in TASKS[: TASKS.index(last) + 1]:
            ours, theirs = texts(chosen, last, task), texts(told, last, task)
            assert [line["prediction"] for line in ours] == [line["prediction"] for line in theirs]
            assert {line["route"] for line in ours} == {task}


@pytest.mark.parametrize("name", ["single_task", "mslora_cr"])
def test_keys_train_with_the_task(llava, told_apart, tmp_path, name):
    """The keys' term is logged, the keys are carried, and they are near the mean of the features."""
    from safetensors.torch import load_file

    found = {}
    for learn, steps in (("training", 40), ("mean", 1)):
        method = {"name": name, "selector": {**KEYS, "learn": learn}}
        keys = tiny.recipe(llava, told_apart, tmp_path / learn, method, TASKS, max_steps=steps, learning_rate=1e-3)
        keys["cl"]["stream"]["tasks"] = keys["cl"]["stream"]["tasks"][:2]
        keys["cl"]["eval"] = NO_TESTS["eval"]
        go(keys)
        found[learn] = load_file(tmp_path / learn / "carry" / "selector.safetensors")["keys"]
    assert found["training"].shape == found["mean"].shape
    assert torch.cosine_similarity(found["training"], found["mean"]).min() > 0.99
    update = load_file(tmp_path / "training" / "tasks" / "01_one" / "update.safetensors")
    assert sum(n.endswith("cl_key_text") for n in update) == 1
    history = load(tmp_path / "training", "tasks/02_two/trainer_state.json")["log_history"]
    assert [entry for entry in history if entry.get("penalty/keys", 0) > 0]


def test_a_low_rank_update_of_the_projector_is_refused(llava):
    """Recipes cannot ask for one; a custom trainer can."""
    from transformers import LlavaForConditionalGeneration

    from cl_plugins.adapters.held_base import HeldBase
    from cl_plugins.selectors.router import check_rows

    base = HeldBase(LlavaForConditionalGeneration.from_pretrained(llava))
    check_rows(base, ["model.language_model.layers.0.self_attn.q_proj", "lm_head"])
    with pytest.raises(CompatibilityError, match=r"lora_target: names '.*linear_1', which computes pictures"):
        check_rows(base, ["model.multi_modal_projector.linear_1"])


@pytest.mark.parametrize("method", [{"name": "single_task"}, {"name": "branchlora", "branches": 4}], ids=["s", "b"])
def test_a_key_that_no_row_has_pulled_is_not_carried(llava, data, tmp_path, method):
    """Weight decay moves also the key of pictures of a task of texts."""
    import shutil

    from safetensors.torch import load_file

    shutil.copytree(data, tmp_path / "data")
    for split in ("train", "test"):
        file = tmp_path / "data" / f"one_{split}.json"
        records = json.loads(file.read_text())
        for record in records:
            record["images"] = []
            record["messages"][0]["value"] = record["messages"][0]["value"].replace("<image>", "")
        file.write_text(json.dumps(records))
    method = {**method, "selector": {"kind": "keys"}}
    keys = tiny.recipe(
        llava, tmp_path / "data", tmp_path / "run", method, ("one", "two"), max_steps=3, weight_decay=0.05
    )
    keys["cl"]["eval"] = NO_TESTS["eval"]
    keys.pop("additional_target")
    go(keys)
    found = load_file(tmp_path / "run" / "carry" / "selector.safetensors")["keys"]
    vision, text = found.unflatten(1, (2, -1)).unbind(1)
    assert not vision[0].any()
    assert vision[1].any()
    assert text.any(dim=1).all()


def test_accuracy_stands_in_journal_scores_and_report(runs):
    from cl_plugins.report import write_report

    out = runs("single_task", SELECTOR)
    numbers = [
        e["details"]["numbers"]["selected_training_samples"] for e in journal(out) if e["step"].startswith("train")
    ]
    assert numbers == [100.0] * 3
    extra = load(out, "predictions/after_three/two.score.json")["extra"]
    assert extra["selected"] == 100.0
    assert extra["routes"] == {"two": 6}
    write_report(out)
    page = (out / "report.md").read_text()
    assert "Which task's part answered" in page
    assert "| two | 0.0 | **100.0** | 0.0 |" in page
    assert "No task was given at test" in page
    assert "Which task's part answered" in (out / "report.html").read_text()


def test_the_projector_of_the_choice_is_used_per_picture(runs):
    """Two tasks' questions in one batch: each as the run that was told answered it."""
    from PIL import Image
    from transformers import AutoProcessor

    out = runs("single_task", SELECTOR)
    model, state, base = rebuilt(out)
    processor = AutoProcessor.from_pretrained(base)
    processor.tokenizer.padding_side = "left"
    lines, prompts, pictures = [], [], []
    folder = load_recipe(out)["dataset_dir"]
    for task in TASKS:
        records = json.loads(open(f"{folder}/{task}_test.json").read())
        for record, line in list(zip(records, texts(out, "three", task), strict=True))[:3]:
            lines.append((line["route"], line["prediction"]))
            prompts.append(f"{SYSTEM} USER: {record['messages'][0]['value']} ASSISTANT:")
            pictures.append(Image.open(f"{folder}/{record['images'][0]}"))
    inputs = processor(text=prompts, images=pictures, return_tensors="pt", padding=True)
    with state.recording() as seen, torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=3, eos_token_id=2)
    answers = processor.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert list(zip(seen[0]["route"], answers, strict=True)) == lines


def load_recipe(out):
    return load(out, "run.json")["recipe"]


def rebuilt(out):
    """The model of the last row, from the carry."""
    from transformers import LlavaForConditionalGeneration

    from cl_plugins.adapters.rows import state_of
    from cl_plugins.callbacks.learner import PlainBase
    from cl_plugins.contract.carry import Carry
    from cl_plugins.methods.registry import make_method

    folder = load_recipe(out)["model_name_or_path"]
    method = make_method("single_task", {"selector": SELECTOR})
    base = PlainBase(LlavaForConditionalGeneration.from_pretrained(folder))
    model = method.restore(base, Carry.open(out / "carry")).eval()
    return model, state_of(model), folder


def test_final_is_routed_and_tasks_are_exported(runs):
    out = runs("single_task", SELECTOR)
    assert load(out, "final/MANIFEST.json")["kind"] == "routed"


def test_another_selector_than_the_carrys_is_refused(llava, told_apart, tmp_path):
    def keys(out, task, selector, **block):
        method = {"name": "single_task", "selector": selector}
        return tiny.recipe(llava, told_apart, out, method, TASKS, max_steps=1, cl={"only": task, **NO_TESTS, **block})

    go(keys(tmp_path / "one", "one", SELECTOR))
    with pytest.raises(RunStateError, match=r"prototype.*this recipe's is.*ridge"):
        go(keys(tmp_path / "two", "two", {**SELECTOR, "kind": "ridge"}, carry_from=str(tmp_path / "one")))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "single_task", "selector": {"kind": "nearest"}}, "no selector called 'nearest'"),
        ({"name": "mslora_cr", "inference": "all", "selector": SELECTOR}, "Leave `inference` out"),
        ({"name": "mslora_cr", "selector": {"kind": "ridge", "features": "hidden"}}, "features of the frozen base"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_loads(llava, told_apart, tmp_path, method, message):
    with pytest.raises(RecipeError, match=message):
        tiny.checked(tiny.recipe(llava, told_apart, tmp_path / "run", method, TASKS))


@pytest.mark.parametrize("name", ["hide", "disco", "branchlora"])
def test_features_of_a_base_that_goes_on_training_are_refused(llava, told_apart, tmp_path, name):
    """The projector continues under these methods; an oracle reads no features, and text has no projector."""
    own = {"branches": 4} if name == "branchlora" else {}

    def keys(kind, **more):
        method = {"name": name, **own, "selector": {"kind": kind, "features": "hidden"}}
        return tiny.recipe(llava, told_apart, tmp_path / "run", method, TASKS, **more)

    with pytest.raises(RecipeError, match="features of the frozen base") as caught:
        tiny.checked(keys("prototype"))
    assert [problem.where for problem in caught.value.problems] == ["cl.method.selector.features"]
    tiny.checked(keys("oracle"))
    tiny.checked({k: v for k, v in keys("prototype").items() if k != "additional_target"})


@pytest.fixture(scope="module")
def alike(llava, data, tmp_path_factory):
    """Runs on tasks that no text tells apart, told and not, the latter with an oracle row."""
    folder = tmp_path_factory.mktemp("alike")
    for name, selector, block in (("told", None, {}), ("chosen", SELECTOR, {"oracle": True})):
        method = {"name": "single_task", **({} if selector is None else {"selector": selector})}
        keys = tiny.recipe(llava, data, folder / name, method, TASKS, max_steps=6, learning_rate=3e-2)
        keys["cl"]["eval"].update(block)
        go(keys)
    return folder / "told", folder / "chosen", keys


def test_the_oracle_row_is_answered_by_the_true_tasks_part(alike):
    told, chosen, _ = alike
    wrong = 0
    for task in TASKS:
        ours, theirs = texts_of(chosen / "predictions" / "oracle" / f"{task}.jsonl"), texts(told, task, task)
        assert [line["prediction"] for line in ours] == [line["prediction"] for line in theirs]
        assert {line["route"] for line in ours} == {task}
        wrong += sum(line["route"] != task for line in texts(chosen, "three", task))
    assert wrong >= 6  # the selector is no help here, or nothing would be shown
    assert [e["step"] for e in journal(chosen)][-4:] == [*(f"evaluate:oracle:{t}" for t in TASKS), "finish"]
    assert load(chosen, "matrix.json")["tasks"] == list(TASKS)


def texts_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_report_shows_the_oracle_row_beside_the_chosen_one(alike):
    from cl_plugins.report import write_report

    told, chosen, _ = alike
    write_report(chosen)
    page = (chosen / "report.md").read_text()
    scores = [load(chosen, f"predictions/oracle/{t}.score.json")["score"] for t in TASKS]
    assert scores == [load(told, "matrix.json")["scores"][i][i] for i in range(3)]
    last = load(chosen, "matrix.json")["scores"][-1]
    line = next(x for x in page.splitlines() if x.startswith("| lost by the choice"))
    lost = [float(x.replace("−", "-")) for x in line.strip("| ").split(" | ")[1:]]
    assert lost[:3] == pytest.approx([a - b for a, b in zip(scores, last, strict=True)], abs=0.01)
    assert lost[3] == pytest.approx(sum(lost[:3]) / 3, abs=0.02)
    assert (chosen / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert "![Heat map of the choices](confusion.png)" in page
    assert "The same items answered with the part of their own task" in (chosen / "report.html").read_text()


def test_an_oracle_row_may_be_asked_for_later(llava, data, tmp_path):
    method = {"name": "single_task", "selector": SELECTOR}
    keys = tiny.recipe(llava, data, tmp_path / "run", method, TASKS[:2], max_steps=1)
    go(keys)
    keys["cl"]["eval"]["oracle"] = True
    go(keys)
    assert [e["step"] for e in journal(tmp_path / "run")][-2:] == ["evaluate:oracle:one", "evaluate:oracle:two"]


def test_a_longer_stream_has_its_oracle_row_at_its_end(llava, data, tmp_path):
    method = {"name": "single_task", "selector": SELECTOR}
    for names in (TASKS[:2], TASKS):
        keys = tiny.recipe(llava, data, tmp_path / "run", method, names, max_steps=1)
        keys["cl"]["eval"]["oracle"] = True
        go(keys)
    steps = [e["step"] for e in journal(tmp_path / "run")]
    assert steps[-4:] == [*(f"evaluate:oracle:{t}" for t in TASKS), "finish"]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize(
    "method", ["seqlora", "moelora", "mslora_cr", {"name": "single_task", "selector": {"kind": "oracle"}}]
)
def test_an_oracle_row_needs_a_model_that_finds_out_the_task(llava, data, tmp_path, method):
    keys = tiny.recipe(llava, data, tmp_path / "run", method, TASKS)
    keys["cl"]["eval"]["oracle"] = True
    with pytest.raises(RecipeError, match="does not find out a task"):
        tiny.checked(keys)


@pytest.mark.parametrize("name", ["hide", "disco"])
def test_weighted_experts_under_every_selector(llama, tmp_path, name):
    """Where the choice is sharp DISCO answers as the single tasks do; the task that is told gives the same."""
    data = tiny.build_data(tmp_path / "texts", TASKS, text_only=True)
    for task in TASKS:
        for split in ("train", "test"):
            file = data / f"{task}_{split}.json"
            file.write_text(file.read_text().replace("what colour", f"{MARKS[task]}: what colour"))

    def run(out, method, **block):
        more = {"max_steps": 6, "learning_rate": 3e-2}
        keys = tiny.recipe(llama, data, tmp_path / out, method, TASKS, text_only=True, **more)
        keys["cl"]["eval"].update(block)
        go(keys)
        return tmp_path / out

    told = (
        run("single", "single_task")
        if name == "disco"
        else run("told", {"name": name, "selector": {"kind": "oracle"}})
    )
    for kind in ("anchors", "prototype", "ridge"):
        more = {"penalty": 1e-6} if kind == "ridge" else {}
        selector = {"kind": kind, "features": "text", **more}
        out = run(kind, {"name": name, "temperature": 1e-3, "selector": selector}, oracle=True)
        for task in TASKS:
            chosen, asked = texts(out, "three", task), texts_of(out / "predictions" / "oracle" / f"{task}.jsonl")
            assert {line["route"] for line in [*chosen, *asked]} == {task}
            expected = texts(told, task if name == "disco" else "three", task)
            assert [x["prediction"] for x in asked] == [x["prediction"] for x in expected]
            assert [x["prediction"] for x in chosen] == [x["prediction"] for x in expected]


def test_a_question_without_a_picture_among_pictures(llava, told_apart, tmp_path):
    """A task of texts between tasks of pictures, under every selector that looks at both."""
    import shutil

    data = tmp_path / "data"
    shutil.copytree(told_apart, data)
    info = json.loads((data / "dataset_info.json").read_text())
    for split in ("train", "test"):
        records = json.loads((data / f"two_{split}.json").read_text())
        for record in records:
            record.pop("images")
            record["messages"][0]["value"] = record["messages"][0]["value"].replace("<image>", "")
        (data / f"two_{split}.json").write_text(json.dumps(records))
        info[f"two_{split}"]["columns"].pop("images")
    (data / "dataset_info.json").write_text(json.dumps(info))
    for method in (
        {"name": "single_task", "selector": {"kind": "prototype"}},
        {"name": "mslora_cr", "selector": {"kind": "ridge"}},
        {"name": "hide"},
        {"name": "disco", "temperature": 1e-3, "selector": {"kind": "anchors"}},
    ):
        out = tmp_path / f"{method['name']}"
        keys = tiny.recipe(llava, data, out, method, TASKS, max_steps=1)
        keys.pop("additional_target")
        go(keys)
        for task in TASKS:
            assert {line["route"] for line in texts(out, "three", task)} <= set(TASKS)
        assert {line["route"] for line in texts(out, "three", "two")} == {"two"}
