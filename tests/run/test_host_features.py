"""Features of the host that change what is trained or how: each is refused (tests/host) or runs here, chain and all."""

from __future__ import annotations

import json

import pytest
import tiny
from method_cases import slow_unless
from regularised import text_tasks
from running import NO_TESTS, go
from watched import watch


TASKS = ("one", "two")
MERGE, STACK = ({"name": "inclora", "consolidate": how} for how in ("merge", "stack"))
OLORA, LWF = {"name": "olora"}, {"name": "lwf", "alpha": 5.0}
RSLORA = {"use_rslora": True, "lora_alpha": 3}
FEATURES = {
    "lora+": {"loraplus_lr_ratio": 4.0},
    "neftune": {"neftune_noise_alpha": 5.0},
    "muon": {"use_muon": True, "learning_rate": 1e-3},
    "output layer": {"lora_target": "q_proj,v_proj,lm_head"},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "dft loss": {"use_dft_loss": True},
    "eaft loss": {"use_eaft_loss": True},
    "packing": {"packing": True, "cutoff_len": 96},
    "neat packing": {"neat_packing": True, "cutoff_len": 96},
}
CASES = {
    **{f"rslora {m['name']} {m.get('consolidate', '')}": (m, RSLORA) for m in (MERGE, STACK, OLORA, LWF)},
    **{f"{name} {m['name']}": (m, keys) for name, keys in FEATURES.items() for m in (MERGE, OLORA, LWF)},
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text_tasks(tmp_path_factory.mktemp("features") / "data", TASKS)


@pytest.fixture(scope="module")
def make(llama, texts):
    def recipe(out, method, **keys):
        return tiny.recipe(llama, texts, out, method, TASKS, text_only=True, cl=dict(NO_TESTS), **keys)

    return recipe


@pytest.fixture(scope="module")
def plain(make, tmp_path_factory):
    """The updates of a run without the feature; each is made once."""
    made = {}

    def get(method):
        key = json.dumps(method)
        if key not in made:
            out = tmp_path_factory.mktemp("plain") / "run"
            go(make(out, method))
            made[key] = updates(out)
        return made[key]

    return get


def updates(out):
    return [(out / "tasks" / f"0{i}_{task}" / "update.safetensors").read_bytes() for i, task in enumerate(TASKS, 1)]


#: Every feature with one method, and a few with another; the others are in `make test-slow`.
FAST = {case for case, (method, _) in CASES.items() if method is MERGE} | {
    "rslora inclora stack",
    "rslora lwf ",
    "packing olora",
}


@pytest.mark.parametrize("case", slow_unless(CASES, FAST))
def test_a_chain_with_it_hands_on_what_was_trained(case, make, plain, tmp_path):
    method, keys = CASES[case]
    out = tmp_path / "run"
    seen = watch(make(out, method, **keys))
    for before, after, fresh in zip(seen["before"], seen["after"], seen["fresh"], strict=True):
        scale = before.abs().max()
        assert (before - after).abs().max() <= 1e-5 * scale
        assert (fresh - before).abs().max() > 1e-4 * scale
    assert (seen["fresh"][1] - seen["after"][0]).abs().max() == 0
    assert all(seen["frozen"])
    assert all(a != b for a, b in zip(updates(out), plain(method), strict=True))  # the feature does something
    history = json.loads((out / "tasks" / "02_two" / "trainer_state.json").read_text())["log_history"]
    assert any(k.startswith("penalty/") for entry in history for k in entry) == (method["name"] != "inclora")


@pytest.mark.parametrize("rslora", [False, True])
def test_the_scaling_that_is_carried_is_the_one_that_peft_computes_with(rslora, make, tmp_path, monkeypatch):
    from cl_plugins.methods.inclora import IncLoRA

    found, describe = [], IncLoRA.describe

    def note(self, context, model):
        found.append({m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")})
        return describe(self, context, model)

    monkeypatch.setattr(IncLoRA, "describe", note)
    go(make(tmp_path / "run", MERGE, use_rslora=rslora, lora_alpha=3, max_steps=1))
    metas = [json.loads(p.read_text())["meta"] for p in sorted((tmp_path / "run" / "tasks").glob("*/update.json"))]
    assert [{meta["scaling"]} for meta in metas] == found
    assert found == [{3 / 2 if rslora else 3 / 4}] * 2  # alpha / sqrt(4), alpha / 4


@pytest.mark.parametrize("feature", ["lora+", "neftune", "muon"])
def test_going_on_from_a_checkpoint_is_exact(feature, make, tmp_path):
    """State of its own in the optimizer, a hook on the embedding: both must be there again."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if "02_two" in args.output_dir and state.global_step == 3:
                raise KeyboardInterrupt

    keys = {**FEATURES[feature], "save_strategy": "steps", "save_steps": 2}
    go(make(tmp_path / "whole", OLORA, **keys))
    with pytest.raises(KeyboardInterrupt):
        go(make(tmp_path / "stopped", OLORA, **keys), [Stop()])
    assert (tmp_path / "stopped" / "tasks" / "02_two" / "checkpoint-2").is_dir()
    go(make(tmp_path / "stopped", OLORA, **keys))
    assert updates(tmp_path / "stopped") == updates(tmp_path / "whole")


@pytest.mark.parametrize(
    ("method", "fast"),
    [
        ({"name": "moelora", "experts": 2}, {"cl_b"}),
        ({"name": "mslora_cr", "learnable": True}, {"lora_B"}),
        ({"name": "hide", "selector": {"kind": "keys", "features": ["text"]}}, {"lora_B"}),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else "",
)
def test_lora_plus_is_for_b_alone_whatever_it_is_called(method, fast, make, tmp_path):
    from transformers import TrainerCallback

    rates = {}

    class Rate(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            names = {
                id(p): name.removesuffix(".weight").removesuffix(".default") for name, p in model.named_parameters()
            }
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    last = names[id(parameter)].rpartition(".")[2]
                    rates.setdefault(last, set()).add(group["initial_lr"] / args.learning_rate)

    go(make(tmp_path / "run", method, loraplus_lr_ratio=4.0, max_steps=1, learning_rate=0.125), [Rate()])
    keys = {"cl_key_text": 100.0} if "selector" in method else {}
    assert rates == {name: {4.0 if name in fast else keys.get(name, 1.0)} for name in rates}
    assert fast <= set(rates)
