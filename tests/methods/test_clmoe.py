"""CL-MoE: which experts are exclusive, the average with the past, and that it happens in a run."""

from __future__ import annotations

import pytest
import torch
from running import NO_TESTS, difference, go, journal, recipe
from safetensors.torch import load_file

from cl_plugins.base.errors import RecipeError
from cl_plugins.methods.clmoe.merging import exclusive, merged, weights_of_past
from cl_plugins.methods.usage import Usage


METHOD = {"name": "clmoe", "experts": 4, "usage_samples": 6}


def test_exclusive_experts_are_those_that_only_the_task_before_used_most():
    before, now = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert exclusive(before, now, 2).tolist() == [True, False, False, False]
    assert exclusive(before, before, 2).tolist() == [False] * 4
    assert exclusive(before, before.flip(0), 2).tolist() == [True, True, False, False]
    assert exclusive(before, before.flip(0), 4).tolist() == [False] * 4  # as in the authors' code, where k > E


@pytest.mark.parametrize("protect", [True, False])
def test_the_average_is_the_formula(protect):
    """``theta = lambda theta_before + (1 - lambda) phi``, expert by expert, A and B each."""
    generator = torch.Generator().manual_seed(0)

    def tensors():
        shapes = {"m.cl_a": (6, 5), "m.cl_b": (4, 6), "m.cl_router": (3, 5), "p.weight": (2, 2)}
        return {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}

    before, now = tensors(), tensors()
    only_before = torch.tensor([True, False, False])
    got = merged(before, now, {"m": weights_of_past(only_before, 0.7, protect=protect)})
    for expert in range(3):
        share = (0.7 if protect else 0.3) if expert == 0 else (0.3 if protect else 0.7)
        part = slice(2 * expert, 2 * expert + 2)
        for name, at in (("m.cl_a", (part,)), ("m.cl_b", (slice(None), part))):
            truth = share * before[name][at] + (1 - share) * now[name][at]
            assert (got[name][at] - truth).abs().max() <= 1e-12
    assert torch.equal(got["m.cl_router"], now["m.cl_router"])
    assert torch.equal(got["p.weight"], now["p.weight"])


def test_usage_counts_the_best_experts_of_tokens_that_are_no_padding():
    scores = torch.rand(2, 3, 4, dtype=torch.float64)
    usage = Usage(attended=torch.tensor([[1, 1, 0], [1, 1, 1]]))
    usage.add_tokens(scores, 2, "selection")
    truth = torch.zeros(4, dtype=torch.float64)
    for row, token in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2)):
        for expert in scores[row, token].argsort(descending=True)[:2]:
            truth[expert] += 0.5
    assert usage.count == 5
    assert (usage.total - truth).abs().max() <= 1e-12


@pytest.fixture(scope="module")
def runs(llama, text_data, tmp_path_factory):
    """Carry and last update of two tasks, by options."""
    found = {}

    def get(**options):
        key = str(sorted(options.items()))
        if key not in found:
            out = tmp_path_factory.mktemp("clmoe") / "run"
            method = {**METHOD, **options} if options.get("name") is None else options
            go(recipe(llama, text_data, out, method, cl=NO_TESTS, max_steps=4, learning_rate=1e-2))
            found[key] = out
        return found[key]

    return get


def test_the_merge_fires_and_is_the_formula(runs):
    out = runs()
    before, now, carried = (
        load_file(out / name)
        for name in (
            "tasks/01_one/update.safetensors",
            "tasks/02_two/update.safetensors",
            "carry/adapter.safetensors",
        )
    )
    first, second = (load_file(out / f"tasks/{n}/usage.safetensors") for n in ("01_one", "02_two"))
    assert difference(now, carried) > 1e-3
    counts = []
    for layer, use in second.items():
        counts.append(int(exclusive(first[layer], use, 2).sum()))
        assert float(use.sum()) == pytest.approx(1)
        top = [set(u.argsort(descending=True, stable=True)[:2].tolist()) for u in (first[layer], use)]
        for expert in range(4):
            share = 0.7 if expert in top[0] - top[1] else 0.3
            truth = share * before[f"{layer}.cl_a"][expert] + (1 - share) * now[f"{layer}.cl_a"][expert]
            assert torch.allclose(carried[f"{layer}.cl_a"][expert], truth, rtol=1e-5, atol=1e-7)
    numbers = [e["details"].get("numbers", {}) for e in journal(out) if e["step"].startswith("train")]
    assert numbers[1]["exclusive_experts_per_layer"] == pytest.approx(sum(counts) / len(counts))
    assert torch.equal(load_file(out / "carry/usage.safetensors")[layer], use)


def test_as_released_nothing_is_averaged_and_the_method_is_moelora(runs):
    theirs = runs(faithful="peer")
    ours = runs(name="moelora", experts=4, faithful="peer")
    a, b = (load_file(out / "carry" / "adapter.safetensors") for out in (theirs, ours))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not (theirs / "carry" / "usage.safetensors").exists()


@pytest.mark.parametrize("key", ["top_experts", "top_ids"])
def test_as_many_as_there_are_experts_is_refused(llama, text_data, tmp_path, key):
    import tiny

    with pytest.raises(RecipeError, match=rf"{key}.*no expert is exclusive"):
        tiny.checked(recipe(llama, text_data, tmp_path / "run", {**METHOD, key: 4}))
