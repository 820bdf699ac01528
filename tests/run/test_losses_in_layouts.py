"""Losses that the model does not compute weigh the same in every batch layout; so do the terms beside them."""

from __future__ import annotations

import pytest
import tiny
import torch
from regularised import gap, tensors, text_tasks, train
from transformers import AutoModelForCausalLM

from cl_plugins.base.errors import RecipeError
from cl_plugins.replay.scoring import answer_logits


REPLAY = {"replay": {"capacity_per_task": 8}}
DER = {"name": "der", "alpha": 0.0, "beta": 4.0}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text_tasks(tmp_path_factory.mktemp("layouts") / "data", train=8)


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        ("llama", {"label_smoothing_factor": 0.1}),
        ("llava", {"use_dft_loss": True}),
        pytest.param("llama", {"use_dft_loss": True}, marks=pytest.mark.slow),
        pytest.param("llava", {}, marks=pytest.mark.slow),
        pytest.param("llava", {"use_eaft_loss": True}, marks=pytest.mark.slow),
    ],
)
def test_a_loss_and_a_term_in_several_micro_batches(base, keys, texts, tmp_path, request):
    found = []
    for layout in ((8, 1), (2, 4)):
        out = tmp_path / f"{layout[0]}"
        more = {"max_steps": 1, "template": "llava" if base == "llava" else "vicuna", **keys}
        train(request.getfixturevalue(base), texts, out, DER, layout=layout, cl=REPLAY, **more)
        found.append(tensors(out))
    assert gap(*found) < 1e-4


@pytest.mark.parametrize(("base", "refused"), [("llama", False), ("llava", True)])
def test_smoothing_is_refused_where_labels_are_not_shifted(base, refused, data, text_data, tmp_path, request):
    keys = {"label_smoothing_factor": 0.1}
    for more in (keys, {"cl": {"task_overrides": {"two": keys}}}):
        recipe = tiny.recipe(
            request.getfixturevalue(base),
            data if refused else text_data,
            tmp_path / "run",
            text_only=not refused,
            **more,
        )
        if refused:
            with pytest.raises(RecipeError, match=r"LlavaForConditionalGeneration.*repeat itself"):
                tiny.checked(recipe)
        else:
            tiny.checked(recipe)


def test_padding_is_no_answer_of_a_memory_sample(llama):
    """Under `ignore_pad_token_for_loss: false` padding has labels; how much there is depends on the batch."""
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    ids = torch.tensor([[1, 20, 21, 22, 2, 3, 3, 3], [1, 20, 21, 22, 23, 24, 25, 2]])
    mask = (ids != 3).long()
    labels = ids.clone()
    labels[:, :3] = -100
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    logits, targets, counts = answer_logits(model, batch)
    assert counts == [2, 5]
    assert targets.tolist() == [22, 2, 22, 23, 24, 25, 2]
    marked = {**batch, "labels": labels.masked_fill(mask == 0, -100)}
    assert torch.equal(answer_logits(model, marked)[0], logits)
