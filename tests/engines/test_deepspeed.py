"""DeepSpeed ZeRO-2 and ZeRO-3 with two gloo ranks: what is declared in the methods' capabilities is shown here."""

from __future__ import annotations

import json

import pytest
from deepspeed_runs import (
    CASES,
    KILLED,
    TERMS,
    check_boundaries,
    check_resumed,
    codes,
    difference,
    error,
    final_logits,
    folders,
    jobs_of,
    keys,
    log,
    seen,
    steps,
    tensors,
)


pytest.importorskip("deepspeed")
pytestmark = pytest.mark.engines

WEIGHTS = 1e-5  # of ZeRO with 2 ranks against one process at the same global batch, relative; measured up to 5e-6
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


@pytest.fixture(scope="module")
def runs(llava, data, carry_out, tmp_path_factory):
    """Every case in one process, with DeepSpeed, and killed twice: at a task boundary and inside a task."""
    root = tmp_path_factory.mktemp("deepspeed")
    jobs = []
    for method in dict.fromkeys(method for method, _ in CASES):
        single = keys(llava, data, root / method, method, per_device_train_batch_size=8)
        jobs.append({"keys": single, "observe": str(root / f"{method}-seen"), "processes": 1})
    for method, stage in CASES:
        kills = ({"kill_after": "consolidate:one"}, {"kill_at": 3})
        jobs += jobs_of(llava, data, root, method, stage, {"deepspeed": zero(root, stage)}, kills)
    carry_out(jobs)
    return root


@pytest.mark.parametrize(("method", "stage"), CASES)
class TestCase:
    def test_runs_to_its_end_as_one_process_does(self, runs, method, stage):
        """Same steps, same weights up to rounding, same answers."""
        name = f"{method}-{stage}"
        assert codes(runs, name) == [0, 0], log(runs, name)
        single, double = runs / method, runs / name
        assert steps(single) == steps(double)
        for task in folders(single):
            assert difference(tensors(single, task), tensors(double, task)) <= WEIGHTS
        files = sorted(p.relative_to(single) for p in single.glob("predictions/*/*.jsonl"))
        assert files
        for file in files:
            a, b = ([json.loads(x) for x in (o / file).read_text().splitlines()] for o in (single, double))
            assert [x["id"] for x in a] == [x["id"] for x in b]
            assert sum(x["prediction"] != y["prediction"] for x, y in zip(a, b, strict=True)) <= 1  # a near tie

    def test_boundary_identity(self, runs, method, stage):
        check_boundaries(seen(runs, f"{method}-{stage}"), method, BOUNDARY)

    def test_final_opens_without_deepspeed_and_is_the_last_model(self, runs, inputs, llava, method, stage):
        kind, got = final_logits(runs / f"{method}-{stage}" / "final", llava, inputs)
        assert kind == ("full" if method == "seqfull" else "peft" if stage == 3 else "merged")
        assert error(got, seen(runs, f"{method}-{stage}")["after"][-1]) <= BOUNDARY


@pytest.mark.parametrize("method", TERMS)
def test_terms_in_the_loss_reach_the_split_gradients(runs, method):
    """They start from the same first task as plain sequential LoRA, and end elsewhere."""
    plain, term = runs / "seqlora-2", runs / f"{method}-2"
    assert difference(tensors(plain, "01_one"), tensors(term, "01_one")) == 0.0
    assert difference(tensors(plain, "02_two"), tensors(term, "02_two")) > 100 * WEIGHTS


@pytest.mark.parametrize(("method", "stage"), KILLED)
def test_killed_and_started_again(runs, method, stage):
    """The result is that of the run that was never interrupted, bit for bit, and nothing finished is done twice."""
    check_resumed(runs, f"{method}-{stage}", f"{method}-{stage}-again")
