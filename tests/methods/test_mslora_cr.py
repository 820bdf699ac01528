"""MSLoRA-CR: its two terms, which LoRAs answer, and what it must be equal to."""

from __future__ import annotations

import json
import math

import pytest
import tiny
import torch
from running import NO_TESTS, go, predictions
from safetensors.torch import load_file
from torch.autograd import gradcheck

from cl_plugins.base.errors import RecipeError, RunStateError
from cl_plugins.contract.capabilities import RunFacts
from cl_plugins.contract.carry import Carry
from cl_plugins.contract.task import TaskContext
from cl_plugins.methods import get_method
from cl_plugins.methods.mslora_cr import contrastive_regularization, orthonormality
from cl_plugins.streams import Task, load_stream


TASKS = ("one", "two", "three")
SHAPES = {"q.A": (3, 7), "q.B": (5, 3), "k.A": (3, 7), "k.B": (4, 3), "down.A": (3, 9), "down.B": (7, 3)}


def tensors(seed, dtype=torch.float64, scale=0.2):
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for n, s in SHAPES.items()}


def contrast_reference(current, previous, same):
    total = 0.0
    for past, alike in zip(previous, same, strict=True):
        terms = [math.exp(-math.sqrt(float(((current[n] - past[n]) ** 2).sum()))) for n in current]
        similarity = sum(terms) / len(terms)
        total += 1 - similarity if alike else similarity
    return total


def ortho_reference(a, b):
    total = 0.0
    for x, y in zip(a, b, strict=True):
        left, right = x @ x.T - torch.eye(len(x)), y.T @ y - torch.eye(y.shape[1])
        total += float((left**2).sum() + (right**2).sum())
    return total / len(a)


# --- the two functions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [[], [True], [False], [True, False, True], [False, False, False]])
def test_contrast_equals_a_plain_reference(same):
    current, previous = tensors(0), [tensors(i + 1) for i in range(len(same))]
    value = contrastive_regularization(current, previous, same)
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(contrast_reference(current, previous, same), abs=1e-10)


def test_orthonormality_equals_a_plain_reference():
    values = tensors(3)
    a, b = ([values[n] for n in values if n.endswith(part)] for part in "AB")
    assert float(orthonormality(a, b)) == pytest.approx(ortho_reference(a, b), abs=1e-10)
    assert float(orthonormality([torch.eye(3, 7)], [torch.eye(5, 3)])) == 0.0


def test_gradients_away_from_the_kinks():
    names, previous = list(SHAPES), [tensors(1), tensors(2)]
    leaves = [t.requires_grad_() for t in tensors(0).values()]

    def contrast(*values):
        return contrastive_regularization(dict(zip(names, values, strict=True)), previous, [True, False])

    assert gradcheck(contrast, leaves)
    assert gradcheck(lambda *v: orthonormality(list(v[::2]), list(v[1::2])), leaves)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_at_the_kinks_are_finite(dtype):
    """A LoRA equal to a past one, in all tensors or in some; and B = 0 on both sides."""
    past = tensors(1, dtype)
    past["q.B"].zero_()
    current = {n: t.clone().requires_grad_() for n, t in past.items()}
    value = contrastive_regularization(current, [past, past], [True, False])
    value = value + orthonormality([current["q.A"]], [current["q.B"]])
    value.backward()
    assert torch.isfinite(value)
    for tensor in current.values():
        assert torch.isfinite(tensor.grad).all()
    assert not current["k.B"].grad.any()


def test_the_past_is_detached_and_unchanged():
    previous = [{n: t.requires_grad_() for n, t in tensors(1).items()}]
    before = {n: t.detach().clone() for n, t in previous[0].items()}
    current = {n: t.requires_grad_() for n, t in tensors(0).items()}
    contrastive_regularization(current, previous, [False]).backward()
    assert all(t.grad is None for t in previous[0].values())
    assert all(torch.equal(before[n], previous[0][n]) for n in before)
    assert all(t.grad.any() for t in current.values())


def test_pulls_alike_and_pushes_apart():
    past = tensors(1)
    for alike, sign in ((True, 1), (False, -1)):
        current = {n: (t + 0.01).requires_grad_() for n, t in past.items()}
        contrastive_regularization(current, [past], [alike]).backward()
        assert sign * float(current["q.A"].grad.sum()) > 0  # a step down goes towards the past, or away from it


def test_sixteen_bit_tensors_are_computed_in_fp32():
    current, past = tensors(0, torch.bfloat16), tensors(1, torch.bfloat16)
    value = contrastive_regularization(current, [past], [True])
    assert value.dtype == torch.float32
    expected = contrast_reference(
        {n: t.double() for n, t in current.items()}, [{n: t.double() for n, t in past.items()}], [True]
    )
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_what_the_functions_refuse():
    current = tensors(0)
    fewer = {n: t for n, t in current.items() if n != "q.A"}
    for previous, same in (([fewer], [True]), ([current], []), ([{**current, "x": current["q.A"]}], [True])):
        with pytest.raises(ValueError):
            contrastive_regularization(current, previous, same)
    with pytest.raises(ValueError):
        contrastive_regularization({}, [], [])
    for a, b in (([], []), ([current["q.A"]], [])):
        with pytest.raises(ValueError):
            orthonormality(a, b)


def test_sizes_at_the_start_of_a_task():
    """LLaVA-Med's widths at rank 64: R_o is about 92.4 per module, and S of fresh A's about exp(-6.5)."""
    torch.manual_seed(0)
    a = [torch.nn.init.kaiming_uniform_(torch.empty(64, 4096), a=math.sqrt(5)) for _ in range(8)]
    b = [torch.zeros(1024, 64) for _ in range(8)]
    assert float(orthonormality(a, b)) == pytest.approx(92.4, abs=0.3)
    one, other = ({str(i): a[i + k] for i in range(4)} for k in (0, 4))
    assert math.log(float(contrastive_regularization(one, [other], [False]))) == pytest.approx(-6.5, abs=0.05)


# --- modality labels --------------------------------------------------------------------------------------------------


def test_same_modality_tables_of_the_eight_tasks(monkeypatch):
    """What the authors pass by hand (`--is_same_modality`) comes out of the stream."""
    from cl_plugins.contract.carry import TaskUpdate
    from cl_plugins.methods.mslora_cr.regulariser import Regulariser

    stream = load_stream("mslora_cr_8")
    tables = [[], [0], [0, 0], [1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0, 0]]
    past = []
    for number, (task, table) in enumerate(zip(stream.tasks, tables, strict=True), start=1):
        context = TaskContext(task, number, 0, None, None)
        assert Regulariser(0.1, 0.01)._same_modality(context, past) == [bool(x) for x in table], task.name
        past.append(TaskUpdate(None, {"modality": task.modality}, task.name))


def unlabelled(stream):
    return {**stream, "tasks": [{k: v for k, v in task.items() if k != "modality"} for task in stream["tasks"]]}


@pytest.mark.parametrize(
    ("method", "refused"),
    [
        ({"name": "mslora_cr"}, True),
        ({"name": "mslora_cr", "inference": "all"}, True),
        ({"name": "mslora_cr", "alpha": 0}, False),
        ({"name": "mslora_cr", "alpha": 0, "beta": 0.01}, False),
        ({"name": "inclora"}, False),
    ],
)
def test_missing_labels_are_said_before_anything_loads(llama, text_data, tmp_path, method, refused):
    keys = tiny.recipe(llama, text_data, tmp_path / "run", method, text_only=True)
    keys["cl"]["stream"] = unlabelled(keys["cl"]["stream"])
    if not refused:
        tiny.checked(keys)
        return
    with pytest.raises(RecipeError) as caught:
        tiny.checked(keys)
    assert [p.where for p in caught.value.problems] == [f"cl.stream.tasks[{i}].modality" for i in range(3)]


def test_a_carry_without_labels(llama, text_data, tmp_path):
    """A site that trained without labels hands over to one that wants to compare."""
    from running import recipe

    unlabelled_start = {"name": "mslora_cr", "alpha": 0, "beta": 0}
    first = recipe(llama, text_data, tmp_path / "first", unlabelled_start, ("one",), cl=NO_TESTS)
    first["cl"]["stream"] = unlabelled(first["cl"]["stream"])
    go(first)
    block = {**NO_TESTS, "only": "two", "carry_from": str(tmp_path / "first")}
    with pytest.raises(RunStateError, match="no modality label of the task one"):
        go(recipe(llama, text_data, tmp_path / "second", "mslora_cr", cl=block))


@pytest.mark.parametrize("chosen", ["first", "on", "All"])
def test_an_unknown_way_to_answer(llama, text_data, tmp_path, chosen):
    keys = tiny.recipe(llama, text_data, tmp_path, {"name": "mslora_cr", "inference": chosen}, text_only=True)
    with pytest.raises(RecipeError, match=r"cl\.method\.inference"):
        tiny.checked({**keys, "output_dir": str(tmp_path / "run")})


# --- which LoRAs answer -----------------------------------------------------------------------------------------------


def carry(tmp_path, *names):
    records = [{"file": f"{n}.safetensors", "task": n, "meta": {}} for n in names]
    return Carry(tmp_path, names, "mslora_cr", {"updates": records}, {}, {})


@pytest.mark.parametrize(
    ("inference", "routes"),
    [
        ("first_k", {"one": 1, "two": 2, "three": None, "later": None}),
        ("all", {"one": None, "two": None, "three": None, "later": None}),
        ("two", {"one": 2, "two": 2, "three": 2, "later": 2}),
        ("three", {"one": None, "three": None}),
        ("later", {"one": None, "later": None}),
    ],
)
def test_routes(tmp_path, inference, routes):
    method = get_method("mslora_cr")
    made = method(method.config_class(inference=inference))
    assert {task: made.route(carry(tmp_path, *TASKS), task) for task in routes} == routes
    assert made.route(None, "one") is None


@pytest.fixture(scope="module")
def first_k(llava, data, tmp_path_factory):
    """A run of three tasks that is told the task at test, with every task tested after every task."""
    out = tmp_path_factory.mktemp("first_k") / "run"
    block = {"eval": {"max_new_tokens": 3, "scope": "all"}}
    go(tiny.recipe(llava, data, out, "mslora_cr", cl=block))
    return out


def test_nothing_is_forgotten_by_construction(first_k):
    answers = predictions(first_k)
    for task in TASKS:
        own = answers[f"after_{task}/{task}.jsonl"]
        for later in TASKS[TASKS.index(task) :]:
            assert answers[f"after_{later}/{task}.jsonl"] == own
    metrics = json.loads((first_k / "metrics.json").read_text())["metrics"]
    assert metrics["bwt"]["value"] == 0.0
    assert metrics["forgetting"]["value"] == 0.0


def test_a_task_not_yet_learned_is_answered_by_all_loras(first_k, llava, data, tmp_path):
    """The row after `one`: `two` and `three` are answered by the same model as `one`."""
    from cl_plugins.host.llama_factory import LlamaFactoryHost
    from cl_plugins.run.reopen import carry_after, read_recipe, reopen

    keys, config = read_recipe(first_k)
    state = reopen(LlamaFactoryHost(), first_k, tmp_path / "out", keys, config)
    carry = carry_after(state, first_k, "two", tmp_path / "scratch")
    assert [state.method.route(carry, t) for t in TASKS] == [1, None, None]
    models = [
        state.answering(carry, t).get_parameter("model.language_model.layers.0.mlp.up_proj.weight").clone()
        for t in TASKS
    ]
    assert not torch.equal(models[0], models[1])
    assert torch.equal(models[1], models[2])


def test_the_report_says_that_the_task_was_given(first_k):
    from cl_plugins.report import write_report

    record = json.loads((first_k / "run.json").read_text())
    assert record["method_options"]["inference"] == "first_k"  # also where the recipe leaves it at the default
    assert record["method_options"]["alpha"] == 0.1
    write_report(first_k)
    for name in ("report.md", "report.html"):
        page = (first_k / name).read_text().replace("\\_", "_")
        assert "Task identity was given at test" in page
        assert "first_k" in page


@pytest.mark.parametrize(("inference", "said"), [("all", "no task was given at test"), ("one", "up to it")])
def test_what_the_other_ways_to_answer_say(inference, said):
    method = get_method("mslora_cr")
    (note,) = method(method.config_class(inference=inference)).notes()
    assert said in note
    assert f"inference: {inference}" in note


# --- what it must be equal to -----------------------------------------------------------------------------------------


def updates(out):
    return {p.parent.name: p.read_bytes() for p in sorted(out.glob("tasks/*/update.safetensors"))}


UNCONSTRAINED = {"name": "mslora_cr", "alpha": 0, "beta": 0, "inference": "all"}


@pytest.fixture(scope="module")
def train(llava, data, tmp_path_factory):
    """Runs by name and options, each made once."""
    made, folder = {}, tmp_path_factory.mktemp("runs")

    def one(name, method, tasks=("one", "two"), **keys):
        if name not in made:
            made[name] = folder / name
            go(tiny.recipe(llava, data, made[name], method, tasks, **keys))
        return made[name]

    return one


@pytest.mark.parametrize("consolidate", ["merge", "stack"])
def test_without_weights_it_is_inclora_bit_for_bit(train, consolidate):
    plain = train(f"inclora-{consolidate}", {"name": "inclora", "consolidate": consolidate})
    ours = train(f"none-{consolidate}", {**UNCONSTRAINED, "consolidate": consolidate})
    assert updates(plain) == updates(ours)
    assert predictions(plain) == predictions(ours)
    for file in ("model.safetensors", "config.json"):
        assert (plain / "final" / file).read_bytes() == (ours / "final" / file).read_bytes()


def test_the_regulariser_does_something(train):
    ours = train("cr", {"name": "mslora_cr", "inference": "all"})
    assert updates(ours) != updates(train("inclora-merge", {"name": "inclora", "consolidate": "merge"}))


@pytest.mark.parametrize("key", ["alpha", "beta"])
def test_inclora_names_the_method_that_has_the_terms(llama, text_data, tmp_path, key):
    with pytest.raises(RecipeError, match="mslora_cr") as caught:
        tiny.checked(tiny.recipe(llama, text_data, tmp_path, {"name": "inclora", key: 0.1}, text_only=True))
    assert [p.where for p in caught.value.problems] == [f"cl.method.{key}"]


def test_one_task_is_plain_lora(train, run, llava, data, tmp_path):
    keys = tiny.recipe(llava, data, tmp_path / "plain")
    keys.pop("cl")
    run({**keys, "dataset": "one_train"})
    expected = (tmp_path / "plain" / "adapter_model.safetensors").read_bytes()
    for method in ({"name": "mslora_cr"}, {"name": "mslora_cr", "learnable": True}):
        out = train(f"single-{len(method)}", method, ("one",))
        assert updates(out) == {"01_one": expected}


def gap(one, other, task="02_two"):
    a, b = (load_file(out / "tasks" / task / "update.safetensors") for out in (one, other))
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max().clamp_min(1e-12)) for n in a)


def test_stack_and_merge_agree(train):
    keys = {"optim": "sgd", "learning_rate": 0.1}  # Adam blows rounding up where a gradient is almost nothing
    merged = train("m", {"name": "mslora_cr", "consolidate": "merge"}, **keys)
    stacked = train("s", {"name": "mslora_cr", "consolidate": "stack"}, **keys)
    assert gap(stacked, merged) < 1e-4


@pytest.mark.parametrize("method", ["mslora_cr", "olora"])
@pytest.mark.parametrize("consolidate", ["merge", "stack"])
def test_gradient_checkpointing_changes_no_gradient(train, method, consolidate):
    """One step of plain SGD is the gradient."""
    options = {"name": method, "consolidate": consolidate}
    keys = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1}
    on = train(f"on-{method}-{consolidate}", options, disable_gradient_checkpointing=False, **keys)
    off = train(f"off-{method}-{consolidate}", options, disable_gradient_checkpointing=True, **keys)
    for task in ("01_one", "02_two"):
        assert gap(on, off, task) < 1e-6


# --- the terms in training --------------------------------------------------------------------------------------------


def logged(out, name, task="02_two"):
    history = json.loads((out / "tasks" / task / "trainer_state.json").read_text())["log_history"]
    return [entry[f"penalty/{name}"] for entry in history if f"penalty/{name}" in entry]


def test_terms_from_the_second_task_on(train):
    out = train("cr", {"name": "mslora_cr", "inference": "all"})
    assert logged(out, "contrast", "01_one") == []
    assert len(logged(out, "contrast")) == 4
    assert logged(out, "orthonormality")[0] > logged(out, "orthonormality")[-1] > 0


def test_values_of_the_terms_at_the_first_step(train):
    """As computed by hand from the fresh LoRA and the file of the first task."""
    keys = {"learning_rate": 1e-12, "max_steps": 1}
    out = train("start", {"name": "mslora_cr", "consolidate": "merge"}, **keys)
    first, second = (
        {n: t.double() for n, t in load_file(out / "tasks" / t / "update.safetensors").items() if "lora_" in n}
        for t in ("01_one", "02_two")
    )
    a, b = ([t for n, t in sorted(second.items()) if part in n] for part in ("lora_A", "lora_B"))
    assert logged(out, "contrast")[0] == pytest.approx(0.1 * contrast_reference(second, [first], [False]), rel=1e-5)
    assert logged(out, "orthonormality")[0] == pytest.approx(0.01 * ortho_reference(a, b), rel=1e-5)
    peer = train("start-peer", {"name": "mslora_cr", "consolidate": "merge", "faithful": "peer"}, **keys)
    assert updates(peer)["01_one"] == updates(out)["01_one"]
    past_a, past_b = ([t for n, t in sorted(first.items()) if part in n] for part in ("lora_A", "lora_B"))
    expected = 0.01 * ortho_reference(a + past_a, b + past_b)
    assert logged(peer, "orthonormality")[0] == pytest.approx(expected, rel=1e-5)


def test_the_peers_mean_halves_the_gradient_at_the_second_task(train):
    keys = {"optim": "sgd", "learning_rate": 0.1, "max_steps": 1, "max_grad_norm": 0.0}
    method = {"name": "mslora_cr", "alpha": 0, "beta": 1.0}
    none = load_file(train("g0", {**method, "beta": 0}, **keys) / "tasks" / "02_two" / "update.safetensors")
    ours = load_file(train("g1", method, **keys) / "tasks" / "02_two" / "update.safetensors")
    peer = load_file(train("g2", {**method, "faithful": "peer"}, **keys) / "tasks" / "02_two" / "update.safetensors")
    name = next(n for n in none if "lora_A" in n)
    assert torch.allclose(peer[name] - none[name], 0.5 * (ours[name] - none[name]), atol=1e-6)
    assert (ours[name] - none[name]).abs().max() > 1e-4


def test_learnable_weights(train):
    """They start at exp(-4.6) and go down; a weight of 0 stays off; the learned values stand beside the update."""
    out = train("learn", {"name": "mslora_cr", "learnable": True})
    first = json.loads((out / "tasks" / "01_one" / "update.json").read_text())["meta"]
    second = json.loads((out / "tasks" / "02_two" / "update.json").read_text())["meta"]
    assert "log_alpha" not in first
    assert first["modality"] == "one"
    assert -5 < second["log_alpha"] < -4.6
    assert -5 < second["log_beta"] < -4.6
    saved = load_file(out / "tasks" / "02_two" / "update.safetensors")
    own = {name: float(tensor) for name, tensor in saved.items() if "cl_" in name}
    assert own == {"cl_log_alpha": second["log_alpha"], "cl_log_beta": second["log_beta"]}
    final = [load_file(file) for file in (out / "final").glob("*.safetensors")]
    assert final
    assert not any("cl_" in name for tensors in final for name in tensors)  # they are no part of the model
    half = train("learn-alpha", {"name": "mslora_cr", "learnable": True, "beta": 0})
    assert "log_beta" not in json.loads((half / "tasks" / "02_two" / "update.json").read_text())["meta"]
    assert logged(half, "orthonormality") == []


@pytest.mark.parametrize("consolidate", ["merge", "stack"])
def test_learnable_weights_survive_an_interruption(llava, data, tmp_path, consolidate):
    """A run that is stopped between two checkpoints of the second task ends as if nothing had happened."""
    from transformers import TrainerCallback

    class Stopped(Exception):
        pass

    class Breaker(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if "02_two" in args.output_dir and state.global_step == 3:
                raise Stopped

    method = {"name": "mslora_cr", "learnable": True, "alpha": 5.0, "consolidate": consolidate}
    keys = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "cl": NO_TESTS}
    whole = tiny.recipe(llava, data, tmp_path / "whole", method, ("one", "two"), **keys)
    broken = tiny.recipe(llava, data, tmp_path / "broken", method, ("one", "two"), **keys)
    go(whole)
    with pytest.raises(Stopped):
        go(broken, callbacks=[Breaker()])
    assert list((tmp_path / "broken" / "tasks" / "02_two").glob("checkpoint-2/cl_parameters.safetensors"))
    go(broken)
    assert updates(tmp_path / "whole") == updates(tmp_path / "broken")
    texts = [(tmp_path / n / "tasks" / "02_two" / "update.json").read_text() for n in ("whole", "broken")]
    assert texts[0] == texts[1]


def test_a_later_site_compares_with_the_labels_in_the_carry(llava, data, tmp_path):
    """Three sites in three directories end where one run of three tasks ends."""
    whole = tiny.recipe(llava, data, tmp_path / "whole", "mslora_cr", cl=dict(NO_TESTS))
    go(whole)
    previous = None
    for task in TASKS:
        block = {**NO_TESTS, "only": task, **({"carry_from": str(previous)} if previous else {})}
        go(tiny.recipe(llava, data, tmp_path / task, "mslora_cr", cl=block))
        previous = tmp_path / task
    expected = updates(tmp_path / "whole")
    assert {k: v for t in TASKS for k, v in updates(tmp_path / t).items()} == expected


def test_past_loras_of_another_rank(llava, data, tmp_path):
    go(tiny.recipe(llava, data, tmp_path / "first", "mslora_cr", ("one",), cl=dict(NO_TESTS)))
    block = {**NO_TESTS, "only": "two", "carry_from": str(tmp_path / "first")}
    with pytest.raises(RunStateError, match="cannot be compared with this task's LoRA"):
        go(tiny.recipe(llava, data, tmp_path / "second", "mslora_cr", ("one", "two"), cl=block, lora_rank=2))


def test_a_label_that_is_missing_outside_a_run():
    method = get_method("mslora_cr")
    with pytest.raises(RecipeError, match="has no modality label"):
        method(method.config_class()).penalties(TaskContext(Task(name="x"), 1, 0, None, None), torch.nn.Linear(1, 1))


def test_problems_need_no_stream_of_its_own():
    method = get_method("mslora_cr")
    facts = RunFacts("lora", load_stream("mslora_cr_6"))
    assert method(method.config_class(inference="nmi")).problems(facts) == []
