"""The order of samples that are not shuffled, and a task's own length of training."""

from __future__ import annotations

import pytest
from llamafactory.data import SFTDataCollatorWith4DAttentionMask as Collator
from regularised import text_tasks, train

from cl_plugins.training.order import Spread


@pytest.mark.parametrize(("own", "total"), [(24, 44), (5, 6), (3, 30), (1, 2)])
def test_memory_samples_are_spread_among_the_new_ones(own, total):
    order = list(Spread(own, total, 1))
    assert sorted(order) == list(range(total)) == sorted(Spread(own, total, 2))
    assert [i for i in order if i < own] == list(range(own))
    for end in range(total + 1):  # a training that ends there
        memory = sum(i >= own for i in order[:end])
        assert abs(memory - end * (total - own) / total) <= 1
    assert total < 9 or order != list(Spread(own, total, 2))


@pytest.mark.parametrize("mixing", ["concatenate", "ratio"])
def test_a_training_that_is_not_shuffled_sees_memory_samples(mixing, llama, tmp_path, monkeypatch):
    seen, collate = [], Collator.__call__

    def collated(self, rows):
        found = collate(self, rows)
        seen.append([tuple(ids) for ids in found["input_ids"].tolist()])
        return found

    monkeypatch.setattr(Collator, "__call__", collated)
    data = text_tasks(tmp_path / "data", train=8)
    replay = {"capacity_per_task": 8, "mixing": mixing}
    train(
        llama, data, tmp_path / "run", {"name": "seqlora"}, cl={"replay": replay}, max_steps=2, disable_shuffling=True
    )
    old = {ids for batch in seen[:2] for ids in batch}
    new = [ids for batch in seen[-2:] for ids in batch]
    assert len(new) == 8
    assert sum(ids in old for ids in new) == 4
    assert [len(batch) for batch in seen[:2]] == [4, 4]


def test_a_tasks_epochs_win_over_the_recipes_steps(llama, tmp_path):
    import json

    data = text_tasks(tmp_path / "data", train=8)
    cl = {"task_overrides": {"two": {"num_train_epochs": 3}}}
    out = train(llama, data, tmp_path / "run", {"name": "seqlora"}, cl=cl, max_steps=1)
    steps = [json.loads(p.read_text())["global_step"] for p in sorted(out.glob("tasks/*/trainer_state.json"))]
    assert steps == [1, 6]
