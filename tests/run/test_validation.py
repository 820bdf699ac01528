"""A validation set per task: its loss on the host's schedule, the best weights, and an early end."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
from method_cases import OF_EACH_KIND, mapping_of, slow_unless
from running import go, recipe
from transformers import TrainerCallback
from validated import BEST, VALID, add_valid, details, losses, stream, validated

from cl_plugins.base.errors import DataError, RecipeError, RunStateError
from cl_plugins.run.estimate import _checkpoints


UP = {"learning_rate": 0.3, "lr_scheduler_type": "constant", "max_steps": 9}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validated") / "data"
    return add_valid(tiny.build_data(folder, text_only=True), ("one", "two", "three"))


class Seen(TrainerCallback):
    """The validation sets that the trainers are given, and when they are measured."""

    def __init__(self):
        self.sizes, self.steps = [], []

    def on_evaluate(self, args, state, control, eval_dataloader=None, **kwargs):
        self.sizes.append(len(eval_dataloader.dataset))
        self.steps.append(state.global_step)


def updates(out):
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob("tasks/*/update.safetensors"))}


def test_a_task_of_its_own_is_the_hosts_run_with_that_validation_set(llama, texts, tmp_path):
    more = {**BEST, **UP, "lora_dropout": 0.1, "early_stopping_steps": 3}
    plain = {**validated(llama, texts, tmp_path / "plain", "seqlora", **more)}
    del plain["cl"]
    from llamafactory.train.tuner import run_exp

    run_exp({**plain, "dataset": "one_train", "eval_dataset": "one_valid", "metric_for_best_model": "eval_loss"})
    go(validated(llama, texts, tmp_path / "chain", "seqlora", ("one",), **more))
    state = json.loads((tmp_path / "plain" / "trainer_state.json").read_text())
    expected = [(e["step"], e["eval_loss"]) for e in state["log_history"] if "eval_loss" in e]
    assert losses(tmp_path / "chain", "01_one") == expected
    assert min(expected, key=lambda pair: pair[1])[0] < expected[-1][0]  # the last weights are not the best
    assert updates(tmp_path / "chain")["01_one"] == (tmp_path / "plain" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("packed", ["packing", "neat_packing"])
def test_packs_of_a_validation_set_are_the_hosts(packed, llama, texts, tmp_path):
    from llamafactory.train.tuner import run_exp

    more = {packed: True, "cutoff_len": 96, "max_steps": 2, "eval_steps": 1, "per_device_eval_batch_size": 1}
    plain = {**validated(llama, texts, tmp_path / "plain", "seqlora", **more)}
    del plain["cl"]
    run_exp({**plain, "dataset": "one_train", "eval_dataset": "two_valid"})
    block = {"stream": stream(("one",), valid=())}
    block["stream"]["tasks"][0]["valid"] = "two_valid"
    go(validated(llama, texts, tmp_path / "chain", "seqlora", ("one",), cl=block, **more))
    state = json.loads((tmp_path / "plain" / "trainer_state.json").read_text())
    expected = [(e["step"], e["eval_loss"]) for e in state["log_history"] if "eval_loss" in e]
    assert losses(tmp_path / "chain", "01_one") == expected


def test_every_task_is_measured_on_its_own_set_when_the_keys_say(llama, texts, tmp_path):
    seen = Seen()
    block = {"task_overrides": {"two": {"eval_steps": 3}}}
    go(validated(llama, texts, tmp_path / "run", max_steps=4, eval_steps=2, cl=block), [seen])
    assert seen.steps == [2, 4, 3, 4]  # the host measures after the last step as well
    assert seen.sizes == [5, 5, 6, 6]
    assert details(tmp_path / "run", "train:one")["valid_step"] == 4
    assert details(tmp_path / "run", "train:two")["valid_loss"] == losses(tmp_path / "run", "02_two")[-1][1]


def test_the_best_weights_remain_and_they_are_those_of_that_step(llama, texts, tmp_path):
    go(validated(llama, texts, tmp_path / "best", tasks=("one",), **{**BEST, **UP, "save_total_limit": 1}))
    step = details(tmp_path / "best", "train:one")["valid_step"]
    assert details(tmp_path / "best", "train:one")["optimizer_steps"] == 9
    assert step == min(losses(tmp_path / "best", "01_one"), key=lambda pair: pair[1])[0] < 9
    go(validated(llama, texts, tmp_path / "short", tasks=("one",), **{**UP, "max_steps": step}))
    assert updates(tmp_path / "best") == updates(tmp_path / "short")


def test_the_loss_is_that_of_the_answers_under_the_weights_that_remain(llama, texts, tmp_path):
    """Answers of equal length. The host takes the mean over batches, of which the last is smaller."""
    import torch
    from transformers import AutoModelForCausalLM

    from cl_plugins.host.llama_factory import LlamaFactoryHost
    from cl_plugins.run.state import RunState

    keys = validated(llama, texts, tmp_path / "run", "seqlora", ("one",), **{**BEST, **UP})
    go(keys)
    checked = tiny.checked({**keys, "output_dir": str(tmp_path / "look")})
    state = RunState.to_look(LlamaFactoryHost(), tmp_path / "look", checked.host_keys, checked.config)
    data = state.session.task_data(state._validation_set("one", state.task_args("one")), state.task_args("one"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "final")
    total = []
    for batch in data.batches(range(len(data))):
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0, :-1]
        labels = batch["labels"][0, 1:]
        logs = torch.log_softmax(logits[labels != -100].double(), -1)
        total.append(-logs.gather(1, labels[labels != -100][:, None]).mean())
    expected = (sum(total[:4]) / 4 + total[4]) / 2
    assert details(tmp_path / "run", "train:one")["valid_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_nothing_is_kept_but_the_best_where_the_recipe_saves_nothing(llama, texts, tmp_path):
    keys = {**BEST, **UP, "save_strategy": "no"}
    go(validated(llama, texts, tmp_path / "run", tasks=("one",), **keys))
    go(validated(llama, texts, tmp_path / "steps", tasks=("one",), **{**BEST, **UP}))
    assert updates(tmp_path / "run") == updates(tmp_path / "steps")
    assert not list((tmp_path / "run").glob("tasks/*/checkpoint-*"))


def test_each_task_waits_anew_before_it_ends_early(llama, texts, tmp_path):
    keys = {**VALID, **UP, "max_steps": 12, "early_stopping_steps": 2}
    go(validated(llama, texts, tmp_path / "run", **keys))
    for task, folder in (("one", "01_one"), ("two", "02_two")):
        measured = losses(tmp_path / "run", folder)
        steps = details(tmp_path / "run", f"train:{task}")["optimizer_steps"]
        best = min(measured, key=lambda pair: pair[1])[0]
        assert steps == best + 2 < 12


def test_joint_training_takes_the_sets_of_all_tasks_together(llama, texts, tmp_path):
    seen = Seen()
    block = {"task_overrides": {"one": {"max_samples": 4}}}
    go(validated(llama, texts, tmp_path / "run", "multitask", max_steps=2, cl=block), [seen])
    assert seen.sizes == [4 + 6] * 2


def test_independent_tasks_and_replay_are_measured_on_their_own_set_alone(llama, texts, tmp_path):
    single, replay = Seen(), Seen()
    go(validated(llama, texts, tmp_path / "single", "single_task", max_steps=1), [single])
    block = {"replay": {"capacity_per_task": 4}}
    go(validated(llama, texts, tmp_path / "replay", "seqlora", max_steps=1, cl=block), [replay])
    assert single.sizes == replay.sizes == [5, 6]


def test_a_task_without_a_set_is_trained_to_the_end(llama, texts, tmp_path, caplog):
    keys = {**BEST, **UP, "max_steps": 3, "early_stopping_steps": 1}
    go(validated(llama, texts, tmp_path / "run", valid=("two",), **keys))
    assert "valid_loss" not in details(tmp_path / "run", "train:one")
    assert details(tmp_path / "run", "train:one")["optimizer_steps"] == 3
    assert "valid_loss" in details(tmp_path / "run", "train:two")
    assert "one: no validation set" in caplog.text


def test_a_set_that_is_not_used_is_not_read(llama, texts, tmp_path, caplog):
    keys = validated(llama, texts, tmp_path / "run", eval_strategy="no", max_steps=1)
    keys["cl"]["stream"]["tasks"][0]["valid"] = "there_is_none"
    go(keys)
    assert "the validation sets of one, two are not used" in caplog.text
    assert set(json.loads((tmp_path / "run" / "run.json").read_text())["data"]) == {"one_train", "two_train"}


class StopAt(TrainerCallback):
    """Ends the process's run as SIGTERM does, at a step of the second task."""

    def __init__(self, step):
        self.step, self.trainings = step, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainings += 1

    def on_step_begin(self, args, state, control, **kwargs):
        import os
        import signal

        if self.trainings == 2 and state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("limit", "everywhere"),
    [(1, False), pytest.param(1, True, marks=pytest.mark.slow), pytest.param(None, True, marks=pytest.mark.slow)],
)
def test_a_stopped_task_goes_on_to_the_same_weights_from_anywhere(llama, texts, tmp_path, limit, everywhere):
    """Stopped at steps of the second task, the best and the last ones among them, and moved in between."""
    keys = {**BEST, **UP, "early_stopping_steps": 3, "eval_steps": 2, "save_steps": 2, "save_total_limit": limit}
    keys |= {"lora_dropout": 0.1, "max_steps": 14}
    for rate in (0.3, 0.2, 0.1, 0.5, 1.0):  # which of them ends the task early differs from one processor to another
        keys["learning_rate"] = rate
        go(validated(llama, texts, tmp_path / f"whole-{rate}", **keys))
        whole = details(tmp_path / f"whole-{rate}", "train:two")
        if whole["optimizer_steps"] < 14:
            break
    wanted = updates(tmp_path / f"whole-{rate}")
    assert whole["valid_step"] + 6 == whole["optimizer_steps"] < 14
    go(validated(llama, texts, tmp_path / "first", cl={"stop_after": 2}, **keys))
    last = whole["optimizer_steps"]
    for step in range(1, last + 1) if everywhere else (whole["valid_step"] + 1, last):
        out = tmp_path / f"at-{step}"
        shutil.copytree(tmp_path / "first", out)
        stop = StopAt(step)
        stop.trainings = 1
        with pytest.raises(SystemExit):
            go(validated(llama, texts, out, **keys), [stop])
        moved = out.rename(tmp_path / f"moved-{step}")
        go(validated(llama, texts, moved, **keys))
        assert updates(moved) == wanted, step
        found = details(moved, "train:two")
        assert {k: found[k] for k in whole if k != "restore_seconds"} == {
            k: v for k, v in whole.items() if k != "restore_seconds"
        }


def test_other_samples_are_another_recipe(llama, texts, tmp_path):
    data = shutil.copytree(texts, tmp_path / "data")
    keys = validated(llama, data, tmp_path / "run", max_steps=1)
    go({**keys, "cl": {**keys["cl"], "stop_after": 2}})
    add_valid(data, count=3)
    with pytest.raises(RunStateError, match="one_valid"):
        go(keys)


def test_a_run_of_before_there_were_validation_sets_goes_on(llama, texts, tmp_path):
    from cl_plugins.records.run import read_run, write_run

    keys = recipe(llama, texts, tmp_path / "run", cl={"eval": {"scope": "none"}, "stop_after": 2})
    go(keys)
    value = read_run(tmp_path / "run")
    for task in value["stream"]["tasks"]:
        del task["valid"]
    write_run(tmp_path / "run", value)
    keys["cl"].pop("stop_after")
    go(keys)
    assert (tmp_path / "run" / "final").is_dir()


METHODS = ["l2p", "modalprompt", "moelora", "branchlora", "hide", "smolora", "clmoe", "olora", "lwf", "osf", "seqfull"]


@pytest.mark.parametrize("method", slow_unless(METHODS, OF_EACH_KIND))
def test_methods_end_with_the_best_weights(llava, data, tmp_path, method):
    """What a task leaves at its best step is what a training of that length leaves."""
    folder = add_valid(shutil.copytree(data, tmp_path / "data"))
    rate = {"learning_rate": 0.05, "lr_scheduler_type": "constant"}

    def keys(out, **more):
        block = {"eval": {"scope": "none"}, "stream": stream()}
        return tiny.recipe(
            llava, folder, out, mapping_of(method), ("one", "two"), cl=block, **{**BEST, **rate, **more}
        )

    go(keys(tmp_path / "best", max_steps=4))
    steps = [details(tmp_path / "best", f"train:{task}")["valid_step"] for task in ("one", "two")]
    short = keys(tmp_path / "short", **{**VALID, "load_best_model_at_end": False})
    short["cl"]["task_overrides"] = {t: {"max_steps": s} for t, s in zip(("one", "two"), steps, strict=True)}
    go(short)
    assert updates(tmp_path / "best") == updates(tmp_path / "short")


def refused(keys):
    with pytest.raises((RecipeError, DataError)) as caught:
        tiny.checked(keys)
    assert all(p.where and p.what and p.fix for p in caught.value.problems)
    return {problem.where: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("keys", "where", "what"),
    [
        ({"metric_for_best_model": "eval_accuracy"}, "metric_for_best_model", "only the loss"),
        ({"greater_is_better": True}, "greater_is_better", "lower loss"),
        ({"early_stopping_steps": 0}, "early_stopping_steps", "0"),
        ({"eval_strategy": "no", "load_best_model_at_end": True}, "load_best_model_at_end", "`eval_strategy` is not set"),
        ({"eval_strategy": "no", "early_stopping_steps": 2}, "early_stopping_steps", "`eval_strategy` is not set"),
        ({"eval_dataset": "one_valid"}, "eval_dataset", "not supported"),
        ({"val_size": 0.1}, "val_size", "not supported"),
        ({"load_best_model_at_end": True, "deepspeed": {"zero_optimization": {"stage": 2}}}, "load_best_model_at_end", "DeepSpeed"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_a_validation_set(llama, texts, tmp_path, keys, where, what):
    found = refused(validated(llama, texts, tmp_path / "run", **keys))
    assert what in found[where].what


def test_keys_of_one_task_that_do_not_fit_it(llama, texts, tmp_path):
    own = {"one": {"eval_strategy": "steps"}, "two": {"metric_for_best_model": "bleu"}}
    keys = validated(llama, texts, tmp_path / "run", eval_strategy="no", valid=("two",), cl={"task_overrides": own})
    found = refused(keys)
    assert "has none" in found["cl.task_overrides.one.eval_strategy"].what
    keys["cl"]["task_overrides"]["two"]["eval_strategy"] = "steps"
    assert "only the loss" in refused(keys)["cl.task_overrides.two.metric_for_best_model"].what
    assert "eval_strategy" in refused(recipe(llama, texts, tmp_path / "run", **VALID))


@pytest.mark.parametrize(
    ("valid", "what"),
    [
        ("one_test", "a test set"),
        ("two_test", "a test set"),
        ("one_train", "also a training set"),
        ("nothing", "nothing"),
    ],
)
def test_sets_that_are_something_else(llama, texts, tmp_path, valid, what):
    keys = validated(llama, texts, tmp_path / "run")
    keys["cl"]["stream"]["tasks"][0]["valid"] = valid
    assert what in " ".join(problem.what for problem in refused(keys).values())


def test_a_test_set_under_another_name_is_found(llama, texts, tmp_path):
    data = shutil.copytree(texts, tmp_path / "data")
    shutil.copy(data / "two_test.json", data / "one_valid.json")
    found = refused(validated(llama, data, tmp_path / "run"))
    assert "same content (one_valid.json) as the test set 'two_test'" in found["cl.stream.tasks[0].valid"].what
    tiny.checked(validated(llama, data, tmp_path / "run", eval_strategy="no"))


def test_a_set_without_training_data(llama, texts, tmp_path):
    keys = validated(llama, texts, tmp_path / "run")
    del keys["cl"]["stream"]["tasks"][1]["train"]
    assert "no training data" in refused(keys)["cl.stream.tasks[1].valid"].what


def test_a_broken_set_is_reported_with_all_other_problems(llama, texts, tmp_path):
    from cl_plugins.cli.validate import check_recipe

    data = shutil.copytree(texts, tmp_path / "data")
    records = json.loads((data / "one_valid.json").read_text())
    records[2]["messages"][0]["value"] = "a question that is too long " * 60
    (data / "one_valid.json").write_text(json.dumps(records))
    problems, _ = check_recipe(validated(llama, data, tmp_path / "run"))
    assert [p.where for p in problems] == ["validation set of task 'one'"]
    assert "1 of 5 validation samples" in problems[0].what


def test_a_method_that_needs_its_last_step(llama, texts, tmp_path):
    block = {"replay": {"capacity_per_task": 4}}
    keys = validated(llama, texts, tmp_path / "run", "ilora", cl=block)
    tiny.checked(keys)  # measuring alone is fine
    assert "in the last step" in refused({**keys, "early_stopping_steps": 2})["cl.method.name"].what
    keys["cl"]["task_overrides"] = {"two": {"load_best_model_at_end": True}}
    assert "task 'two'" in refused(keys)["cl.method.name"].what


def test_the_best_checkpoint_needs_room():
    keys = {"save_total_limit": 2, "save_steps": 5, "max_steps": 50}
    assert _checkpoints(keys)[0] == 3
