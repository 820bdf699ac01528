"""Replay and DER in custom trainers: the same samples and weights as in a recipe, and nothing kept unasked."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tiny
import torch
from custom_trainer import LORA, alone, learn
from datasets import Dataset
from method_cases import REPLAY_CASES
from peft import LoraConfig
from regularised import gap
from running import NO_TESTS, go
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from cl_plugins.base.errors import CompatibilityError, DataError, RecipeError, RunStateError
from cl_plugins.callbacks import ContinualCallback, ContinualLearner, ContinualTrainerMixin
from cl_plugins.cli import main
from cl_plugins.contract.carry import Carry
from cl_plugins.replay.store import CANDIDATES, Buffer


TASKS = ("one", "two")


class MyTrainer(ContinualTrainerMixin, Trainer):
    pass


def buffer(out):
    return Buffer.open(Carry.open(out / "carry"))


#: Ways of replaying whose siblings are part of `make test`; they are in `make test-slow`.
SLOW = ("ratio", "highest_loss", "agem", "ilora", "der_full")
CASES = [
    pytest.param(case, id=case.id, marks=pytest.mark.slow if case.id in SLOW else ())
    for case in REPLAY_CASES
    if case.learner
]


@pytest.mark.parametrize("case", CASES)
def test_samples_and_weights_are_those_of_a_recipe(case, llama, tmp_path):
    options, replay = dict(case.method), dict(case.replay)
    method = options.pop("name")
    data = tiny.build_data(tmp_path / "texts", TASKS, train=8, test=1, text_only=True)

    def keys(out):
        given = {"name": method, **options}
        cl = {**NO_TESTS, "replay": replay}
        return tiny.recipe(llama, data, out, given, TASKS, text_only=True, cl=cl, max_steps=4)

    go(keys(tmp_path / "recipe"))
    model = AutoModelForCausalLM.from_pretrained(llama)
    learner = ContinualLearner(model, method, tmp_path / "own", LORA, options, seed=7, replay=replay)
    for number, name in enumerate(TASKS, start=1):
        learn(learner, name, alone(keys(tmp_path / name), name, number))
    own, recipe = buffer(tmp_path / "own").samples, buffer(tmp_path / "recipe").samples
    assert [(s.task, s.row, s.key) for s in own] == [(s.task, s.row, s.key) for s in recipe]
    assert [s.score or 0 for s in own] == pytest.approx([s.score or 0 for s in recipe], rel=1e-4)
    assert {s.task for s in own} == set(TASKS)
    for folder in ("01_one", "02_two"):
        a, b = (load_file(tmp_path / out / "tasks" / folder / "update.safetensors") for out in ("own", "recipe"))
        assert gap(a, b) < 1e-6
    if method == "der":
        a, b = (buffer(tmp_path / out).tensors("memory_logits") for out in ("own", "recipe"))
        assert a.keys() == b.keys()
        assert all(torch.allclose(a[n].float(), b[n].float(), atol=2e-3) for n in a if not n.endswith("indices"))


@pytest.fixture
def stream(llama, tmp_path):
    """Learn tasks with replay, each from four rows that have an id; the test says what differs."""
    tokenizer = AutoTokenizer.from_pretrained(llama)

    def rows(name, words=("red", "green", "blue", "grey")):
        found = []
        for word in words:
            prompt = tokenizer.encode("what colour is this ?")
            ids = [*prompt, tokenizer.encode(word)[0]]
            row = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + ids[-1:]}
            found.append({**row, "id": f"{name}-{word}"})
        return found

    class Collate(DataCollatorForSeq2Seq):
        def __call__(self, features, return_tensors=None):
            known = ("input_ids", "attention_mask", "labels")
            return super().__call__([{k: f[k] for k in known} for f in features], return_tensors)

    def learner(out="state", method="seqlora", **given):
        model = AutoModelForCausalLM.from_pretrained(llama)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        return ContinualLearner(
            model, method, tmp_path / out, lora=lora, **{"replay": {"capacity_per_task": 2}, **given}
        )

    def train(task, name, kind=MyTrainer, data=None, steps=2, collator=None, more=(), **given):
        extra = {"terms": task.terms} if issubclass(kind, ContinualTrainerMixin) else {}
        made = kind(
            model=task.model, data_collator=collator or Collate(tokenizer), callbacks=[task.callback, *more], **extra,
            train_dataset=rows(name) if data is None else data,
            args=TrainingArguments(
                output_dir=str(tmp_path / "trainer"), max_steps=steps, per_device_train_batch_size=2, save_strategy="no",
                report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=1e-2, seed=1, **given,
            ),
        )  # fmt: skip
        made.train()
        return made

    def learn(made, *names, **given):
        for name in names:
            with made.task(name) as task:
                train(task, name, **given)
        return made

    def row(uid):
        """What is kept of the sample with an id."""
        name, _, word = uid.partition("-")
        return {k: v for k, v in rows(name, (word,))[0].items() if k != "id"}

    learner.train, learner.learn, learner.rows, learner.row = train, learn, rows, row
    return learner


def test_the_first_samples_come_back_in_every_later_task(stream, tmp_path, capsys):
    made = stream.learn(stream(), "one", "two")
    with made.task("three") as task:
        trainer = stream.train(task, "three")
    kept = buffer(tmp_path / "state")
    assert [s.id.partition("-")[0] for s in kept.samples] == ["one", "one", "two", "two", "three", "three"]
    assert len(trainer.train_dataset) == 8
    assert [trainer.train_dataset[4 + i] for i in range(4)] == [stream.row(s.id) for s in kept.samples[:4]]
    capsys.readouterr()
    assert main(["replay", "list", str(tmp_path / "state"), "--json"]) == 0
    assert {entry["id"] for entry in json.loads(capsys.readouterr().out)} == {s.id for s in kept.samples}


def test_samples_lie_in_the_buffer_only(stream, tmp_path):
    stream.learn(stream(), "one", "two")
    assert not list((tmp_path / "state" / "tasks").rglob(CANDIDATES))
    assert not list((tmp_path / "state" / "tasks").rglob("memory_*"))
    stream.learn(stream("without", replay=None), "one")
    assert not (tmp_path / "without" / "carry" / "replay").exists()


def test_a_deleted_sample_never_comes_back(stream, tmp_path):
    stream.learn(stream(), "one")
    gone = buffer(tmp_path / "state").samples[0].id
    assert main(["replay", "delete", str(tmp_path / "state"), "--id", gone]) == 0
    made = stream()
    with made.task("two") as task:
        trainer = stream.train(task, "two")
        assert len(trainer.train_dataset) == 5
        assert trainer.train_dataset[4] == stream.row(buffer(tmp_path / "state").samples[0].id) != stream.row(gone)
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if gone.encode() in path.read_bytes()]


def test_a_directory_in_use_is_left_alone(stream, tmp_path):
    made = stream.learn(stream(), "one")
    command = [
        sys.executable,
        "-m",
        "cl_plugins.cli",
        "replay",
        "purge",
        str(tmp_path / "state"),
        "--older-than",
        "0h",
    ]
    with made.task("two") as task:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode != 0
        assert "is in use" in done.stderr
        stream.train(task, "two")
    assert len(buffer(tmp_path / "state").samples) == 4


@pytest.mark.parametrize("method", ["seqlora", "der"])
def test_a_stop_in_between_changes_nothing(stream, tmp_path, method):
    stream.learn(stream("whole", method), "one", "two")
    stream.learn(stream("halves", method), "one")
    made = stream("halves", method)
    with pytest.raises(RunStateError, match="not trained to its end"), made.task("two"):
        pass  # a training that never came
    stream.learn(stream("halves", method), "two")
    a, b = (load_file(tmp_path / out / "tasks" / "02_two" / "update.safetensors") for out in ("whole", "halves"))
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert [s.uid for s in buffer(tmp_path / "whole").samples] == [s.uid for s in buffer(tmp_path / "halves").samples]


@pytest.mark.parametrize("hub", [True, False])
def test_what_the_trainer_does_not_use_is_not_kept(stream, tmp_path, hub):
    rows = [{**row, "patient": "somebody"} for row in stream.rows("one")]
    made = stream()
    for name in TASKS:  # in the second task the data set is joined with the buffer
        with made.task(name) as task:
            stream.train(task, name, data=Dataset.from_list(rows) if hub else rows)
    kept = buffer(tmp_path / "state")
    assert {s.id for s in kept.samples} <= {row["id"] for row in rows}
    assert "somebody" not in json.dumps([kept.records(name) for name in TASKS])


def test_ids_of_a_hub_data_set_with_a_format():
    from cl_plugins.replay.trainers import _ids

    data = Dataset.from_list([{"id": 17, "x": 1}, {"id": 18, "x": 2}])
    assert _ids(data.with_format("numpy", columns=["x"])) == [17, 18]
    assert _ids(data.with_transform(lambda batch: {"y": batch["x"]})) == [17, 18]
    assert _ids(data.remove_columns("id")) is None


class Shuffled(MyTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        data = self.train_dataset
        self.train_dataset = data[::-1] if isinstance(data, list) else data.select(range(len(data))[::-1])


class Streamed(torch.utils.data.IterableDataset):
    def __len__(self):
        return 4

    def __iter__(self):
        return iter([])


def test_settings_that_are_wrong(stream, tmp_path):
    with pytest.raises(RecipeError, match=r"replay.capacity_per_task.*'der' draws"):
        stream(method="der", replay=None)
    with pytest.raises(RecipeError, match=r"capacity_per_tsk"):
        stream(replay={"capacity_per_tsk": 3})
    with pytest.raises(RecipeError, match=r"replay\.mixing"):
        stream(method="der", replay={"capacity_per_task": 3, "mixing": "ratio"})
    with pytest.raises(RecipeError, match=r"replay\.ratio"):
        ContinualCallback("seqlora", tmp_path / "x", "one", replay={"capacity_per_task": 3, "ratio": 1.5})
    made = stream(method="der", options={"faithful": "peer"})
    with pytest.raises(RecipeError, match="store: full"), made.task("one"):
        pass


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"kind": Trainer}, CompatibilityError, "adds samples"),
        ({"kind": Shuffled}, CompatibilityError, "do not change `train_dataset`"),
        ({"kind": Shuffled, "hub": True}, CompatibilityError, "do not change `train_dataset`"),
        ({"data": (row for row in ())}, DataError, "random access"),
        ({"data": Streamed()}, DataError, "random access"),
        ({"collator": DataCollatorWithFlattening()}, CompatibilityError, "makes one row of several"),
        ({"meta": {1}, "remove_unused_columns": False}, DataError, r"row\.meta: is a set"),
    ],
)
@pytest.mark.parametrize("selection", ["random", "highest_loss"])
def test_what_cannot_go_well_is_refused_before_the_first_step(stream, tmp_path, given, error, words, selection):
    steps = []

    class Count(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    given = dict(given)
    if "meta" in given:
        meta = given.pop("meta")
        given["data"] = [{**row, "meta": meta if i == 3 else 0} for i, row in enumerate(stream.rows("one"))]
    if given.pop("hub", False):
        given["data"] = Dataset.from_list(stream.rows("one"))
    made = stream(replay={"capacity_per_task": 4, "selection": selection})
    with pytest.raises(error, match=words), made.task("one") as task:
        stream.train(task, "one", more=[Count()], **given)
    assert not steps
    assert not made.finished


def test_a_later_task_without_replay_would_drop_the_samples(stream, tmp_path):
    stream.learn(stream(), "one")
    made = stream(replay=None)
    with pytest.raises(RunStateError, match="2 samples of past tasks"), made.task("two"):
        pass
    assert len(buffer(tmp_path / "state").samples) == 2


@pytest.mark.parametrize("who", ["learner", "cli"])
def test_samples_that_a_kill_left_before_there_was_a_buffer_are_taken_away(stream, tmp_path, monkeypatch, who):
    from cl_plugins.callbacks import callback

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(callback, "write_carry", killed)
    with pytest.raises(KeyboardInterrupt):
        stream.learn(stream(), "one")
    monkeypatch.undo()
    state = tmp_path / "state"
    assert list(state.rglob(CANDIDATES))
    if who == "learner":
        with pytest.raises(RunStateError, match="not trained"), stream().task("one"):
            pass
    else:
        assert main(["replay", "purge", str(state), "--older-than", "0h"]) == 0
    assert not list(state.rglob(CANDIDATES))


@pytest.mark.parametrize("who", ["learner", "cli"])
def test_samples_that_a_kill_left_outside_the_buffer_are_taken_away(stream, tmp_path, monkeypatch, who):
    from cl_plugins.callbacks import callback

    monkeypatch.setattr(callback, "remove_candidates", lambda root: None)  # killed right after the carry was written
    stream.learn(stream(), "one")
    monkeypatch.undo()
    state = tmp_path / "state"
    torn = state / ".carry.x.tmp" / "replay"
    torn.mkdir(parents=True)
    (torn / "samples.jsonl").write_text("one-red one-green one-blue one-grey")
    gone = buffer(state).samples[0].id
    assert [path for path in state.rglob(CANDIDATES) if gone in path.read_text()]
    if who == "learner":
        stream.learn(stream(), "two")
    else:
        assert main(["replay", "delete", str(state), "--id", gone]) == 0
        assert not [path for path in state.rglob("*") if path.is_file() and gone.encode() in path.read_bytes()]
    assert not list(state.rglob(CANDIDATES))
    assert not torn.exists()


@pytest.mark.parametrize("method", ["seqlora", "der"])
def test_a_collator_that_takes_things_out_of_its_rows(stream, tmp_path, method):
    """LLaMA-Factory's takes the pictures out: they must be kept all the same."""
    arrived = []

    class Popping(DataCollatorForSeq2Seq):
        def __call__(self, features, return_tensors=None):
            arrived.extend(feature.pop("picture", None) for feature in features)
            known = ("input_ids", "attention_mask", "labels")
            return super().__call__([{k: f[k] for k in known} for f in features], return_tensors)

    made = stream(method=method)
    for name in TASKS:
        rows = [{**row, "picture": f"{name}{i}"} for i, row in enumerate(stream.rows(name))]
        with made.task(name) as task:
            tokenizer = AutoTokenizer.from_pretrained(made.base.model.config._name_or_path)
            given = {"collator": Popping(tokenizer), "remove_unused_columns": False, "steps": 1}
            stream.train(task, name, data=Dataset.from_list(rows), **given)
    kept = buffer(tmp_path / "state")
    assert [r["row"]["picture"][:3] for name in TASKS for r in kept.records(name)] == ["one", "one", "two", "two"]
    assert None not in arrived


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"packing": True}, "packing"),
        ({"padding_free": True}, "padding_free"),
        ({"deepspeed_plugin": object()}, "deepspeed"),
        ({"fsdp": ["full_shard"]}, "fsdp"),
    ],
)
def test_layouts_that_do_not_go_with_replay(llama, given, words):
    from cl_plugins.callbacks.given import check_layout

    plain = {"deepspeed": None, "world_size": 2}
    model = AutoModelForCausalLM.from_pretrained(llama)
    check_layout(SimpleNamespace(**plain), model, second_forward=True)
    with pytest.raises(CompatibilityError, match=words):
        check_layout(SimpleNamespace(**{**plain, **given}), model, second_forward=True)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(CompatibilityError, match="use_reentrant"):
        check_layout(SimpleNamespace(**plain), model, second_forward=True)


def test_fsdp_that_accelerate_asked_for(llama, monkeypatch):
    from cl_plugins.callbacks.given import engine_of

    arguments = SimpleNamespace(deepspeed=None, fsdp=[])
    assert engine_of(arguments) is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert engine_of(arguments) == "fsdp"


@pytest.mark.parametrize("method", ["inclora", "seqlora"])
@pytest.mark.parametrize(("given", "where"), [(["full_shard"], "fsdp"), ([], "ACCELERATE_USE_FSDP")])
def test_fsdp_is_refused_with_every_method(llama, monkeypatch, tmp_path, method, given, where):
    """As in a recipe, not only with penalties and replay."""
    learner = ContinualLearner(AutoModelForCausalLM.from_pretrained(llama), method, tmp_path / "state", lora=LORA)
    if not given:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    arguments = SimpleNamespace(deepspeed=None, fsdp=given, fp16=False, seed=0)
    with pytest.raises(CompatibilityError, match=f"{where}: is not tested with any"), learner.task("one") as task:
        task.callback.on_train_begin(arguments, None, None, task.model)


@pytest.mark.parametrize(("method", "refused"), [("inclora", False), ("seqlora", False), ("lwf", True), ("ewc", True)])
def test_fp16_is_refused_where_a_recipe_refuses_it(llama, tmp_path, method, refused):
    learner = ContinualLearner(AutoModelForCausalLM.from_pretrained(llama), method, tmp_path / "state", lora=LORA)
    arguments = SimpleNamespace(deepspeed=None, fsdp=[], fp16=True, seed=0)
    # Where it is not refused, nothing has been trained when the block ends.
    with pytest.raises(CompatibilityError if refused else RunStateError) as caught, learner.task("one") as task:
        task.callback.on_train_begin(arguments, SimpleNamespace(global_step=0), None, task.model)
    assert (f"fp16: '{method}' is not tested in fp16" in str(caught.value)) == refused


def test_the_directory_of_a_run_is_not_a_learners(stream, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "run.json").write_text("{}")
    with pytest.raises(RunStateError, match="directory of a run of a recipe"):
        stream()


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_reentrant_checkpoint_is_told_from_the_other(llama, reentrant):
    from cl_plugins.callbacks.given import _reentrant

    model = AutoModelForCausalLM.from_pretrained(llama)
    assert not _reentrant(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert _reentrant(model) == reentrant


def test_a_buffer_of_a_recipe_is_not_read(llama, tmp_path):
    data = tiny.build_data(tmp_path / "texts", TASKS, train=8, test=1, text_only=True)
    cl = {**NO_TESTS, "replay": {"capacity_per_task": 2}}
    go(tiny.recipe(llama, data, tmp_path / "run", "seqlora", TASKS, text_only=True, cl=cl, max_steps=1))
    with pytest.raises(DataError, match="LLaMA-Factory's form"):
        ContinualCallback("seqlora", tmp_path / "run", "three", replay={"capacity_per_task": 2})
