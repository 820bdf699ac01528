"""I-LoRA: average and consistency against naive fp64 arithmetic, which LoRA remains, a stop between two steps."""

from __future__ import annotations

import pytest
import tiny
import torch
from regularised import gap, tensors, text_tasks, train
from running import recipe

from cl_plugins.base.errors import RecipeError
from cl_plugins.methods.ilora.consistency import consistency, moved


REPLAY = {"replay": {"capacity_per_task": 5}}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("one_sided", [False, True])
def test_the_consistency_is_the_formula(one_sided):
    fast, slow = [draw(2, 3, 4, seed=i) for i in range(2)], [draw(2, 3, 4, seed=9 + i) for i in range(2)]
    attended = torch.tensor([[True, True, False], [True, True, True]])
    total, count = 0.0, 0
    for a, b in zip(fast, slow, strict=True):
        for row in range(2):
            for place in range(3):
                if attended[row, place]:
                    for x, y in zip(a[row, place].tolist(), b[row, place].tolist(), strict=True):
                        total += 0.0 if one_sided and x > y else (x - y) ** 2
                        count += 1
    assert float(consistency(fast, slow, attended, one_sided=one_sided)) == pytest.approx(total / count, abs=1e-9)
    leaves = [x.requires_grad_(True) for x in fast]
    assert torch.autograd.gradcheck(lambda *own: consistency(own, slow, attended, one_sided=one_sided), leaves)


def test_padding_changes_nothing():
    fast, slow, attended = draw(1, 3, 4), draw(1, 3, 4, seed=1), torch.ones(1, 3, dtype=torch.bool)
    padded = [torch.cat([100 * draw(1, 2, 4, seed=5), x], dim=1) for x in (fast, slow)]
    mask = torch.cat([torch.zeros(1, 2, dtype=torch.bool), attended], dim=1)
    expected = consistency([fast], [slow], attended)
    assert float(consistency(padded[:1], padded[1:], mask)) == pytest.approx(float(expected), abs=1e-12)


def test_the_average_forgets_its_start_at_first():
    slow, truth = torch.zeros(3, dtype=torch.float64), [0.0] * 3
    for step in range(1, 9):
        fast = draw(3, seed=step)
        weight = min(1 - 1 / (step + 1), 0.8)
        truth = [weight * old + (1 - weight) * new for old, new in zip(truth, fast.tolist(), strict=True)]
        slow = moved(slow, fast, 0.8, step)
    assert slow.tolist() == pytest.approx(truth, abs=1e-9)


def test_the_slow_lora_remains_and_it_is_the_average_of_the_fast_ones(llama, tmp_path):
    """Without terms the fast LoRA is that of sequential training, stopped after each step."""
    data = text_tasks(tmp_path / "data")
    method = {"name": "ilora", "decay": 0.7, "beta": 0, "gamma": 0}
    slow = tensors(train(llama, data, tmp_path / "slow", method, ("one",), cl=REPLAY, max_steps=3), "01_one")
    steps = [
        tensors(train(llama, data, tmp_path / f"{n}", "seqlora", ("one",), max_steps=n), "01_one") for n in (1, 2, 3)
    ]
    start = tensors(
        train(llama, data, tmp_path / "0", "seqlora", ("one",), max_steps=1, learning_rate=1e-30), "01_one"
    )
    for name, value in slow.items():
        expected = start[name]
        for number, step in enumerate(steps, start=1):
            expected = moved(expected, step[name], 0.7, number)
        assert torch.allclose(value, expected, rtol=1e-5, atol=1e-8), name
    fast = train(llama, data, tmp_path / "fast", {**method, "answers": "fast"}, ("one",), cl=REPLAY, max_steps=3)
    assert gap(tensors(fast, "01_one"), steps[-1]) < 1e-6
    assert gap(slow, steps[-1]) > 1e-2


def test_terms_act_in_the_second_task(llama, tmp_path):
    data = text_tasks(tmp_path / "data")
    found = {}
    for name, more in {
        "none": {"beta": 0, "gamma": 0},
        "beta": {"gamma": 0},
        "gamma": {"beta": 0, "gamma": 50},
    }.items():
        method = {"name": "ilora", "decay": 0.9, "answers": "fast", **more}
        found[name] = train(llama, data, tmp_path / name, method, cl=REPLAY, max_steps=4)
    for name in ("beta", "gamma"):
        assert gap(tensors(found[name], "01_one"), tensors(found["none"], "01_one")) == 0
        assert gap(tensors(found[name]), tensors(found["none"])) > 1e-4


def test_without_a_buffer_it_is_refused(llama, text_data, tmp_path):
    with pytest.raises(RecipeError, match=r"capacity_per_task.*'ilora' draws from the buffer"):
        tiny.checked(recipe(llama, text_data, tmp_path / "run", "ilora"))
