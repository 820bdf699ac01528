"""Replay in runs: what is kept is what was trained on, how it meets new data, and that nothing is kept unasked."""

from __future__ import annotations

import json
import shutil

import marked
import pytest
import tiny
from marked import TASKS, manifest, mark, run
from method_cases import CASES, OF_EACH_KIND, WITHOUT_LANGUAGE_MODEL, mapping_of, slow_unless
from running import go
from safetensors.torch import load_file

from cl_plugins.base.errors import DataError, RecipeError
from cl_plugins.methods import get_method
from cl_plugins.methods.registry import method_names


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return marked.build(tmp_path_factory.mktemp("texts") / "data")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return marked.build(tmp_path_factory.mktemp("pictures") / "data", pictures=True)


@pytest.fixture
def loaded(monkeypatch):
    """Task -> (samples trained on, own samples), noted while runs train."""
    from cl_plugins.run import replaying

    found, load = {}, replaying.load

    def note(state, task, args):
        data = load(state, task, args)
        found[task] = len(data.module["train_dataset"]), len(data.own)
        return data

    monkeypatch.setattr(replaying, "load", note)
    return found


def tokens(folder, name, model, **keys):
    """Token ids of a data set as a plain LLaMA-Factory recipe reads it."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    plain = tiny.recipe(model, folder, folder / "out", **keys)
    plain.pop("cl")
    margs, dargs, targs, _, _ = get_train_args({**plain, "dataset": name})
    module = load_tokenizer(margs)
    template = get_template_and_fix_tokenizer(module["tokenizer"], dargs)
    return get_dataset(template, margs, dargs, targs, stage="sft", **module)["train_dataset"]


def test_a_buffer_is_a_plain_data_set_of_the_rows_that_were_trained_on(llama, texts, tmp_path):
    """Records in Alpaca's form with a system prompt, two of which the host drops, come back token for token."""
    out = run(llama, texts, tmp_path / "run", replay={"capacity_per_task": 4})
    samples = manifest(out)
    assert [s["task"] for s in samples] == [t for t in TASKS for _ in range(4)]
    buffer = tokens(out / "carry" / "replay", "replay", llama, text_only=True)
    for task in TASKS:
        own = [s for s in samples if s["task"] == task]
        kept = [buffer[i] for i, s in enumerate(samples) if s["task"] == task]
        trained = tokens(texts, f"{task}_train", llama, text_only=True)
        usable = [row for row in range(14) if row not in (0, 3)]
        for sample, tokenised in zip(own, kept, strict=True):
            twin = trained[usable.index(sample["row"])]
            assert tokenised["input_ids"] == twin["input_ids"]
            assert tokenised["labels"] == twin["labels"]
        raw = json.loads((texts / f"{task}_train.json").read_text())
        assert [s["id"] for s in own] == [raw[s["row"]]["id"] for s in own]
        assert {(s["dataset"], s["licence"], s["selection"]) for s in own} == {
            (f"{task}_train", f"terms of {task}", "random")
        }
        assert all(s["stored"].endswith("+00:00") for s in own)


def test_pictures_are_copied_and_named_by_content(llava, pictures, tmp_path):
    import hashlib

    out = run(llava, pictures, tmp_path / "run", replay={"capacity_per_task": 2}, pictures=True)
    folder = out / "carry" / "replay"
    media = sorted((folder / "media").iterdir())
    assert len(media) == 6
    originals = {p.read_bytes() for p in (pictures / "images").glob("*_train_*")}
    for path in media:
        assert path.read_bytes() in originals
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        assert path.stat().st_ino not in {p.stat().st_ino for p in (pictures / "images").iterdir()}
    trained = tokens(pictures, "two_train", llava)
    buffer = tokens(folder, "replay", llava)
    kept = [buffer[i] for i, s in enumerate(manifest(out)) if s["task"] == "two"]
    rows = [s["row"] for s in manifest(out) if s["task"] == "two"]
    assert [k["input_ids"] for k in kept] == [trained[row]["input_ids"] for row in rows]
    assert all(k["images"] for k in kept)


SEQUENTIAL = [
    n
    for n in method_names()
    if get_method(n).capabilities.schedule == "sequential" and n not in WITHOUT_LANGUAGE_MODEL
]


def terms(out, task):
    """Names of the terms that a task logged."""
    history = json.loads((out / "tasks" / task / "trainer_state.json").read_text())["log_history"]
    return {key.removeprefix("penalty/") for entry in history for key in entry if key.startswith("penalty/")}


@pytest.mark.parametrize("method", slow_unless(SEQUENTIAL, OF_EACH_KIND))
def test_every_kept_sample_is_added_once_under_any_method(method, llama, texts, tmp_path, loaded):
    out = run(llama, texts, tmp_path / "run", mapping_of(method), replay={"capacity_per_task": 3})
    if get_method(method).capabilities.needs_replay:  # it draws from the buffer by itself
        assert loaded == {"one": (12, 12), "two": (12, 12), "three": (12, 12)}
    else:
        assert loaded == {"one": (12, 12), "two": (15, 12), "three": (18, 12)}
    assert [s["task"] for s in manifest(out)] == [t for t in TASKS for _ in range(3)]
    with_term = {case.method["name"] for case in CASES if case.term}
    assert bool(terms(out, "02_two")) == (method in with_term)


WITHOUT_OWN_REPLAY = [n for n in SEQUENTIAL if not get_method(n).capabilities.needs_replay]


@pytest.mark.parametrize("method", slow_unless(WITHOUT_OWN_REPLAY, OF_EACH_KIND))
def test_separate_memory_batches_beside_the_terms_of_any_method(method, llama, texts, tmp_path, loaded):
    """Each term is there, and each changes what is learned."""
    replay = {"capacity_per_task": 3, "mixing": "separate"}
    two, second = ("one", "two"), "tasks/02_two/update.safetensors"
    keys = {"disable_gradient_checkpointing": True} if get_method(method).capabilities.rows_in_training else {}
    if keys:
        with pytest.raises(RecipeError, match="rows of another batch"):
            run(llama, texts, tmp_path / "refused", mapping_of(method), two, replay=replay)
    both = run(llama, texts, tmp_path / "both", mapping_of(method), two, replay=replay, **keys)
    assert loaded == {"one": (12, 12), "two": (12, 12)}
    without = run(
        llama, texts, tmp_path / "without", mapping_of(method), two, replay={**replay, "weight": 0.0}, **keys
    )
    assert terms(both, "02_two") == {"replay"} | terms(without, "02_two")
    assert terms(both, "01_one") == terms(without, "01_one")
    assert (both / second).read_bytes() != (without / second).read_bytes()


def test_the_choice_does_not_depend_on_method_or_base(llama, texts, tmp_path):
    rows = {}
    for method in ("seqlora", "inclora", "seqfull"):
        out = run(llama, texts, tmp_path / method, method, ("one",), replay={"capacity_per_task": 5})
        rows[method] = [s["row"] for s in manifest(out)]
    assert len({tuple(value) for value in rows.values()}) == 1


def test_max_samples_cuts_the_task_and_not_the_buffer(llama, texts, tmp_path, loaded):
    out = run(llama, texts, tmp_path / "run", replay={"capacity_per_task": 5}, max_samples=6)
    assert loaded == {"one": (4, 4), "two": (8, 4), "three": (12, 4)}  # two of the six are unusable
    assert all(s["row"] < 6 for s in manifest(out))


def test_one_capacity_for_all_tasks(llama, texts, tmp_path, loaded):
    out = run(llama, texts, tmp_path / "run", replay={"capacity_total": 7})
    assert [s["task"] for s in manifest(out)] == ["one"] * 3 + ["two"] * 2 + ["three"] * 2
    assert loaded == {"one": (12, 12), "two": (19, 12), "three": (19, 12)}


def test_a_reservoir_in_a_run(llama, texts, tmp_path):
    from cl_plugins.replay.capacity import sample_key

    out = run(llama, texts, tmp_path / "run", replay={"capacity_total": 8, "policy": "reservoir"})
    keys = {
        (task, row): sample_key(7 + 1000 * number, task, row)
        for number, task in enumerate(TASKS)
        for row in range(14)
        if row not in (0, 3)
    }
    expected = sorted(keys, key=keys.get)[:8]
    assert {(s["task"], s["row"]) for s in manifest(out)} == set(expected)


def test_the_first_task_is_trained_as_without_replay(llama, texts, tmp_path):
    plain = run(llama, texts, tmp_path / "plain", tasks=("one", "two"))
    replayed = run(llama, texts, tmp_path / "replayed", tasks=("one", "two"), replay={"capacity_per_task": 3})
    first, second = (f"tasks/0{i}_{task}/update.safetensors" for i, task in ((1, "one"), (2, "two")))
    assert (plain / first).read_bytes() == (replayed / first).read_bytes()
    assert (plain / second).read_bytes() != (replayed / second).read_bytes()
    assert not (plain / "carry" / "replay").exists()


@pytest.mark.parametrize("how", ["class_balanced", "herding", "k_center", "highest_loss", "lowest_loss"])
def test_selections_by_the_trained_model(how, llama, texts, tmp_path):
    replay = {"capacity_per_task": 4, "selection": how, "candidates": 9}
    samples = manifest(run(llama, texts, tmp_path / "run", tasks=("one", "two"), replay=replay))
    assert [s["selection"] for s in samples] == [how] * 8
    assert len({s["uid"] for s in samples}) == 8
    scores = [s["score"] for s in samples if s["task"] == "one"]
    if how == "class_balanced":
        raw = json.loads((texts / "one_train.json").read_text())
        assert sorted(raw[s["row"]]["output"] for s in samples[:4]) == ["A", "B", "C", "D"]
    if how.endswith("loss"):
        assert scores == sorted(scores, reverse=how == "highest_loss")
        assert len(set(scores)) == 4
    else:
        assert scores == [None] * 4


def test_the_losses_are_those_of_the_trained_model(llama, texts, tmp_path, monkeypatch):
    """Scores against a forward of one sample at a time, and the features' chunks shared by two processes."""
    from cl_plugins.replay import scoring

    seen = {}
    original = scoring.scores

    def note(model, data, indices, **kwargs):
        import torch

        value = original(model, data, indices, **kwargs)
        alone = []
        with scoring.looking(model):
            for i in indices:
                batch = next(iter(data.batches([i])))
                alone.append(float(model(**batch).loss))
        parts = []
        for rank in range(2):
            original(
                model, data, indices, features=kwargs["features"], rank=rank, world_size=2,
                gather=lambda mine: (parts.append(mine), [mine, *[{k: [0] for k in range(9)}]])[1],
            )  # fmt: skip
        both = original(model, data, indices, features=kwargs["features"], gather=lambda mine: parts)
        seen.update(value=value, alone=alone, both=both, grad=torch.is_grad_enabled(), training=model.training)
        return value

    monkeypatch.setattr(scoring, "scores", note)
    replay = {"capacity_per_task": 12, "selection": "lowest_loss"}
    run(llama, texts, tmp_path / "run", tasks=("one",), replay=replay)
    assert seen["value"] == pytest.approx(seen["alone"], rel=1e-5)
    assert seen["both"] == seen["value"]
    assert seen["grad"]
    assert seen["training"]


def test_a_ratio_of_memory_samples(llama, texts, tmp_path, loaded):
    run(llama, texts, tmp_path / "run", replay={"capacity_per_task": 2, "mixing": "ratio", "ratio": 0.25})
    assert loaded == {"one": (12, 12), "two": (16, 12), "three": (16, 12)}


def test_separate_memory_batches(llama, texts, tmp_path, loaded):
    """The training set stays as it is; the term is logged from the second task on, and weight 0 changes nothing."""
    replay = {"capacity_per_task": 3, "mixing": "separate"}
    out = run(llama, texts, tmp_path / "run", tasks=("one", "two"), replay=replay)
    assert loaded == {"one": (12, 12), "two": (12, 12)}
    logged = {
        task: [e.get("penalty/replay") for e in json.loads((out / folder).read_text())["log_history"] if "loss" in e]
        for task, folder in (("one", "tasks/01_one/trainer_state.json"), ("two", "tasks/02_two/trainer_state.json"))
    }
    assert logged["one"] == [None, None]
    assert all(value > 0 for value in logged["two"])
    second = "tasks/02_two/update.safetensors"
    plain = run(llama, texts, tmp_path / "plain", tasks=("one", "two"))
    none = run(llama, texts, tmp_path / "none", tasks=("one", "two"), replay={**replay, "weight": 0.0})
    assert (none / second).read_bytes() == (plain / second).read_bytes()
    assert (out / second).read_bytes() != (plain / second).read_bytes()


@pytest.mark.parametrize("layout", [(2, 2), (1, 4)], ids=str)
def test_the_memory_gradient_does_not_depend_on_the_batch_layout(layout, llama, texts, tmp_path):
    """One-token answers, one step of plain gradient descent, so that the update is the gradient."""
    keys = {
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
    }
    replay = {"capacity_per_task": 5, "mixing": "separate"}
    updates = []
    for name, (batch, accumulate) in (("whole", (4, 1)), ("parts", layout)):
        out = run(
            llama, texts, tmp_path / name, tasks=("one", "two"), replay=replay, per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate, **keys,
        )  # fmt: skip
        updates.append(load_file(out / "tasks" / "02_two" / "update.safetensors"))
    whole, parts = updates
    assert max(float((whole[n] - parts[n]).abs().max() / whole[n].abs().max().clamp_min(1e-9)) for n in whole) < 1e-4


def test_a_hand_over_to_another_directory(llava, tmp_path):
    """The carry alone is enough: the first site's data, pictures and run are gone; the result is the chain's."""
    data = marked.build(tmp_path / "data", ("one", "two"), pictures=True)
    tasks, replay = ("one", "two"), {"capacity_per_task": 4}
    chain = run(llava, data, tmp_path / "chain", tasks=tasks, replay=replay, pictures=True)
    first = run(llava, data, tmp_path / "first", tasks=tasks, replay=replay, pictures=True, cl={"only": "one"})
    shutil.copytree(first / "carry", tmp_path / "elsewhere")
    shutil.rmtree(first)
    for path in data.glob("images/one_train*"):
        path.unlink()
    (data / "one_train.json").unlink()
    block = {"only": "two", "carry_from": str(tmp_path / "elsewhere")}
    second = run(llava, data, tmp_path / "second", tasks=tasks, replay=replay, pictures=True, cl=block)
    update = "tasks/02_two/update.safetensors"
    assert (second / update).read_bytes() == (chain / update).read_bytes()
    plain = [{k: v for k, v in s.items() if k != "stored"} for s in manifest(second)]
    assert plain == [{k: v for k, v in s.items() if k != "stored"} for s in manifest(chain)]
    media = {p.name for p in (second / "carry" / "replay" / "media").iterdir()}
    assert media == {p.name for p in (chain / "carry" / "replay" / "media").iterdir()}


def test_a_damaged_buffer_is_found_before_training(llama, texts, tmp_path):
    from cl_plugins.base.errors import RunStateError

    keys = marked.recipe(llama, texts, tmp_path / "run", replay={"capacity_per_task": 2}, cl={"stop_after": 2})
    go(keys)
    path = tmp_path / "run" / "carry" / "replay" / "samples.jsonl"
    path.write_text(path.read_text().replace(mark("one", 0)[:3], "xyz"))
    with pytest.raises(RunStateError, match=r"samples.jsonl: differs from its hash"):
        go(keys)


def test_a_buffer_that_no_longer_fits_the_keys(llama, texts, tmp_path):
    """A shorter cutoff for the next task leaves nothing of the answers that were kept."""
    replay = {"capacity_per_task": 2}
    block = {"task_overrides": {"two": {"cutoff_len": 4}}}
    with pytest.raises(DataError, match="cutoff_len"):
        run(llama, texts, tmp_path / "run", tasks=("one", "two"), replay=replay, cl=block)


@pytest.mark.parametrize(
    ("method", "replay", "keys", "said"),
    [
        ("seqlora", {"capacity_per_task": 2, "capacity_total": 5}, {}, "cl.replay.capacity_total: is given together"),
        ("seqlora", {"capacity_per_task": 2, "policy": "reservoir"}, {}, "cl.replay.policy: is 'reservoir'"),
        ("seqlora", {"capacity_total": 2, "policy": "reservoir", "selection": "herding"}, {}, "draws at random"),
        ("seqlora", {"capacity_per_task": 2, "ratio": 1.0}, {}, "cl.replay.ratio: is 1.0"),
        ("seqlora", {"capacity_per_task": -1}, {}, "smallest allowed value is 0"),
        ("seqlora", {"capacity_per_task": 2, "mixin": "ratio"}, {}, "mixing"),
        ("single_task", {"capacity_per_task": 2}, {}, "passes nothing from task to task"),
        ("multitask", {"capacity_per_task": 2}, {}, "passes nothing from task to task"),
        ("seqlora", {"capacity_per_task": 2}, {"packing": True}, "packing: hides the record"),
        ("der", {}, {}, "'der' draws from the buffer"),
        ("der", {"capacity_per_task": 2, "mixing": "ratio"}, {}, "draws the memory samples itself"),
    ],
)
def test_what_does_not_go_together_is_refused(method, replay, keys, said, llama, texts, tmp_path):
    with pytest.raises(RecipeError, match=said):
        run(llama, texts, tmp_path / "run", method, replay=replay, **keys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("launched", [("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")])
@pytest.mark.parametrize("method", ["seqlora", "der"])
def test_reentrant_checkpoints_under_a_launcher_are_refused(method, launched, llama, texts, tmp_path, monkeypatch):
    """DDP averages the gradients of one of the two forwards only: 2 x 4 then differs from 1 x 8 by 0.2 %.

    With one process under torchrun, where DDP has nothing to average, it stops at the first step.
    """
    replay = {"capacity_per_task": 2} | ({"mixing": "separate"} if method == "seqlora" else {})
    keys = marked.recipe(llama, texts, tmp_path / "run", method, replay=replay)
    tiny.checked(keys)
    monkeypatch.setenv(*launched)
    with pytest.raises(RecipeError, match="`use_reentrant_gc: false`"):
        tiny.checked(keys)
    tiny.checked({**keys, "use_reentrant_gc": False})
    tiny.checked({**keys, "disable_gradient_checkpointing": True})
