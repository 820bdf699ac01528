"""What must hold for every method: the shared tests over `method_cases.CASES`."""

from __future__ import annotations

import json

import pytest
import tiny
from method_cases import CASES


TASKS = ("one", "two", "three")


def logits(model, ids, pixels=None):
    import torch

    model.eval()
    with torch.no_grad():
        extra = {} if pixels is None else {"pixel_values": pixels}
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits.clone()


def inputs(model_dir):
    """Ids with picture tokens, and a picture, both fixed."""
    import torch
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model_dir)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(10, 60, (2, 24), generator=generator)
    ids[:, 2:6] = image
    return ids, torch.randn(2, 3, 16, 16, generator=generator)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.id)
def observed(request, llava, data, tmp_path_factory):
    """A finished run of one method, watched from outside: logits at every boundary, trainable names, base tensors."""
    import torch
    from llamafactory.train.tuner import run_exp

    from cl_plugins.run import runner, train

    case = request.param
    out = tmp_path_factory.mktemp(case.id) / "run"
    ids, pixels = inputs(llava)
    seen = {"before": [], "after": [], "fresh": [], "changed": [], "trainable": [], "frozen": []}
    patch = pytest.MonkeyPatch()

    check_trained = train._check_trained

    def at_end_of_training(task, steps, before, after, args):
        check_trained(task, steps, before, after, args)
        seen["changed"].append([n for n in after if before[n] != after[n]])
        seen["trainable"].append(list(after))

    marks = train._marks
    calls = {"n": 0}

    def before_and_after(model):
        value = logits(model, ids, pixels)
        frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
        if calls["n"] % 2 == 0:
            seen["fresh"].append(value)
            seen["_frozen"] = frozen
        else:
            seen["before"].append(value)
            seen["frozen"].append(all(torch.equal(frozen[n], seen["_frozen"][n]) for n in frozen))
        calls["n"] += 1
        model.train()
        return marks(model)

    do = runner.Runner._do

    def after_step(self, step, plan):
        do(self, step, plan)
        if step.kind == "consolidate":
            seen["after"].append(logits(self._state.answering(self._state.carry), ids, pixels))

    patch.setattr(train, "_check_trained", at_end_of_training)
    patch.setattr(train, "_marks", before_and_after)
    patch.setattr(runner.Runner, "_do", after_step)
    try:
        run_exp(tiny.recipe(llava, data, out, dict(case.method), cl=dict(case.block), **case.keys))
    finally:
        patch.undo()
    seen.update(case=case, out=out, ids=ids, pixels=pixels)
    return seen


def test_boundary_identity(observed):
    """The model rebuilt from what was written computes what the trained model computed."""
    bound = observed["case"].boundary
    assert len(observed["before"]) == len(observed["after"]) >= 1
    for before, after in zip(observed["before"], observed["after"], strict=True):
        scale = before.abs().max()
        assert (before - after).abs().max() <= bound * scale


def test_next_task_starts_where_the_last_ended(observed):
    """A fresh update contributes exactly nothing; sequential methods start from the consolidated model."""
    from cl_plugins.methods import get_method

    if get_method(observed["case"].method["name"]).capabilities.schedule != "sequential":
        pytest.skip("only sequential methods hand something over")
    for start, end in zip(observed["fresh"][1:], observed["after"][:-1], strict=True):
        assert (start - end).abs().max() == 0


def test_training_changed_the_model(observed):
    for fresh, before in zip(observed["fresh"], observed["before"], strict=True):
        assert (fresh - before).abs().max() > 1e-4


def test_every_trainable_tensor_changed(observed):
    for changed, trainable in zip(observed["changed"], observed["trainable"], strict=True):
        missing = set(trainable) - set(changed)
        # with all pictures' features of the last-but-one layer, nothing is left without a gradient
        assert not missing, sorted(missing)[:5]


def test_frozen_tensors_are_bit_identical(observed):
    assert observed["frozen"]
    assert all(observed["frozen"])


def test_final_opens_in_plain_transformers_and_gives_the_last_logits(observed):
    """``final/`` is the model that was evaluated last."""
    from transformers import LlavaForConditionalGeneration

    final = observed["out"] / "final"
    manifest = json.loads((final / "MANIFEST.json").read_text())
    assert manifest["kind"] in {"merged", "full"}
    model = LlavaForConditionalGeneration.from_pretrained(final)
    assert model.config.text_config.use_cache is True
    last = observed["after"][-1]
    got = logits(model, observed["ids"], observed["pixels"])
    assert (got - last).abs().max() <= 1e-5 * last.abs().max()


def test_what_a_run_leaves_behind(observed):
    out = observed["out"]
    names = "run.json journal.jsonl matrix.json metrics.json report.md report.html matrix.png forgetting.png matrix.csv matrix.tex".split()
    for name in names:
        assert (out / name).stat().st_size > 0, name
    steps = [json.loads(line)["step"] for line in (out / "journal.jsonl").read_text().splitlines()]
    assert steps[-1] == "finish"
    matrix = json.loads((out / "matrix.json").read_text())
    assert matrix["tasks"] == list(TASKS)
    assert all(v is not None for v in matrix["zero_shot"])
    for path in out.glob("predictions/*/*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["id"].rsplit("-", 1)[1] for line in lines] == [str(i) for i in range(6)]
    assert not list(out.rglob("*.tmp"))
    assert not list(out.rglob("*.pt"))  # the trainer's pickles are gone
    assert not list(out.rglob("*.bin")) or [p.name for p in out.rglob("*.bin")] == ["training_args.bin"]


def test_carry_is_safetensors_and_json_only(observed):
    for path in (observed["out"] / "carry").rglob("*"):
        if path.parent.name == "media":  # pictures of the replay buffer
            assert observed["case"].block
            continue
        assert path.is_dir() or path.suffix in {".safetensors", ".json"}


def test_only_replay_leaves_training_samples_in_the_carry(observed, data):
    """Text, id and picture of every training sample, looked for in every byte below ``carry/``."""
    carried = {p: p.read_bytes() for p in (observed["out"] / "carry").rglob("*") if p.is_file()}
    traces = [b"what colour is this picture"]
    for task in TASKS:
        traces += [f"{task}-train-{i}".encode() for i in range(24)]
        for path in data.glob(f"images/{task}_train_*.png"):
            pixels = path.read_bytes()
            traces += [pixels, pixels[pixels.index(b"IDAT") + 4 :][:64], path.name.encode()]
    found = {trace for trace in traces if any(trace in content for content in carried.values())}
    if observed["case"].block.get("replay"):
        assert len(found) > 3 * 5  # the test sees what is there
    else:
        assert found == set()


def test_a_finished_run_does_nothing_again(observed):
    from llamafactory.train.tuner import run_exp

    out = observed["out"]
    journal = (out / "journal.jsonl").read_bytes()
    run_exp(
        tiny.recipe(
            observed_model(observed),
            observed_data(observed),
            out,
            dict(observed["case"].method),
            cl=dict(observed["case"].block),
            **observed["case"].keys,
        )
    )
    assert (out / "journal.jsonl").read_bytes() == journal


def observed_model(observed):
    return json.loads((observed["out"] / "run.json").read_text())["recipe"]["model_name_or_path"]


def observed_data(observed):
    return json.loads((observed["out"] / "run.json").read_text())["recipe"]["dataset_dir"]
