"""A script with its own trainer and `ContinualLearner(tasks=...)`: the directory is that of a run, whatever stops the script."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest
import torch
from peft import LoraConfig
from running import difference, files, load, predictions, steps
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

import cl_plugins
from cl_plugins.base.errors import DataError, RecipeError, RunStateError
from cl_plugins.callbacks import ContinualLearner, ContinualTrainerMixin
from cl_plugins.cli import main
from cl_plugins.evaluation.results import read_results
from cl_plugins.generation.backend import ModelBackend
from cl_plugins.run.deletion import kept_samples
from cl_plugins.run.status import collect
from cl_plugins.streams import Task


WORDS = {"one": ["red", "green", "blue"], "two": ["yes", "no", "grey"]}
QUESTION = {"one": "what colour is this ?", "two": "is this the answer ?"}
TASKS = [Task("one", max_new_tokens=2), Task("two", max_new_tokens=2)]
TESTS = {
    name: [
        {"prompt": f"{QUESTION[name]} {letter}", "reference": word} for letter, word in zip("ABC", words, strict=True)
    ]
    for name, words in WORDS.items()
}


class Mine(ContinualTrainerMixin, Trainer):
    pass


HOLD = """
import sys
from pathlib import Path
from cl_plugins.base.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


class Stopped(Exception):
    """Stands for a killed process."""


def learner(llama, directory, method="seqlora", rank=4, **given):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(llama)
    lora = LoraConfig(r=rank, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return ContinualLearner(model, method, directory, lora, **{"tasks": TASKS, "tests": TESTS, **given})


def rows_of(tokenizer, name):
    """The training set of a task: its test."""
    rows = []
    for row in TESTS[name]:
        prompt = tokenizer.encode(row["prompt"])
        ids = [*prompt, *tokenizer.encode(row["reference"], add_special_tokens=False), tokenizer.eos_token_id]
        rows.append(
            {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + ids[len(prompt) :]}
        )
    return rows


def train(task, llama, name, steps=12, rate=1e-2):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    for training in task.trainings():
        args = TrainingArguments(
            output_dir=str(task.callback.directory / "trainer" / name), per_device_train_batch_size=4, max_steps=steps,
            learning_rate=rate, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        Mine(
            model=training.model, train_dataset=training.samples(rows_of(tokenizer, name)),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[training.callback], terms=training.terms, args=training.arguments(args),
        ).train()  # fmt: skip


def script(llama, directory, *, pages=False, **given):
    """What a user's script does, from its first line to its last; without pages and pictures, which take their time."""
    with nullcontext() if pages else mock.patch("cl_plugins.report.write_report"):
        return whole_script(llama, directory, **given)


def whole_script(llama, directory, **given):
    made = learner(llama, directory, **given)
    made.evaluate(batch_size=2)
    for name in WORDS:
        if name not in made.finished:
            with made.task(name) as task:
                train(task, llama, name)
        made.evaluate(batch_size=2)
    made.finish()
    return made


@pytest.fixture(scope="module")
def whole(llama, tmp_path_factory):
    """A directory of a script that nothing has stopped."""
    directory = tmp_path_factory.mktemp("led") / "whole"
    script(llama, directory, pages=True)
    return directory


CELLS = [f"evaluate:{row}:{task}" for row, tasks in (("zero_shot", "12"), ("after_one", "1"), ("after_two", "12")) for task in ({"1": "one", "2": "two"}[n] for n in tasks)]  # fmt: skip


def test_the_directory_is_that_of_a_run(whole):
    expected = [
        *CELLS[:2],
        "train:one",
        "consolidate:one",
        CELLS[2],
        "train:two",
        "consolidate:two",
        *CELLS[3:],
        "finish",
    ]
    assert steps(whole) == expected
    state = collect(whole, verify=True)
    assert state["finished"]
    assert state["damaged"] == []
    assert state["note"] == ""
    assert [step["step"] for step in state["steps"]] == expected
    results = read_results(whole)
    assert results.matrix.tasks == ["one", "two"]
    assert {key.partition("@")[0] for key in results.matrix.scorers.values()} == {"exact_match"}
    assert results.remarks == ()
    assert results.metrics["last"].value is not None
    for name in ("report.html", "report.md", "matrix.json", "metrics.json", "final/MANIFEST.json", "final/README.md"):
        assert (whole / name).is_file(), name
    record = load(whole, "run.json")
    assert record["recipe"]["lora_rank"] == 4
    assert record["recipe"]["cl"]["method"] == {"name": "seqlora"}
    assert [task["overrides"]["learning_rate"] for task in record["stream"]["tasks"]] == [1e-2, 1e-2]
    assert record["stream"]["tasks"][0]["overrides"]["train_samples"] == 3


def test_the_cells_are_what_the_models_answer(whole, llama):
    made = learner(llama, whole)
    model, tokenizer = made.model().eval(), AutoTokenizer.from_pretrained(llama)
    for name, rows in TESTS.items():
        lines = (whole / "predictions" / "after_two" / f"{name}.jsonl").read_text().splitlines()
        answers = [json.loads(line)["prediction"] for line in lines]
        for row, answer in zip(rows, answers, strict=True):
            inputs = tokenizer(row["prompt"], return_tensors="pt")
            found = model.generate(**inputs, do_sample=False, max_new_tokens=2)[0, inputs["input_ids"].shape[1] :]
            assert tokenizer.decode(found, skip_special_tokens=True).strip() == answer.strip()
        right = sum(answer.strip() == row["reference"] for row, answer in zip(rows, answers, strict=True))
        assert read_results(whole).matrix.get("after_two", name) == pytest.approx(100 * right / 3)


def test_final_is_the_model_that_was_tested_last(whole, llama):
    model = learner(llama, whole).model().eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected, found = model(ids).logits, cl_plugins.load(whole)(ids).logits
    assert torch.allclose(expected, found, atol=1e-4)


def test_the_commands_take_it(whole, llama, tmp_path, capsys):
    other = tmp_path / "other"
    script(llama, other, seed=7)
    assert main(["compare", str(whole), str(other), "--out", str(tmp_path / "compared")]) == 0
    text = (tmp_path / "compared" / "compare.md").read_text()
    assert text.startswith("# Comparison on python\n\n2 runs")
    assert "| seqlora | 2 |" in text  # repetitions of one recipe
    assert main(["status", str(whole), "--verify"]) == 0
    assert main(["report", str(other)]) == 0
    assert main(["export", str(whole), "--to", "merged", "--dtype", "fp32", "--out", str(tmp_path / "merged")]) == 0
    merged, final = (load_file(p / "model.safetensors") for p in (tmp_path / "merged", whole / "final"))
    assert difference(final, merged) < 1e-6
    assert main(["export", str(whole), "--to", "adapter", "--task", "one", "--out", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "adapter_model.safetensors").is_file()
    assert main(["carry", "pack", str(whole), "--with-matrix", "--out", str(tmp_path / "carry.clpack")]) == 0
    assert main(["carry", "verify", str(tmp_path / "carry.clpack"), "--base", str(llama)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(whole), "--out", str(tmp_path / "again")]) != 0
    assert "learner.evaluate()" in "".join(capsys.readouterr())


def test_the_base_of_an_export_must_be_the_same(whole, llama, tmp_path, capsys):
    import tiny

    another = tiny.build_llama(tmp_path / "another", seed=3)
    command = ["export", str(whole), "--to", "merged", "--model", str(another), "--out", str(tmp_path / "merged")]
    assert main(command) != 0
    assert "another base" in "".join(capsys.readouterr())


def _stop_evaluation(patch, after):
    """Stop after this number of batches."""
    original, count = ModelBackend.answer, [0]

    def answer(self, items, batches, limit, on_batch):
        def note(position, found):
            on_batch(position, found)
            count[0] += 1
            if count[0] == after:
                raise Stopped

        original(self, items, batches, limit, note)

    patch.setattr(ModelBackend, "answer", answer)


def _stop_before(patch, name, nth):
    """Stop in front of the nth call of a function of the run."""
    from cl_plugins.callbacks import callback, learner_run

    owner = {"write_carry": callback, "consolidated": learner_run.LearnerRun, "trained": learner_run.LearnerRun}[name]
    original, count = getattr(owner, name), [0]

    def stopping(*args, **kwargs):
        count[0] += 1
        if count[0] == nth:
            raise Stopped
        return original(*args, **kwargs)

    patch.setattr(owner, name, stopping)


STOPS = {
    "inside the zero-shot row": lambda patch: _stop_evaluation(patch, 1),
    "between two tests": lambda patch: _stop_evaluation(patch, 2),
    "inside the last row": lambda patch: _stop_evaluation(patch, 9),
    "before a training is noted": lambda patch: _stop_before(patch, "trained", 2),
    "between update and carry": lambda patch: _stop_before(patch, "write_carry", 2),
    "between carry and journal": lambda patch: _stop_before(patch, "consolidated", 1),
}


@pytest.mark.parametrize("method", ["seqlora", "inclora"])
@pytest.mark.parametrize("stop", STOPS)
def test_a_script_that_was_stopped_ends_with_the_same_files(whole, llama, tmp_path, monkeypatch, stop, method):
    if method == "inclora" and stop != "between update and carry":
        pytest.skip("one kind of stop is enough for a second method")
    if method == "inclora":
        whole = tmp_path / "inclora"
        script(llama, whole, method=method)
    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        STOPS[stop](patch)
        with pytest.raises(Stopped):
            script(llama, directory, method=method)
    script(llama, directory, method=method)
    assert sorted(steps(directory)) == sorted(steps(whole))
    assert predictions(directory) == predictions(whole)
    for name in ("carry/carry.json", "matrix.json", "metrics.json", "final/model.safetensors"):
        assert (directory / name).read_bytes() == (whole / name).read_bytes(), name


def test_batches_that_were_answered_are_not_answered_again(llama, tmp_path, monkeypatch):
    asked = []

    def answer(model, task, rows):
        asked.append([row["prompt"] for row in rows])
        if len(asked) == 2:
            raise Stopped
        return [row["reference"] for row in rows]

    with pytest.raises(Stopped):
        learner(llama, tmp_path / "run", answer=answer).evaluate(batch_size=1)
    scores = learner(llama, tmp_path / "run", answer=answer).evaluate(batch_size=1)
    assert scores == {"one": 100.0, "two": 100.0}
    assert len(asked) == 7
    assert len({prompt for batch in asked for prompt in batch}) == 6


def test_a_finished_script_changes_nothing(whole, llama):
    before = files(whole)
    script(llama, whole)
    after = files(whole)
    assert {n for n in before if before[n] != after.get(n)} <= {"run.json", "report.html", "report.md"} | {
        n for n in before if n.endswith((".png", ".svg", ".pdf"))
    }


def test_changed_settings_are_refused_by_name(whole, llama):
    for given, word in (
        ({"rank": 8}, "lora_rank: 4 before, 8 now"),
        ({"seed": 7}, "seed: 42 before, 7 now"),
        ({"tests": {**TESTS, "two": TESTS["two"][:2]}}, "'two/test', rows: 3 before, 2 now"),
        ({"tasks": [TASKS[1], TASKS[0]]}, "tasks in order: one, two before, two, one now"),
        ({"method": "inclora"}, "cl.method.name"),
        ({"evaluation": {"scope": "all"}}, "cl.eval.scope"),
        ({"tasks": [TASKS[0], Task("two", max_new_tokens=3)]}, "max_new_tokens"),
    ):
        with pytest.raises(RunStateError, match="made with other settings") as error:
            learner(llama, whole, **given)
        assert word in str(error.value)
        assert "recipe" not in str(error.value)
        assert "cl.restart" not in str(error.value)


@pytest.mark.parametrize("file", ["run.json", "journal.jsonl", "carry/update_01.safetensors"])
def test_a_damaged_file_is_told_in_the_words_of_scripts(whole, llama, tmp_path, file):
    directory = shutil.copytree(whole, tmp_path / "run")
    path = directory / file if (directory / file).exists() else next((directory / "carry").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(RunStateError) as error:
        learner(llama, directory)
    assert not any(word in str(error.value) for word in ("cl.restart", "output_dir", "recipe"))


def test_a_directory_that_is_in_use_is_told_in_the_words_of_scripts(llama, tmp_path):
    made = learner(llama, tmp_path / "run", tests=None)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        with pytest.raises(RunStateError, match="is in use by") as error, made.task("one"):
            pass
        other.stdin.close()
    assert error.value.problems[0].fix.endswith("Wait for it, stop it, or choose another directory.")


def test_a_changed_base_is_refused(whole, llama):
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.lm_head.weight.add_(0.1)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    with pytest.raises(RunStateError, match="model in memory"):
        ContinualLearner(model, "seqlora", whole, lora, tasks=TASKS, tests=TESTS)


def test_tasks_may_be_appended(llama, tmp_path):
    directory = tmp_path / "run"
    first = learner(llama, directory, tasks=TASKS[:1], tests={"one": TESTS["one"]})
    first.evaluate()
    with first.task("one") as task:
        train(task, llama, "one", steps=1)
    first.evaluate()
    first.finish()
    second = learner(llama, directory)
    assert second.finished == ("one",)
    with second.task("two") as task:
        train(task, llama, "two", steps=1)
    assert set(second.evaluate()) == {"one", "two"}
    second.finish()
    assert collect(directory)["finished"]
    assert read_results(directory).matrix.get("after_two", "two") is not None


def test_a_failed_training_is_noted_and_repeated(llama, tmp_path):
    made = learner(llama, tmp_path / "run", tests=None)
    with pytest.raises(ValueError, match="no such"), made.task("one"):
        raise ValueError("no such thing")
    assert load(tmp_path / "run", "run.json")["failed"]["step"] == "train:one"
    again = learner(llama, tmp_path / "run", tests=None)
    with again.task("one") as task:
        train(task, llama, "one", steps=1)
    assert steps(tmp_path / "run") == ["train:one", "consolidate:one"]


def test_a_run_without_tests_has_no_matrix(llama, tmp_path):
    made = learner(llama, tmp_path / "run", tests=None, tasks=["one"])
    assert made.evaluate() == {}
    with made.task("one") as task:
        train(task, llama, "one", steps=1)
    assert made.finish() == tmp_path / "run"
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "matrix.json").exists()


def test_a_function_may_score_a_task(llama, tmp_path):
    seen = []

    def loss_score(model):
        seen.append(type(model).__name__)
        return [50, 100.0, torch.tensor(0.0)]

    made = learner(llama, tmp_path / "run", tests={"one": loss_score, "two": TESTS["two"]})
    assert made.evaluate()["one"] == 50.0
    with made.task("one") as task:
        train(task, llama, "one", steps=1)
    assert made.evaluate() == {"one": 50.0}
    assert len(seen) == 2
    matrix = read_results(tmp_path / "run").matrix
    assert matrix.scorers["one"] == "function:loss_score"
    assert matrix.n["one"] == 3
    assert main(["report", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("found", [0.5, "text", [], [120.0], [float("nan")], [True, "x"]])
def test_what_a_function_returns_is_checked(llama, tmp_path, found):
    made = learner(llama, tmp_path / "run", tests={"one": lambda model: found})
    with pytest.raises(DataError, match="from 0 to 100"):
        made.evaluate()


def test_replay_and_several_trainings_are_noted(llama, tmp_path):
    given = {
        "method": "mr_lora",
        "options": {"selector": {"kind": "mllm", "steps": 2}},
        "replay": {"capacity_per_task": 2},
        "tokenizer": AutoTokenizer.from_pretrained(llama),
    }
    out = tmp_path / "run"
    with mock.patch("cl_plugins.report.write_report"):
        made = learner(llama, out, **given)
        for name in WORDS:
            with made.task(name) as task:
                train(task, llama, name, steps=1)
        assert set(made.evaluate()) == {"one", "two"}
        made.finish()
    assert "train:two:router" in steps(out)
    assert collect(out, verify=True)["damaged"] == []
    assert len(kept_samples(out)) == 4
    assert main(["replay", "purge", str(out), "--older-than", "0h"]) == 0
    assert kept_samples(out) == []
    assert learner(llama, out, **given).finished == ("one", "two")
    assert collect(out, verify=True)["damaged"] == []


def test_what_cannot_be_is_refused(llama, tmp_path):
    made = learner(llama, tmp_path / "run")
    with pytest.raises(RunStateError, match="not the next one"), made.task("two"):
        pass
    with pytest.raises(RunStateError, match="has not learned one, two"):
        made.finish()
    with pytest.raises(RunStateError, match="made by a learner with `tasks`"):
        learner(llama, tmp_path / "run", tasks=None, tests=None)
    with pytest.raises(RecipeError, match="without `tasks`"):
        learner(llama, tmp_path / "other", tasks=None)
    plain = learner(llama, tmp_path / "other", tasks=None, tests=None)
    for call in (plain.evaluate, plain.finish):
        with pytest.raises(RunStateError, match="made without `tasks`"):
            call()
    for given, word in (
        ({"tests": {"three": []}}, "unknown task 'three'"),
        ({"tests": {"one": []}}, "is empty"),
        ({"tests": {"one": [{"prompt": "x"}]}}, "no `reference`"),
        ({"tests": {"one": [{"reference": "x"}]}}, "no `prompt`"),
        ({"tasks": "one"}, "names of the tasks"),
        ({"tasks": ["one", 2]}, "tasks[1]: is a int"),
        ({"tasks": ["one", "one"]}, "also the name of task 1"),
        ({"tasks": [Task("one", scorer="exactmatch")]}, "tasks[0].scorer"),
        ({"evaluation": {"scop": "all"}}, "evaluation.scop"),
        ({"evaluation": {"backend": "vllm"}}, "evaluation.backend"),
        ({"evaluation": {"oracle": True}}, "evaluation.oracle"),
    ):
        with pytest.raises(RecipeError) as error:
            learner(llama, tmp_path / "third", **given)
        assert word in str(error.value), given
    assert not (tmp_path / "third").exists()


def test_the_directory_of_a_recipe_is_refused(llama, text_data, tmp_path):
    import tiny
    from running import NO_TESTS, go

    keys = tiny.recipe(
        llama, text_data, tmp_path / "run", "seqlora", ("one",), text_only=True, cl=dict(NO_TESTS), max_steps=1
    )
    go(keys)
    with pytest.raises(RunStateError, match="run of a recipe"):
        learner(llama, tmp_path / "run")


def test_prompts_of_messages_and_tokens(llama, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}ASSISTANT:"
    asked = {"role": "user", "content": "what colour is this ?"}
    rows = [
        {"prompt": [asked], "completion": [{"role": "assistant", "content": "red"}]},
        {"prompt": "ignored", "input_ids": [5, 6, 7], "reference": "red", "id": "mine"},
    ]
    made = learner(llama, tmp_path / "run", tests={"one": rows}, tokenizer=tokenizer)
    session = made._run._state.session
    items = session.test_items(made._run.config.stream.task("one"), {}, None)
    text = tokenizer.apply_chat_template([asked], add_generation_prompt=True, tokenize=False)
    assert items[0].tokens.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert (items[0].prompt, items[0].reference) == (asked["content"], "red")
    assert items[1].tokens.tolist() == [5, 6, 7]
    assert items[1].id == "mine"
    batch = session._prompts.collate([item.feature for item in items])
    assert batch["attention_mask"].sum(1).tolist() == [len(item.tokens) for item in items]
    assert batch["input_ids"][1, -3:].tolist() == [5, 6, 7]
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="cannot be turned into tokens"):
        learner(llama, tmp_path / "other", tests={"one": rows}, tokenizer=tokenizer).evaluate()


def test_pictures_need_a_processor(llama, tmp_path):
    rows = [{"prompt": "what is this ?", "images": [object()], "reference": "red"}]
    made = learner(llama, tmp_path / "run", tests={"one": rows}, tokenizer=AutoTokenizer.from_pretrained(llama))
    with pytest.raises(DataError, match="tokenizer=processor"):
        made.evaluate()


def test_a_model_card_opens_the_model(whole):
    text = Path(whole / "final" / "README.md").read_text()
    assert "LLaMA-Factory" not in text
    assert "llama-factory" not in text
    assert "Transformers" in text
    code = text.split("```python\n")[1].split("```")[0].replace('folder = "."', f'folder = "{whole / "final"}"')
    exec(compile(code, "card", "exec"), {})
