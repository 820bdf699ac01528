"""What does not go with terms in the loss is refused before anything loads, for every method and for replay."""

from __future__ import annotations

import pytest
import tiny

from cl_plugins.errors import RecipeError
from cl_plugins.methods import get_method
from cl_plugins.run.prepare import split


REPLAY = {"capacity_per_task": 2}
PLAIN = ["seqlora", "inclora", "seqfull", "single_task", "multitask"]
PENALTIES = ["ewc", "sefe", "olora", "mslora_cr", {"name": "inclora", "alpha": 0.1}]
LOGITS = [("lwf", {}), ("der", REPLAY), ("seqlora", {**REPLAY, "mixing": "separate"})]


@pytest.fixture
def wheres(llama, text_data, tmp_path):
    def check(method, replay=None, **keys):
        block = {"replay": replay} if replay else {}
        raw = tiny.recipe(llama, text_data, tmp_path / "run", method, text_only=True, cl=block, **keys)
        try:
            split(raw)
        except RecipeError as error:
            return [problem.where for problem in error.problems]
        return []

    return check


@pytest.mark.parametrize("method", PENALTIES, ids=str)
def test_penalties(wheres, method):
    assert wheres(method, fp16=True) == ["fp16"]
    assert wheres(method, bf16=True) == []
    assert wheres(method, enable_liger_kernel=True) == []


@pytest.mark.parametrize(("method", "replay"), LOGITS, ids=["lwf", "der", "separate"])
def test_terms_made_of_logits(wheres, method, replay):
    assert wheres(method, replay, fp16=True) == ["fp16"]
    for key in ("enable_liger_kernel", "use_liger_kernel"):
        assert wheres(method, replay, **{key: True}) == [key]
    assert wheres(method, replay, bf16=True) == []


@pytest.mark.parametrize("method", PLAIN)
def test_methods_without_terms_pass(wheres, method):
    assert wheres(method, fp16=True) == []
    assert wheres(method, enable_liger_kernel=True) == []
    if get_method(method).capabilities.schedule == "sequential":
        assert wheres(method, REPLAY, fp16=True, enable_liger_kernel=True) == []


def test_a_model_without_logits_is_said_and_not_a_crash():
    """A trainer of the user's own, or a model that fuses its loss whatever the recipe says."""
    import torch

    from cl_plugins.errors import TrainingError
    from cl_plugins.methods.lwf import LwF, LwFConfig
    from cl_plugins.penalised import ContinualTrainerMixin, TaskTerms
    from cl_plugins.streams import Task

    class Trainer:
        def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
            return torch.zeros(()), {"logits": None}

    class Ours(ContinualTrainerMixin, Trainer):
        def __init__(self, terms):
            self._terms = terms

    from cl_plugins.methods import TaskContext

    model = torch.nn.Linear(1, 1)
    terms = TaskTerms(LwF(LwFConfig()), TaskContext(Task(name="two"), 2, 0, None, None), model)
    with pytest.raises(TrainingError, match="no logits"):
        Ours(terms).compute_loss(model, {"labels": torch.zeros(1, 1)})
