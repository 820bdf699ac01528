"""A model that gives no logits where a term of the loss is made of them."""

from __future__ import annotations

import pytest


def test_a_model_without_logits_is_said_and_not_a_crash():
    """A trainer of the user's own, or a model that fuses its loss whatever the recipe says."""
    import torch

    from cl_plugins.base.errors import TrainingError
    from cl_plugins.methods.lwf import LwF, LwFConfig
    from cl_plugins.streams import Task
    from cl_plugins.training.mixin import ContinualTrainerMixin
    from cl_plugins.training.terms import TaskTerms

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
