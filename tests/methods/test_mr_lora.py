"""MR-LoRA: a router LoRA, trained on kept samples in a phase of its own, names the expert of every question."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from method_cases import slow_unless
from running import NO_TESTS, go, journal, load, steps
from safetensors.torch import load_file
from transformers import TrainerCallback

from cl_plugins.base.errors import RecipeError
from cl_plugins.run.deletion import forget, kept_samples
from cl_plugins.testing.resume import results


TASKS = ("one", "two", "three")
MARKS = {"one": "red", "two": "the square", "three": "yes or no"}
ROUTER = {"kind": "mllm", "steps": 60, "learning_rate": 1e-2, "batch_size": 18}
REPLAY = {"replay": {"capacity_per_task": 12}}
METHODS = {
    "mr_lora": {"name": "mr_lora", "selector": ROUTER},
    "mslora_cr": {"name": "mslora_cr", "consolidate": "stack", "selector": ROUTER},
}


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory):
    """Pictures with questions that differ by task, so that a text tells the task."""
    folder = tiny.build_data(tmp_path_factory.mktemp("data") / "apart", TASKS)
    for task in TASKS:
        for split in ("train", "test"):
            file = folder / f"{task}_{split}.json"
            records = json.loads(file.read_text())
            for record in records:
                first = record["messages"][0]
                first["value"] = first["value"].replace(
                    "what colour", f"{MARKS[task]} {MARKS[task]} {MARKS[task]}: what colour"
                )
            file.write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="module")
def runs(llava, told_apart, tmp_path_factory):
    """Directory of a finished run by method; the ones without `selector` are told the task."""
    found = {}

    def get(name, method=None):
        key = json.dumps([name, method])
        if key not in found:
            found[key] = out = tmp_path_factory.mktemp(name) / "run"
            given = method or METHODS[name]
            block = REPLAY if given.get("selector", {}).get("kind") == "mllm" else {}
            go(tiny.recipe(llava, told_apart, out, given, TASKS, max_steps=6, learning_rate=3e-2, cl=dict(block)))
        return found[key]

    return get


def answers(out, row, task):
    lines = (out / "predictions" / f"after_{row}" / f"{task}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def details(out):
    return {entry["step"]: entry["details"] for entry in journal(out)}


@pytest.mark.parametrize("method", slow_unless(METHODS, ("mr_lora",)))
def test_the_router_is_a_training_from_the_second_task_on(runs, method):
    out = runs(method)
    trainings = [step for step in steps(out) if step.startswith("train")]
    assert trainings == ["train:one", "train:two", "train:two:router", "train:three", "train:three:router"]
    found = details(out)
    assert found["train:three:router"]["optimizer_steps"] == 60
    assert found["train:three:router"]["numbers"]["router_accuracy"] == 100.0
    assert "numbers" not in found["train:one"] or "router_accuracy" not in found["train:one"]["numbers"]
    loss = json.loads((out / "tasks" / "03_three.router" / "trainer_state.json").read_text())["log_history"]
    assert loss[59]["loss"] < loss[0]["loss"] - 1  # the tiny model has a frozen output layer, which bounds it
    assert not [key for entry in loss for key in entry if key.startswith("penalty/")]


@pytest.mark.parametrize("method", slow_unless(METHODS, ("mr_lora",)))
def test_with_a_perfect_router_questions_are_answered_as_when_the_task_is_given(runs, method):
    told = runs("told", {"name": "mr_lora", "selector": {"kind": "oracle"}})
    if method == "mslora_cr":
        told = runs("told", {"name": "mslora_cr", "consolidate": "stack"})
    for last in TASKS:
        for task in TASKS[: TASKS.index(last) + 1]:
            ours, theirs = answers(runs(method), last, task), answers(told, last, task)
            assert {line["route"] for line in ours} == {task}
            assert [line["prediction"] for line in ours] == [line["prediction"] for line in theirs]
    assert len({json.dumps([x["prediction"] for x in answers(told, t, t)]) for t in TASKS}) > 1


def test_experts_are_those_of_single_task(runs):
    alone = runs("alone", {"name": "single_task"})
    for number, task in enumerate(TASKS, start=1):
        one, two = (
            load_file(o / "tasks" / f"{number:02d}_{task}" / "update.safetensors") for o in (alone, runs("mr_lora"))
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_samples_of_the_router_are_in_the_buffer_and_nowhere_else(runs):
    out = runs("mr_lora")
    assert sorted(path.name for path in (out / "carry").iterdir()) == [
        "carry.json", "replay", "router.safetensors", "selector.safetensors", "updates",
    ]  # fmt: skip
    kept = kept_samples(out)
    assert [sample.task for sample in kept] == [task for task in TASKS for _ in range(12)]
    assert not list(out.glob("tasks/*/replay.json"))
    names = {path.name for path in out.rglob("*") if path.is_file() and b"three-train-" in path.read_bytes()}
    assert names == {"samples.jsonl", "manifest.json"}


def test_deleted_samples_are_gone_and_the_run_still_answers(llava, told_apart, tmp_path):
    def keys(**block):
        method = METHODS["mr_lora"]
        return tiny.recipe(llava, told_apart, tmp_path / "run", method, TASKS, cl={**NO_TESTS, **REPLAY, **block})

    go(keys(stop_after=5))
    assert steps(tmp_path / "run")[-1] == "consolidate:two"
    gone = forget(tmp_path / "run", lambda sample: sample.id == "one-train-3" or sample.task == "two", "delete")
    assert len(gone) in (12, 13)
    go(keys())
    assert details(tmp_path / "run")["train:three:router"]["numbers"]["router_accuracy"] > 0
    assert {s.task for s in kept_samples(tmp_path / "run")} == {"one", "three"}


@pytest.mark.parametrize("where", slow_unless(("02_two", "02_two.router", "between"), ("02_two.router",)))
def test_a_stop_changes_nothing(llava, told_apart, tmp_path, where):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if args.output_dir.endswith(where) and state.global_step == 3:
                raise KeyboardInterrupt

        def on_train_begin(self, args, state, control, **kwargs):
            if where == "between" and args.output_dir.endswith(".router"):
                raise KeyboardInterrupt

    def keys(out):
        method = {"name": "mr_lora", "selector": {**ROUTER, "steps": 5}}
        more = {"save_strategy": "steps", "save_steps": 2, "lora_dropout": 0.1}
        return tiny.recipe(llava, told_apart, tmp_path / out, method, TASKS[:2], cl=dict(REPLAY), **more)

    go(keys("whole"))
    with pytest.raises(KeyboardInterrupt):
        go(keys("stopped"), [Stop()])
    assert ("train:two" in steps(tmp_path / "stopped")) == (where != "02_two")
    go(keys("stopped"))
    assert results(tmp_path / "stopped") == results(tmp_path / "whole")
    assert not list(tmp_path.rglob("checkpoint-*"))


@pytest.fixture(scope="module")
def ask(runs):
    """Answers of the routed model that is rebuilt from the carry: route and tokens of each row."""
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from cl_plugins.adapters.rows import state_of
    from cl_plugins.callbacks.learner import PlainBase
    from cl_plugins.contract.carry import Carry
    from cl_plugins.methods.registry import make_method

    out = runs("mr_lora")
    keys = load(out, "run.json")["recipe"]
    method = make_method("mr_lora", {"selector": ROUTER})
    base = PlainBase(LlavaForConditionalGeneration.from_pretrained(keys["model_name_or_path"]))
    model = method.restore(base, Carry.open(out / "carry")).eval()
    processor = AutoProcessor.from_pretrained(keys["model_name_or_path"])
    processor.tokenizer.padding_side = "left"

    def answer(rows, **more):
        texts = [f"{tiny.SYSTEM} USER: {text} ASSISTANT:" for text, _ in rows]
        pictures = [Image.open(picture) for _, picture in rows if picture is not None]
        inputs = processor(text=texts, images=pictures or None, return_tensors="pt", padding=True)
        with state_of(model).recording() as seen, torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=3, eos_token_id=2, **more)
        assert len(seen) == 1
        answers = [[t for t in row if t != 3] for row in ids[:, inputs["input_ids"].shape[1] :].tolist()]
        return list(zip(seen[0]["route"], answers, strict=True))

    return answer


def test_the_router_reads_at_test_what_it_was_trained_on(runs, ask):
    """It gives every sample of its training to the task that it comes from."""
    from cl_plugins.contract.carry import Carry
    from cl_plugins.replay.store import Buffer

    buffer = Buffer.open(Carry.open(runs("mr_lora") / "carry"))
    entries = buffer.entries()
    rows = [(record["messages"][0]["content"], buffer.medium(record["images"][0])) for _, record in entries]
    assert [route for route, _ in ask(rows)] == [sample.task for sample, _ in entries]


def test_a_row_is_given_to_the_same_expert_in_every_batch(runs, ask, told_apart):
    """Rows of all tasks, left-padded, with a row without a picture among them."""
    records = [json.loads((told_apart / f"{task}_test.json").read_text())[0] for task in TASKS]
    rows = [(record["messages"][0]["value"], told_apart / record["images"][0]) for record in records]
    rows.append(("red: what colour is this picture?", None))
    together = ask(rows)
    assert [route for route, _ in together[:3]] == list(TASKS)
    assert [ask([row])[0] for row in rows] == together
    assert ask(rows[::-1]) == together[::-1]
    assert ask(rows, use_cache=False) == together


@pytest.mark.parametrize(
    ("selector", "block", "message"),
    [
        ({"kind": "mllm"}, {}, r"capacity_per_task.*is 0"),
        ({"kind": "mllm", "features": "text"}, REPLAY, "reads the prompt itself"),
        ({"kind": "mllm", "letters": {"one": "AB"}}, REPLAY, r"letters.one.*is 'AB'"),
        ({"kind": "mllm", "letters": {"one": "A", "two": "A"}}, REPLAY, "a letter to two tasks"),
        ({"kind": "mllm", "descriptions": {"on": "x"}}, REPLAY, r"descriptions.on.*no task.*one"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_loads(llava, told_apart, tmp_path, selector, block, message):
    method = {"name": "mr_lora", "selector": selector}
    with pytest.raises(RecipeError, match=message):
        tiny.checked(tiny.recipe(llava, told_apart, tmp_path / "run", method, TASKS, cl=dict(block)))


def test_other_selectors_need_no_buffer(llava, told_apart, tmp_path):
    for selector in ({"kind": "oracle"}, {"kind": "prototype", "features": "text"}, {"kind": "ridge"}):
        tiny.checked(tiny.recipe(llava, told_apart, tmp_path, {"name": "mr_lora", "selector": selector}, TASKS))


@pytest.mark.parametrize("name", ["hide", "branchlora"])
def test_a_method_without_separate_parts_takes_no_router(llava, told_apart, tmp_path, name):
    method = {"name": name, "selector": {"kind": "mllm"}}
    with pytest.raises(RecipeError, match=r"selector.kind.*trains a router LoRA"):
        tiny.checked(tiny.recipe(llava, told_apart, tmp_path / "run", method, TASKS, cl=dict(REPLAY), lora_rank=16))
