"""HiDe-LLaVA and DISCO: layers and weights against fp64 arithmetic, whole models against sums of updates, rows among rows."""

from __future__ import annotations

import pytest
import torch
from made_tasks import made_carry
from row_prompts import SETTINGS, batch, cut, pixels, prompts
from running import NO_TESTS, go, recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

from cl_plugins.adapters.bank import attach, past_updates
from cl_plugins.adapters.held_base import HeldBase
from cl_plugins.adapters.rows import state_of
from cl_plugins.base.errors import CompatibilityError, RecipeError, RunStateError
from cl_plugins.contract.low_rank import LowRankUpdate
from cl_plugins.methods.hide.gate import batch_maximum
from cl_plugins.methods.hide.layers import last_layers, product_of_sums, sum_of_products
from cl_plugins.methods.registry import make_method
from cl_plugins.methods.weighted import row_softmax
from cl_plugins.selectors.router import Learned
from cl_plugins.selectors.weighted import RowWeights, separate


IN, OUT, RANK, TASKS = 6, 5, 2, 3
NAMES = ("one", "two", "three")
FP64 = torch.float64


def updates_of_a_layer(scalings=(2.0, 2.0, 2.0)):
    generator = torch.Generator().manual_seed(0)
    return [
        Learned(
            name,
            LowRankUpdate(
                {"layer": torch.randn(RANK, IN, generator=generator)},
                {"layer": torch.randn(OUT, RANK, generator=generator)},
                scaling,
            ),
        )
        for name, scaling in zip(NAMES, scalings, strict=True)
    ]


def layer_with(experts):
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(IN, OUT)})
    attach(HeldBase(model), {"layer": experts})
    return model["layer"].double()


class Rows:
    """A row state in the middle of a forward."""

    off = False

    def __init__(self, weights):
        self.current = self
        self.kept = {"weights": weights}


def close(got, truth):
    return (got - truth).abs().max() <= 1e-9 * truth.abs().max()


def test_a_weighted_layer_is_the_formula():
    tasks, x = updates_of_a_layer((2.0, 1.0, 0.5)), torch.randn(4, 3, IN, dtype=FP64)
    weights = torch.softmax(torch.randn(4, TASKS, dtype=FP64), dim=-1)
    layer = layer_with(separate(tasks, "layer", RowWeights(Rows(weights), range(TASKS))))
    truth = x @ layer.weight.T + layer.bias
    for i, task in enumerate(tasks):
        a, b = task.update.a["layer"].double(), task.update.b["layer"].double()
        truth = truth + weights[:, i, None, None] * task.update.scaling * (x @ a.T @ b.T)
    assert close(layer(x), truth)


def test_gradients_reach_the_input_of_a_weighted_layer():
    weights = torch.softmax(torch.randn(2, TASKS, dtype=FP64), dim=-1)
    layer = layer_with(separate(updates_of_a_layer(), "layer", RowWeights(Rows(weights), range(TASKS))))
    assert torch.autograd.gradcheck(layer, torch.randn(2, 3, IN, dtype=FP64, requires_grad=True))


@pytest.mark.parametrize("epsilon", [1.0, 0.25])
def test_fused_layers_are_the_formulae(epsilon):
    tasks, x = updates_of_a_layer(), torch.randn(4, 3, IN, dtype=FP64)
    ours, theirs = (layer_with(fuse(tasks, "layer", epsilon)) for fuse in (sum_of_products, product_of_sums))
    parts = [(t.update.a["layer"].double(), t.update.b["layer"].double()) for t in tasks]
    plain = x @ ours.weight.T + ours.bias
    assert close(ours(x), plain + epsilon * 2.0 * sum(x @ a.T @ b.T for a, b in parts))
    a = sum(t.update.a["layer"] for t in tasks).double()  # the bank holds its tensors in fp32
    b = sum(t.update.b["layer"] for t in tasks).double()
    assert close(theirs(x), plain + epsilon * 2.0 * (x @ a.T @ b.T))
    assert not torch.allclose(ours(x), theirs(x), rtol=0.1)


def test_factors_of_different_scaling_have_no_product_of_sums():
    with pytest.raises(CompatibilityError, match="ranks or scalings differ"):
        product_of_sums(updates_of_a_layer((2.0, 1.0, 2.0)), "layer", 1.0)


def test_weights_are_the_softmax_of_scores_over_temperature():
    scores = torch.randn(4, TASKS, dtype=FP64)
    for row, got in zip(scores, row_softmax(scores, 0.1), strict=True):
        parts = torch.exp(row / 0.1)
        assert close(got, parts / parts.sum())


def test_the_authors_take_the_largest_similarity_of_the_batch():
    similarities = torch.randn(4, 2, TASKS, dtype=FP64)
    truth = [sum(max(similarities[b, m, k] for b in range(4)) for m in range(2)) / 2 for k in range(TASKS)]
    assert close(batch_maximum(similarities)[0], torch.stack(truth))
    assert close(batch_maximum(similarities[:1])[0], similarities[0].mean(0))  # alone: as per row


def text_statistics(base, method, seed=3):
    """Anchors that real prompts are near to: those of random prompts."""
    selector = method.selection.selector
    found = []
    for number in range(TASKS):
        inputs = batch(prompts(4, seed=seed + number))
        found.append(selector.measure(selector.join([base.features(inputs, look) for look in selector.looks])))
    return found


def answers(model, state, rows, pictures=None, **more):
    """Answers, routes and weights of one ``generate``."""
    inputs = batch(rows, pictures)
    with state.recording() as seen, torch.no_grad():
        ids = model.generate(**inputs, **SETTINGS, **more)[:, inputs["input_ids"].shape[1] :].tolist()
    routes = [r for kept in seen for r in kept["route"]]
    return [cut(row) for row in ids], routes, torch.cat([kept["weights"] for kept in seen])


METHODS = {
    "hide": {"temperature": 0.2},
    "hide-all": {"temperature": 0.2, "layers": 2},
    "disco": {"temperature": 0.2},
    "disco-ridge": {"temperature": 0.2, "selector": {"kind": "ridge", "features": "text", "penalty": 1e-4}},
}


@pytest.fixture(scope="module", params=METHODS)
def text(request, llama, tmp_path_factory):
    """A text model with three tasks on it."""
    method = make_method(request.param.partition("-")[0], METHODS[request.param])
    base = HeldBase(AutoModelForCausalLM.from_pretrained(llama))
    statistics = text_statistics(base, method)
    carry, updates = made_carry(tmp_path_factory.mktemp("text"), method, base.model, NAMES, statistics)
    model = method.restore(base, carry).eval()
    yield method, base, model, updates
    base.reset()


@pytest.fixture(scope="module", params=["hide", "disco"])
def seeing(request, llava, tmp_path_factory):
    """A model that sees, with three tasks on it."""
    method = make_method(request.param, {**METHODS[request.param], "selector": {"kind": "anchors"}})
    base = HeldBase(LlavaForConditionalGeneration.from_pretrained(llava))
    selector, statistics = method.selection.selector, []
    for number in range(TASKS):
        rows = prompts(4, lambda i: i % 2, seed=3 + number)
        inputs = batch(rows, pixels(rows, seed=number))
        statistics.append(selector.measure(selector.join([base.features(inputs, look) for look in selector.looks])))
    carry, _ = made_carry(tmp_path_factory.mktemp("seeing"), method, base.model, NAMES, statistics)
    model = method.restore(base, carry).eval()
    yield model, state_of(model)
    base.reset()


def test_a_row_is_computed_by_the_weighted_sum(text, llama):
    """The logits of each row are those of the base plus its own sum of updates."""
    method, base, model, updates = text
    rows, state = prompts(6), state_of(model)
    with state.recording() as seen, torch.no_grad():
        got = model(**batch(rows)).logits[:, -1]
    weighted = method.weighted(base)
    plain = HeldBase(AutoModelForCausalLM.from_pretrained(llama).eval())
    for number, row in enumerate(rows):
        parts = []
        for update, weight in zip(updates, seen[0]["weights"][number].tolist(), strict=True):
            factors = {n: weight if weighted(n) else 1.0 for n in update.a}
            parts.append(LowRankUpdate(update.a, {n: b * factors[n] for n, b in update.b.items()}, update.scaling))
        attach(plain, past_updates(parts))
        with torch.no_grad():
            truth = plain.model(**batch([row])).logits[0, -1]
        plain.reset()
        assert (got[number] - truth).abs().max() <= 1e-4 * truth.abs().max()
    assert seen[0]["weights"].max() > 0.4
    assert (seen[0]["weights"].amax(dim=1) < 0.99).any()  # several experts take part
    assert len(set(seen[0]["route"])) > 1


def test_one_row_alone_or_thirty_with_padding(text):
    _, _, model, _ = text
    rows, state = prompts(30), state_of(model)
    together, routes, weights = answers(model, state, rows)
    assert len({tuple(a) for a in together}) > 3
    assert (weights.sum(dim=1) - 1).abs().max() < 1e-5
    for row, answer, route, weight in zip(rows, together, routes, weights, strict=True):
        alone = answers(model, state, [row])
        assert alone[:2] == ([answer], [route])
        assert torch.equal(alone[2][0], weight)


def test_with_and_without_a_cache(text):
    _, _, model, _ = text
    rows, state = prompts(8), state_of(model)
    one, other = (answers(model, state, rows, use_cache=cached) for cached in (True, False))
    assert one[:2] == other[:2]


@pytest.mark.parametrize("pictures", [lambda i: 1, lambda i: i % 3, lambda i: i % 2, lambda i: 0], ids=[*"1sxn"])
def test_pictures_and_texts_in_one_batch(seeing, pictures):
    model, state = seeing
    rows = prompts(12, pictures)
    seen = pixels(rows)
    together, routes, _ = answers(model, state, rows, seen)
    for row, one, answer, route in zip(rows, seen, together, routes, strict=True):
        assert answers(model, state, [row], [one])[:2] == ([answer], [route])


@pytest.mark.parametrize("name", ["hide", "disco"])
def test_the_authors_weights_depend_on_the_batch_and_ours_do_not(llama, tmp_path, name):
    found = {}
    for faithful in (None, "peer"):
        method = make_method(
            name, {**METHODS[name], "selector": {"kind": "anchors", "features": "text"}, "faithful": faithful}
        )
        base = HeldBase(AutoModelForCausalLM.from_pretrained(llama))
        carry, _ = made_carry(tmp_path / str(faithful), method, base.model, NAMES, text_statistics(base, method))
        model = method.restore(base, carry).eval()
        rows, state = prompts(6), state_of(model)
        alone = torch.cat([answers(model, state, [row])[2] for row in rows])
        found[faithful] = alone, answers(model, state, rows)[2]
    assert torch.equal(*found[None])
    assert torch.allclose(found[None][0], found["peer"][0], atol=1e-6)  # one by one they are alike
    together = found["peer"][1]
    assert (together == together[0]).all()
    assert not torch.allclose(found["peer"][0], together, atol=1e-3)


def test_experts_that_are_not_trained_take_their_share_in_the_authors_code(llama):
    scores = torch.tensor([[0.3, 0.1]], dtype=FP64)

    class Fixed:
        kind = "anchors"

        def scores(self, prepared, vectors):
            return scores

    method = make_method("disco", {"faithful": "peer", "experts": 4})
    got = method._weigh(Fixed(), {}, torch.zeros(1, 3, dtype=FP64))
    parts = torch.exp(torch.tensor([0.3, 0.1, 0.0, 0.0], dtype=FP64) / 0.05)
    assert close(got, (parts / parts.sum())[None, :2])


def test_the_last_layer_is_found(llava, llama):
    for model in (LlavaForConditionalGeneration.from_pretrained(llava), AutoModelForCausalLM.from_pretrained(llama)):
        among = last_layers(HeldBase(model), 1)
        names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and among(n)]
        assert len(names) == 7
        assert all(".layers.1." in name and "vision" not in name for name in names)


@pytest.mark.parametrize("name", ["hide", "disco"])
def test_every_expert_trains_alone_on_the_base(llama, text_data, tmp_path, name):
    """Without modules that go on, each task trains as if it were the only one."""
    for method in (name, "single_task"):
        go(recipe(llama, text_data, tmp_path / method, method, cl=NO_TESTS))
    for task in ("01_one", "02_two"):
        ours, theirs = (load_file(tmp_path / m / "tasks" / task / "update.safetensors") for m in (name, "single_task"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[n], theirs[n]) for n in ours)


def test_the_projector_goes_on_and_the_latest_serves_all(llava, data, tmp_path):
    import tiny

    keys = tiny.recipe(llava, data, tmp_path / "run", "hide", NAMES[:2], cl=dict(NO_TESTS), max_steps=2)
    keys["cl"]["task_overrides"] = {"two": {"learning_rate": 1e-12}}
    go(keys)
    one, two = (load_file(tmp_path / "run" / "tasks" / t / "update.safetensors") for t in ("01_one", "02_two"))
    base = LlavaForConditionalGeneration.from_pretrained(llava)
    name = next(n for n in one if "multi_modal_projector.linear_1.weight" in n)
    start = base.get_parameter(name.removeprefix("base_model.model."))
    assert (one[name] - start).norm() > 1e-3
    assert (two[name] - one[name]).norm() <= 1e-6 * one[name].norm()


def test_a_task_of_another_expert_alone_is_the_exports(llama, tmp_path):
    """With the task given DISCO is its expert alone; HiDe differs from the fusion in the last layer only."""
    method = make_method("disco", {"selector": {"kind": "oracle"}})
    base = HeldBase(AutoModelForCausalLM.from_pretrained(llama))
    carry, updates = made_carry(tmp_path, method, base.model, NAMES, [{}] * TASKS)
    inputs = batch(prompts(4))
    for number, name in enumerate(NAMES):
        model = method.restore(base, carry, method.route(carry, name)).eval()
        with torch.no_grad():
            got = model(**inputs).logits
        base.reset()
        base.attach([updates[number]])
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, got)
        assert method.export_task(carry, name).updates[0].task == name
        base.reset()


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ({"name": "hide", "faithful": "peer", "selector": {"kind": "ridge"}}, {}, "rule for anchors"),
        ({"name": "disco", "experts": 3}, {}, "not trained yet"),
        ({"name": "hide"}, {"streaming": True, "max_steps": 2}, "streamed"),
        ({"name": "hide", "temperature": 0}, {}, "temperature"),
        ({"name": "disco", "layers": 1}, {}, "layers.*not a known key"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_loads(llava, data, tmp_path, method, more, message):
    import tiny

    with pytest.raises(RecipeError, match=message):
        tiny.checked(tiny.recipe(llava, data, tmp_path / "run", method, NAMES, **more))


@pytest.mark.parametrize("method", ["disco", {"name": "single_task", "selector": {"kind": "prototype"}}])
def test_a_trained_tower_is_refused_before_the_first_step(llava, data, tmp_path, method):
    import tiny

    keys = tiny.recipe(llava, data, tmp_path / "run", method, NAMES[:1], cl=dict(NO_TESTS), freeze_vision_tower=False)
    with pytest.raises(CompatibilityError, match="before it is known which task a row is like"):
        go(keys)
    assert not list((tmp_path / "run").glob("tasks/*/update.safetensors"))


def test_a_carry_of_another_selector_is_refused(llama, tmp_path):
    method = make_method("disco", {})
    base = HeldBase(AutoModelForCausalLM.from_pretrained(llama))
    carry, _ = made_carry(tmp_path, method, base.model, NAMES, text_statistics(base, method))
    other = make_method("disco", {"selector": {"kind": "prototype", "features": "text"}})
    with pytest.raises(RunStateError, match=r"anchors.*this recipe's is.*prototype"):
        other.restore(base, carry)
