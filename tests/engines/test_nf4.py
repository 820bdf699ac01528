"""A base quantised to 4 bits by bitsandbytes, on the CPU: nothing can be merged into it, and nothing has to be."""

from __future__ import annotations

import json

import method_cases
import pytest
import tiny

from cl_plugins.methods import get_method


pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.engines

TASKS = ("one", "two")
SELECTOR = {"kind": "ridge", "features": ["vision", "text"]}
CHOSEN = [  # which part answers is the selector's choice, and not always that of the task that was trained last
    method_cases.MethodCase(
        "single_task-ridge", {"name": "single_task", "selector": SELECTOR}, apart=True, nf4_routed=True
    ),
    method_cases.MethodCase(
        "mslora_cr-ridge", {"name": "mslora_cr", "selector": SELECTOR}, apart=True, nf4_routed=True
    ),
]
ALL = [case for case in method_cases.CASES if case.nf4 or case.nf4_routed] + CHOSEN
CASES = [pytest.param(case, id=case.id) for case in ALL]
BOUNDARY = 1e-5  # of the largest logit; the quantised weights are the same, the low-rank terms are in fp32

PACKED = 2e-2  # of plain bitsandbytes, which computes in bf16 on CPUs that can


def keys(model, data, out, method, **more):
    if isinstance(method, method_cases.MethodCase):
        more, method = {"cl": dict(method.block), **more}, dict(method.method)
    if "replay" in more.get("cl", {}):  # a second forward does not go with reentrant checkpoints under a launcher
        more = {"use_reentrant_gc": False, **more}
    return tiny.recipe(model, data, out, method, TASKS, quantization_bit=4, **more)


@pytest.fixture(scope="module", params=CASES)
def observed(request, wide_llava, data, inputs, carry_out, tmp_path_factory):
    import torch

    root = tmp_path_factory.mktemp(f"nf4-{request.param.id}")
    out, seen = root / "run", root / "seen"
    carry_out([{"keys": keys(wide_llava, data, out, request.param), "observe": str(seen), "processes": 1}])
    assert json.loads((seen / "exit.json").read_text()) == [0], (seen / "rank0.log").read_text()[-4000:]
    return request.param, out, torch.load(seen / "seen.pt", weights_only=True)


def test_the_whole_stream_runs(observed):
    _, out, seen = observed
    assert "finish" in (out / "journal.jsonl").read_text()
    assert len(list(out.glob("predictions/*/*.jsonl"))) >= 4
    for fresh, before in zip(seen["fresh"], seen["before"], strict=True):
        assert (fresh - before).abs().max() > 1e-2 * before.abs().max()


def test_boundary_identity(observed):
    case, _, seen = observed
    assert len(seen["after"]) >= 1
    phases = case.name == "mr_lora"  # its router is a training of its own, after which nothing is restored
    pairs = list(zip(seen["before"], seen["after"], strict=not phases))
    for before, after in pairs[:1] if case.apart else pairs:
        assert (before - after).abs().max() <= BOUNDARY * before.abs().max()
    if get_method(case.name).capabilities.schedule == "sequential" and case.continues and not case.apart:
        assert (seen["fresh"][1] - seen["after"][0]).abs().max() <= BOUNDARY * seen["after"][0].abs().max()


def test_final_is_one_adapter_for_plain_peft_on_the_quantised_base(observed, wide_llava, inputs):
    import torch
    from peft import PeftModel
    from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

    from cl_plugins.host.quantised import is_quantised

    case, out, seen = observed
    if case.nf4_routed:
        pytest.skip("a model that chooses is no adapter")
    manifest = json.loads((out / "final" / "MANIFEST.json").read_text())
    config = json.loads((out / "final" / "adapter_config.json").read_text())
    assert manifest["kind"] == "peft"
    assert config["r"] == case.nf4
    assert config["modules_to_save"] == ["multi_modal_projector"]
    quantisation = BitsAndBytesConfig.from_dict(manifest["quantization"])
    assert quantisation.load_in_4bit
    base = LlavaForConditionalGeneration.from_pretrained(
        wide_llava, quantization_config=quantisation, dtype=torch.float32, device_map={"": "cpu"}
    )
    quantised = {n for n, p in base.named_parameters() if is_quantised(p)}
    assert quantised
    assert not any("projector" in name or "lm_head" in name for name in quantised)
    model = PeftModel.from_pretrained(base, out / "final").eval()
    ids, pixels = torch.load(inputs, weights_only=True)
    last = seen["after"][-1]

    def error():
        with torch.no_grad():
            got = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits
        return (got - last).abs().max() / last.abs().max()

    switches = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    usual = [module.support_avx512bf16_for_cpu for module in switches]
    for module in switches:
        module.support_avx512bf16_for_cpu = False
    assert error() <= BOUNDARY
    for module, value in zip(switches, usual, strict=True):
        module.support_avx512bf16_for_cpu = value
    assert error() <= PACKED


def test_final_of_a_model_that_chooses_opens_on_the_quantised_base(observed, inputs):
    import torch

    import cl_plugins
    from cl_plugins.host.quantised import is_quantised

    case, out, seen = observed
    if not case.nf4_routed:
        pytest.skip("is an adapter")
    assert json.loads((out / "final" / "MANIFEST.json").read_text())["kind"] == "routed"
    model = cl_plugins.load(out)
    assert any(is_quantised(p) for p in model.parameters())
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    ids, pixels = torch.load(inputs, weights_only=True)
    with torch.no_grad():
        got = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits
    last = seen["after"][-1]
    assert (got - last).abs().max() <= BOUNDARY * last.abs().max()


def test_an_evaluation_does_not_change_what_is_learned(wide_llava, data, carry_out, tmp_path):
    """bitsandbytes repacks weights at their first evaluation, and no gradient passes them any more."""
    jobs = []
    for name, first in (("with", True), ("without", False)):
        block = {"eval": {"max_new_tokens": 3, "zero_shot": first}}
        recipe = tiny.recipe(wide_llava, data, tmp_path / name, "inclora", ("one",), quantization_bit=4, cl=block)
        jobs.append({"keys": recipe, "observe": str(tmp_path / f"{name}-seen"), "processes": 1})
    carry_out(jobs, watched=False)
    a, b = ((tmp_path / name / "tasks" / "01_one" / "update.safetensors").read_bytes() for name in ("with", "without"))
    assert a == b


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ({"name": "inclora", "consolidate": "merge"}, {}, "cannot merge into a quantised base"),
        ("inclora", {"quantization_bit": 8}, "bnb-8bit"),
        ("inclora", {"quantization_method": "hqq"}, "hqq"),
    ],
)
def test_what_is_not_tested_is_refused(run, wide_llava, data, tmp_path, method, more, message):
    from cl_plugins.base.errors import ClPluginsError

    with pytest.raises(ClPluginsError, match=message):
        run({**keys(wide_llava, data, tmp_path / "run", method), **more})
