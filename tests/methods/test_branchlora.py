"""BranchLoRA in runs: what is frozen stays, old routers stay, keys find the task, rows keep what they were given."""

from __future__ import annotations

import json

import apart
import pytest
import tiny
import torch
from peft import LoraConfig
from row_prompts import answers, batch, pixels, prompts
from running import NO_TESTS, difference, go, journal, recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from cl_plugins.adapters.rows import state_of
from cl_plugins.base.errors import RecipeError, RunStateError
from cl_plugins.callbacks.learner import PlainBase
from cl_plugins.contract.task import TaskContext
from cl_plugins.methods.branchlora.branches import Past, put_on
from cl_plugins.methods.branchlora.config import BranchLoRAConfig
from cl_plugins.methods.registry import make_method
from cl_plugins.streams import Task


LINEAR = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
METHOD = {"name": "branchlora", "branches": 4, "selector": {"kind": "keys", "features": ["text"]}}


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory):
    return apart.build(tmp_path_factory.mktemp("data") / "apart")


@pytest.fixture(scope="module")
def run(llava, told_apart, tmp_path_factory):
    """Directory of a finished run of three tasks."""
    out = tmp_path_factory.mktemp("branchlora") / "run"
    go(tiny.recipe(llava, told_apart, out, METHOD, apart.TASKS, max_steps=40, learning_rate=1e-3, lora_rank=8))
    return out


def adapter(out, number):
    """What the carry held after a task, rebuilt from what the tasks have left."""
    return load_file(out / "tasks" / f"{number:02d}_{apart.TASKS[number - 1]}" / "update.safetensors")


def test_frozen_branches_keep_their_bits_and_the_trunk_does_not(run):
    """The second task trains fewer branches; those of the first that it does not are in the carry as they were."""
    first, second, carried = adapter(run, 1), adapter(run, 2), load_file(run / "carry" / "adapter.safetensors")
    usage = load_file(run / "tasks" / "01_one" / "usage.safetensors")
    for layer, used in usage.items():
        assert float(used.sum()) == pytest.approx(1)
        frozen = sorted(range(4), key=lambda j, used=used: (-float(used[j]), j))[:2]
        assert second[f"{layer}.cl_b"].shape[1] == 4 if f"{layer}.cl_b" in second else True
        for j in frozen:
            ours, theirs = (t[f"{layer}.cl_b"][:, 2 * j : 2 * j + 2] for t in (first, carried))
            assert torch.equal(ours, theirs)
        assert not torch.equal(first[f"{layer}.cl_a"], second[f"{layer}.cl_a"])
    assert all(int(held.sum()) >= 2 for held in load_file(run / "carry" / "frozen.safetensors").values())


def test_old_routers_keep_their_bits(run):
    for number, task in enumerate(apart.TASKS, start=1):
        kept = load_file(run / "carry" / "routers" / f"{number:02d}_{task}.safetensors")
        learned = {n: t for n, t in adapter(run, number).items() if n.endswith(".cl_router")}
        assert kept.keys() == learned.keys()
        assert all(torch.equal(kept[n], learned[n]) for n in kept)


def test_keys_end_at_the_mean_of_the_unit_features(run, llava, told_apart, tmp_path):
    """The term's minimum is known: what `learn: mean` takes."""
    method = {**METHOD, "selector": {**METHOD["selector"], "learn": "mean"}, "freeze": 0}
    block = {**NO_TESTS, "only": "one"}
    go(tiny.recipe(llava, told_apart, tmp_path / "run", method, apart.TASKS, max_steps=1, lora_rank=8, cl=block))
    learned, mean = (load_file(out / "carry" / "selector.safetensors") for out in (run, tmp_path / "run"))
    assert torch.cosine_similarity(learned["keys"][0], mean["keys"][0], dim=0) > 0.99
    assert (len(learned["keys"]), len(mean["keys"])) == (3, 1)


def test_the_task_is_found_and_written_down(run):
    for task in apart.TASKS:
        lines = (run / "predictions" / "after_three" / f"{task}.jsonl").read_text().splitlines()
        assert {json.loads(line)["route"] for line in lines} == {task}
    numbers = [e["details"]["numbers"] for e in journal(run) if e["step"].startswith("train")]
    assert [n["selected_training_samples"] for n in numbers] == [100.0] * 3
    frozen = [n["frozen_branches_per_layer"] for n in numbers]
    assert frozen[0] == 2
    assert frozen == sorted(frozen)
    history = json.loads((run / "tasks" / "01_one" / "trainer_state.json").read_text())["log_history"]
    values = [entry["penalty/keys"] for entry in history if "penalty/keys" in entry]
    assert values[0] > 0.5 > 0.1 > values[-1]  # the key is random at first


def test_a_task_begins_as_the_base(llava):
    """B = 0: the output of the first step is that of the base, bit for bit."""
    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    rows = prompts(4, lambda i: i % 2)
    inputs = batch(rows, pixels(rows))
    with torch.no_grad():
        plain = model(**inputs).logits
        base = PlainBase(model, LoraConfig(r=8, lora_alpha=16, target_modules=LINEAR))
        context = TaskContext(Task("one"), 1, 7, base, None)
        make_method("branchlora", {"branches": 4}).begin_task(context, model)
        assert torch.equal(model.eval()(**inputs).logits, plain)
    base.reset()


def branched(model, gate_input, tasks=3, branches=4, rank=2):
    """A base with strong branches and the routers of three tasks, one of which is chosen from a row's text."""
    generator = torch.Generator().manual_seed(0)
    language = ".language_model" if "llava" in type(model).__name__.lower() else ""
    targets = LINEAR if language else "all-linear"
    base = PlainBase(model, LoraConfig(r=branches * rank, lora_alpha=branches * rank, target_modules=targets))
    tensors, frozen, routers = {}, {}, [{} for _ in range(tasks)]
    for name in base.targets():
        module = model.get_submodule(name)
        tensors[f"{name}.cl_a"] = torch.randn(rank, module.in_features, generator=generator)
        tensors[f"{name}.cl_b"] = torch.randn(module.out_features, branches * rank, generator=generator)
        frozen[name] = torch.zeros(branches, dtype=torch.bool)
        for router in routers:
            router[f"{name}.cl_router"] = torch.randn(branches, module.in_features, generator=generator)

    def begin(state, rows):
        chosen = ((rows.text.double() * 30).sum(1).abs().long() % tasks).cpu()
        rows.kept.update(expert=chosen, route=[f"task {int(i)}" for i in chosen])

    config = BranchLoRAConfig(branches=branches, gate_input=gate_input)
    put_on(base, config, Past(tensors, frozen, routers), begin, seed=None, trained=False)
    model.eval()
    return base, state_of(model)


@pytest.fixture(scope="module")
def models(llama, llava):
    return AutoModelForCausalLM.from_pretrained(llama), LlavaForConditionalGeneration.from_pretrained(llava)


@pytest.fixture(params=["first", "mean_prompt", "token"])
def text(models, request):
    base, state = branched(models[0], request.param)
    yield models[0], state
    base.reset()


@pytest.fixture(params=["first", "mean_prompt", "token"])
def seeing(models, request):
    base, state = branched(models[1], request.param)
    yield models[1], state
    base.reset()


def test_one_row_alone_or_many_with_padding_of_several_tasks(text):
    model, state = text
    rows = prompts(12)
    together, routes = answers(model, state, rows)
    assert len(set(routes)) > 1
    for row, answer, route in zip(rows, together, routes, strict=True):
        assert answers(model, state, [row]) == ([answer], [route])


def test_with_and_without_a_cache(text):
    model, state = text
    rows = prompts(8)
    assert answers(model, state, rows) == answers(model, state, rows, use_cache=False)


def test_texts_among_pictures(seeing):
    model, state = seeing
    rows = prompts(9, lambda i: i % 3)
    seen = pixels(rows)
    together, routes = answers(model, state, rows, seen)
    assert len(set(routes)) > 1
    for row, one, answer, route in zip(rows, seen, together, routes, strict=True):
        assert answers(model, state, [row], [one]) == ([answer], [route])


def test_the_routers_matter(models):
    """The same branches under another task's routers answer otherwise, or nothing above would prove anything."""
    found = []
    for task in range(2):
        base, state = branched(models[0], "token")
        state._begin = lambda rows, task=task: rows.kept.update(
            expert=torch.full((rows.count,), task), route=[""] * rows.count
        )
        found.append(answers(models[0], state, prompts(12))[0])
        base.reset()
    assert found[0] != found[1]


SHARED = {"routers": "shared", "freeze": 0}
ABLATION = {
    "moelora": {**SHARED, "shared_trunk": False, "top_k": 8, "gate_input": "token"},
    "shared trunk": {**SHARED, "top_k": 8, "gate_input": "token"},
    "sparse": SHARED,
    "freezing": {"routers": "shared"},
    "routers of tasks": {},
}


@pytest.mark.parametrize("row", list(ABLATION))
def test_trained_parameters_of_the_five_rows_on_llava_7b(row):
    """Published: 350 M for MoELoRA and 222 M for BranchLoRA, of LLaVA-1.5-7B at rank 128 with 8 experts."""
    from llava_7b import without_weights

    options = dict(ABLATION[row])
    if not options:
        options["selector"] = {"kind": "keys"}
    model = without_weights()
    lora = LoraConfig(r=128, lora_alpha=256, target_modules=LINEAR, modules_to_save=["multi_modal_projector"])
    context = TaskContext(Task("one"), 1, 7, PlainBase(model, lora), None)
    trained = make_method("branchlora", options).begin_task(context, model)
    count = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    keys = 1024 + 4096 if row == "routers of tasks" else 0
    assert count == keys + (349_904_896 if row == "moelora" else 222_371_840)
    assert count == pytest.approx(350e6 if row == "moelora" else 222e6, rel=5e-3)


@pytest.mark.parametrize("peer", [False, True])
def test_the_first_row_of_the_ablation_is_moelora(llama, text_data, tmp_path, peer):
    keys = {"cl": NO_TESTS, "lora_dropout": 0.1, "optim": "sgd", "learning_rate": 10.0, "max_steps": 3}
    ours = {"name": "branchlora", **ABLATION["moelora"], "branches": 2, "top_k": 2}
    theirs = {"name": "moelora", "experts": 2}
    if peer:
        ours["init"], theirs["faithful"] = "normal", "peer"
    for out, method in (("ours", ours), ("theirs", theirs)):
        go(recipe(llama, text_data, tmp_path / out, method, ("one",), **keys))
    a, b = (load_file(tmp_path / out / "tasks" / "01_one" / "update.safetensors") for out in ("ours", "theirs"))
    assert difference(a, b) <= 1e-6 if not peer else a.keys() == b.keys()


def test_one_branch_is_plain_lora(llama, text_data, tmp_path):
    keys = {"cl": NO_TESTS, "lora_dropout": 0.1, "optim": "sgd", "learning_rate": 10.0, "max_steps": 3}
    one = {"name": "branchlora", "branches": 1, "top_k": 1, "routers": "shared"}
    for out, method in (("ours", one), ("theirs", "seqlora")):
        go(recipe(llama, text_data, tmp_path / out, method, ("one",), **keys))
    a, b = (load_file(tmp_path / out / "tasks" / "01_one" / "update.safetensors") for out in ("ours", "theirs"))
    ours = {
        f"base_model.model.{n}".replace(".cl_a", ".lora_A.weight").replace(".cl_b", ".lora_B.weight"): t
        for n, t in a.items()
    }
    assert difference(b, ours) <= 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": 3}, r"lora_rank.*is 4, which is not a multiple of 3 branches"),
        ({"branches": 2, "top_k": 3}, r"top_k.*is 3, but there are 2 branches"),
        ({"top_k": 1}, r"top_k.*no gradient reaches the routers"),
        ({"routers": "shared", "selector": {"kind": "keys"}}, r"selector.*all tasks share one"),
        ({"branches": 1, "top_k": 1, "freeze": 1}, r"freeze.*would freeze the only branch"),
        ({"selector": {"kind": "keys", "combine": "product"}}, r"selector\.combine"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_loads(llama, text_data, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        tiny.checked(recipe(llama, text_data, tmp_path / "run", {"name": "branchlora", "branches": 4, **options}))


def test_a_layer_outside_of_the_language_model_is_refused(llava):
    from cl_plugins.base.errors import CompatibilityError

    model = LlavaForConditionalGeneration.from_pretrained(llava)
    base = PlainBase(model, LoraConfig(r=4, target_modules=["linear_1", "down_proj"]))
    context = TaskContext(Task("one"), 1, 7, base, None)
    with pytest.raises(CompatibilityError, match=r"lora_target.*no layer of the language model"):
        make_method("branchlora", {"branches": 4}).begin_task(context, model)


def test_a_carry_of_other_options_is_refused(llama, text_data, tmp_path):
    def keys(out, task, branches, **block):
        method = {"name": "branchlora", "branches": branches, "selector": {"kind": "oracle"}}
        return recipe(llama, text_data, out, method, cl={"only": task, **NO_TESTS, **block})

    go(keys(tmp_path / "one", "one", 2))
    with pytest.raises(RunStateError, match="branches 2; this recipe's is 4"):
        go(keys(tmp_path / "two", "two", 4, carry_from=str(tmp_path / "one")))


def test_with_a_constant_gate_the_chosen_branches_stay_alike(llama, text_data, tmp_path):
    """They share A, begin at 0 and have proportional gradients, and Adam divides by their size: the card says so."""
    method = {"name": "branchlora", "branches": 2, "gate_input": "first", "selector": {"kind": "oracle"}}
    out = tmp_path / "run"
    go(recipe(llama, text_data, out, method, ("one",), cl=NO_TESTS, max_steps=8, learning_rate=1e-2))
    update = load_file(out / "tasks" / "01_one" / "update.safetensors")
    pairs = [t.split(t.shape[1] // 2, dim=1) for n, t in update.items() if n.endswith(".cl_b")]
    alike = [float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)) for a, b in pairs]
    assert min(alike) > 0.99
