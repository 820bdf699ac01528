"""DeepSpeed ZeRO-2 and ZeRO-3 with two gloo ranks: what is declared in the methods' capabilities is shown here."""

from __future__ import annotations

import json

import pytest
import tiny


pytest.importorskip("deepspeed")
pytestmark = pytest.mark.engines

TASKS = ("one", "two")
# method, stage; `single_task` and `multitask` train the same kind of adapter as `seqlora`, started otherwise
CASES = [
    ("inclora", 2),
    ("inclora", 3),
    ("seqfull", 2),
    ("seqfull", 3),
    ("seqlora", 2),
    ("single_task", 2),
    ("multitask", 2),
]
WEIGHTS = 1e-5  # of ZeRO with 2 ranks against one process at the same global batch, relative; measured up to 2e-6
BOUNDARY = 1e-5  # of the largest logit; measured 0 for full and ZeRO-2, 4e-7 otherwise


def zero(folder, stage):
    """A DeepSpeed configuration; every tensor of ZeRO-3 is split, however small."""
    zero = {"stage": stage}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    auto = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    path = folder / f"zero{stage}.json"
    path.write_text(
        json.dumps({**dict.fromkeys(auto, "auto"), "zero_allow_untested_optimizer": True, "zero_optimization": zero})
    )
    return str(path)


def keys(llava, data, out, method, **more):
    options = {"name": method, **({"consolidate": "stack"} if method == "inclora" else {})}
    return tiny.recipe(llava, data, out, options, TASKS, **{"use_cpu": False, **more})


@pytest.fixture(scope="module")
def runs(llava, data, carry_out, tmp_path_factory):
    """Every case in one process, with DeepSpeed, and killed twice: at a task boundary and inside a task."""
    root = tmp_path_factory.mktemp("deepspeed")
    jobs = []
    for method in dict.fromkeys(method for method, _ in CASES):
        single = keys(llava, data, root / method, method, per_device_train_batch_size=8)
        jobs.append({"keys": single, "observe": str(root / f"{method}-seen"), "processes": 1})
    for method, stage in CASES:
        name = f"{method}-{stage}"
        deepspeed = {"deepspeed": zero(root, stage)}
        recipe = keys(llava, data, root / name, method, **deepspeed)
        jobs.append({"keys": recipe, "observe": str(root / f"{name}-seen")})
        if method in ("inclora", "seqfull"):
            saving = {"save_strategy": "steps", "save_steps": 2}
            again = keys(llava, data, root / f"{name}-again", method, **deepspeed, **saving)
            seen = {"keys": again, "observe": str(root / f"{name}-again-seen")}
            jobs += [seen | {"kill_after": "consolidate:one"}, seen | {"kill_at": 3}, seen]
    carry_out(jobs)
    return root


def tensors(out, task):
    from safetensors.torch import load_file

    return load_file(out / "tasks" / task / "update.safetensors")


def difference(a, b):
    assert a.keys() == b.keys()
    size = sum(float(a[n].double().square().sum()) for n in a) ** 0.5
    return sum(float((a[n].double() - b[n].double()).square().sum()) for n in a) ** 0.5 / size


def log(root, name):
    return "".join(path.read_text()[-3000:] for path in sorted((root / f"{name}-seen").glob("rank*.log")))


def folders(out):
    return [p.name for p in sorted((out / "tasks").iterdir())]


@pytest.mark.parametrize(("method", "stage"), CASES)
class TestCase:
    def test_runs_to_its_end_as_one_process_does(self, runs, method, stage):
        """Same steps, same weights up to rounding, same answers."""
        name = f"{method}-{stage}"
        assert json.loads((runs / f"{name}-seen" / "exit.json").read_text()) == [0, 0], log(runs, name)
        single, double = runs / method, runs / name
        steps = [
            [json.loads(x)["step"] for x in (o / "journal.jsonl").read_text().splitlines()] for o in (single, double)
        ]
        assert steps[0] == steps[1]
        for task in folders(single):
            assert difference(tensors(single, task), tensors(double, task)) <= WEIGHTS
        files = sorted(p.relative_to(single) for p in single.glob("predictions/*/*.jsonl"))
        assert files
        for file in files:
            a, b = ([json.loads(x) for x in (o / file).read_text().splitlines()] for o in (single, double))
            assert [x["id"] for x in a] == [x["id"] for x in b]
            assert sum(x["prediction"] != y["prediction"] for x, y in zip(a, b, strict=True)) <= 1  # a near tie

    def test_boundary_identity(self, runs, method, stage):
        import torch

        seen = torch.load(runs / f"{method}-{stage}-seen" / "seen.pt", weights_only=True)
        assert len(seen["before"]) == len(seen["after"]) >= 1
        for before, after in zip(seen["before"], seen["after"], strict=True):
            assert (before - after).abs().max() <= BOUNDARY * before.abs().max()
        if method in ("inclora", "seqlora", "seqfull"):
            start, end = seen["fresh"][1], seen["after"][0]
            assert (start - end).abs().max() <= BOUNDARY * end.abs().max()
        for fresh, before in zip(seen["fresh"], seen["before"], strict=True):
            assert (fresh - before).abs().max() > 1e-3 * before.abs().max()

    def test_final_opens_without_deepspeed_and_is_the_last_model(self, runs, inputs, llava, method, stage):
        import torch
        from peft import PeftModel
        from transformers import LlavaForConditionalGeneration

        final = runs / f"{method}-{stage}" / "final"
        kind = json.loads((final / "MANIFEST.json").read_text())["kind"]
        assert kind == ("full" if method == "seqfull" else "peft" if stage == 3 else "merged")
        if kind == "peft":
            model = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(llava), final)
        else:
            model = LlavaForConditionalGeneration.from_pretrained(final)
        ids, pixels = torch.load(inputs, weights_only=True)
        model.eval()
        with torch.no_grad():
            got = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits
        last = torch.load(runs / f"{method}-{stage}-seen" / "seen.pt", weights_only=True)["after"][-1]
        assert (got - last).abs().max() <= BOUNDARY * last.abs().max()


@pytest.mark.parametrize(("method", "stage"), [c for c in CASES if c[0] in ("inclora", "seqfull")])
def test_killed_and_started_again(runs, method, stage):
    """The result is that of the run that was never interrupted, bit for bit, and nothing finished is done twice."""
    name = f"{method}-{stage}-again"
    assert json.loads((runs / f"{name}-seen" / "exit.json").read_text()) == [0, 0], log(runs, name)
    whole, resumed = runs / f"{method}-{stage}", runs / name
    assert "going on from" in (runs / f"{name}-seen" / "rank0.log").read_text()
    for task in ("01_one", "02_two"):
        assert difference(tensors(whole, task), tensors(resumed, task)) == 0.0
    for file in whole.glob("predictions/*/*.jsonl"):
        assert file.read_bytes() == (resumed / file.relative_to(whole)).read_bytes()
    steps = [json.loads(x)["step"] for x in (resumed / "journal.jsonl").read_text().splitlines()]
    assert len(steps) == len(set(steps))
    assert not list(resumed.rglob("*.pt"))
