"""What the tests with DeepSpeed share: their recipes, and how two runs are compared."""

from __future__ import annotations

import json

import method_cases
import tiny
from running import difference


TASKS = ("one", "two")
KILLED_METHODS = {case.name for case in method_cases.CASES if case.kill_everywhere}
# method, stage; `single_task` and `multitask` train the same kind of adapter as `seqlora`, started otherwise
BY_NAME = {case.name: case for case in method_cases.CASES if case.stages}
CASES = [(name, stage) for name, case in BY_NAME.items() for stage in case.stages]
TERMS = [name for name, case in BY_NAME.items() if case.term]
KILLED = [(name, stage) for name, stage in CASES if name in KILLED_METHODS]  # and started again
STATELESS = ("single_task", "multitask")  # hand nothing from task to task


def keys(llava, data, out, method, **more):
    """A recipe; its per-device batch of 4 on two ranks is 8 on one."""
    case = BY_NAME[method]
    if case.block:  # a second forward does not go with reentrant checkpoints under several processes
        # as many memory samples as new ones: a fixed number per micro-batch would be twice as many on two ranks
        replay = {key: value for key, value in case.block["replay"].items() if key != "batch"}
        more = {"cl": {**case.block, "replay": replay}, "use_reentrant_gc": False, **more}
    return tiny.recipe(llava, data, out, dict(case.method), TASKS, **{"use_cpu": False, **more})


def jobs_of(llava, data, root, method, stage, engine, kills):
    """The jobs of one case: the run, and for the methods in `KILLED` one that is killed as each of ``kills`` says and started again."""
    name = f"{method}-{stage}"
    jobs = [{"keys": keys(llava, data, root / name, method, **engine), "observe": str(root / f"{name}-seen")}]
    if (method, stage) in KILLED:
        saving = {"save_strategy": "steps", "save_steps": 2}
        again = keys(llava, data, root / f"{name}-again", method, **engine, **saving)
        job = {"keys": again, "observe": str(root / f"{name}-again-seen")}
        jobs += [*(job | kill for kill in kills), job]
    return jobs


def tensors(out, task):
    from safetensors.torch import load_file

    return load_file(out / "tasks" / task / "update.safetensors")


def error(a, b):
    """Largest difference of two sets of logits, relative to the largest logit of the second."""
    return float((a - b).abs().max() / b.abs().max())


def log(root, name):
    return "".join(path.read_text()[-3000:] for path in sorted((root / f"{name}-seen").glob("rank*.log")))


def codes(root, name):
    return json.loads((root / f"{name}-seen" / "exit.json").read_text())


def seen(root, name):
    import torch

    return torch.load(root / f"{name}-seen" / "seen.pt", weights_only=True)


def folders(out):
    return [p.name for p in sorted((out / "tasks").iterdir())]


def check_boundaries(found, method, tolerance):
    """What trained and what was written and read again answer alike, and training changed the answers."""
    assert len(found["before"]) == len(found["after"]) >= 1
    for before, after in zip(found["before"], found["after"], strict=True):
        assert error(after, before) <= tolerance
    if method not in STATELESS:
        assert error(found["fresh"][1], found["after"][0]) <= tolerance
    for fresh, before in zip(found["fresh"], found["before"], strict=True):
        assert error(fresh, before) > max(1e-3, 10 * tolerance)


def final_logits(final, llava, inputs, dtype="float32"):
    """Kind of ``final/``, and its logits as plain Transformers and PEFT compute them, in mixed precision if not fp32."""
    import torch
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration

    dtype = getattr(torch, dtype)
    kind = json.loads((final / "MANIFEST.json").read_text())["kind"]
    if kind == "peft":
        model = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(llava, dtype=dtype), final)
    else:
        model = LlavaForConditionalGeneration.from_pretrained(final, dtype="auto")
    ids, pixels = torch.load(inputs, weights_only=True)
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        return kind, model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits.float()


def steps(out):
    return [json.loads(line)["step"] for line in (out / "journal.jsonl").read_text().splitlines()]


def check_resumed(root, whole, again, rounding=0.0):
    """The run that was killed ends as the one that was not, bit for bit, and does nothing finished twice.

    Args:
        root: Folder of the runs.
        whole: The run that was not killed.
        again: The run that was killed inside the first task and started again.
        rounding: Where the engine itself rounds otherwise after a restart: how far the first task may be off.
    """
    assert codes(root, again) == [0, 0], log(root, again)
    assert "resuming from" in (root / f"{again}-seen" / "rank0.log").read_text()
    done = steps(root / again)
    assert len(done) == len(set(done))
    assert not list((root / again).rglob("*.pt"))
    if rounding:
        assert difference(tensors(root / whole, "01_one"), tensors(root / again, "01_one")) <= rounding
        return
    for task in ("01_one", "02_two"):
        assert difference(tensors(root / whole, task), tensors(root / again, task)) == 0.0
    for file in (root / whole).glob("predictions/*/*.jsonl"):
        assert file.read_bytes() == (root / again / file.relative_to(root / whole)).read_bytes()
