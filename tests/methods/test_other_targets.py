"""A second task with more or fewer target modules than the first: it is right, or it is refused before its first step."""

from __future__ import annotations

from unittest import mock

import pytest
import tiny
import torch
from method_cases import CASES, MethodCase
from transformers.trainer_callback import CallbackHandler

from cl_plugins.base.errors import RunStateError
from cl_plugins.testing import suite
from cl_plugins.testing.watch import watch


FEWER, MORE = {"lora_target": "q_proj,v_proj"}, {"lora_target": "q_proj,v_proj,down_proj"}
WITHOUT = {**FEWER, "additional_target": None}
#: What another site has otherwise -> the keys of the first site and of the second.
OTHERWISE = {
    "more": (FEWER, MORE),
    "fewer": (MORE, FEWER),
    "projector": (WITHOUT, FEWER),
    "no projector": (FEWER, WITHOUT),
}
OF_FULL = {  # which has no LoRA
    "projector": ({"freeze_multi_modal_projector": True}, {"freeze_multi_modal_projector": False}),
    "no projector": ({"freeze_multi_modal_projector": False}, {"freeze_multi_modal_projector": True}),
}
#: Methods that go on with a carry of other layers; the others refuse it.
GOES_ON = ("inclora", "olora", "sefe", "hide", "disco", "mr_lora", "osf", "l2p", "modalprompt")

ORACLE = {"selector": {"kind": "oracle"}}
FURTHER = [
    MethodCase("single_task-oracle", {"name": "single_task", **ORACLE}, apart=True),
    MethodCase("hide-oracle", {"name": "hide", **ORACLE}, apart=True),
    MethodCase("branchlora-one", {"name": "branchlora", "branches": 1, "top_k": 1, "freeze": 0, **ORACLE}),
    MethodCase("branchlora-trunks", {"name": "branchlora", "branches": 4, "shared_trunk": False, **ORACLE}),
]
FAST = ("inclora-stack", "branchlora", "osf", "moelora")
#: Nothing goes from one site to the next.
ALONE = ("single_task", "multitask")
CHOSEN = [case for case in (*CASES, *FURTHER) if case.id not in ALONE]
PARAMS = [
    pytest.param(case, how, id=f"{case.id}-{how}", marks=() if case.id in FAST else pytest.mark.slow)
    for case in CHOSEN
    for how in (OF_FULL if case.name == "seqfull" else OTHERWISE)
]


def site(case, llava, data, out, task, keys, carry=None):
    """The recipe of one site: all tasks can be tested, one trains."""
    block = {**case.block, "only": task, "eval": {"max_new_tokens": 2, "max_items": 2}}
    block |= {"carry_from": str(carry)} if carry else {}
    made = tiny.recipe(llava, data, out, dict(case.method), cl=block, **{"max_steps": 2, **case.keys})
    return {key: value for key, value in {**made, **keys}.items() if value is not None}


@pytest.mark.parametrize(("case", "how"), PARAMS)
def test_a_second_task_with_other_targets(case, how, llava, data, tmp_path):
    first, second = (OF_FULL if case.name == "seqfull" else OTHERWISE)[how]
    before = watch(site(case, llava, data, tmp_path / "one", "one", first))
    keys = site(case, llava, data, tmp_path / "two", "two", second, carry=tmp_path / "one")
    steps, seen, said, took = [], None, "", CallbackHandler.on_step_end

    def counted(*args):
        steps.append(1)
        return took(*args)

    with mock.patch.object(CallbackHandler, "on_step_end", counted):
        try:
            seen = watch(keys)
        except RunStateError as error:
            said = str(error)
    if how in ("more", "fewer"):
        assert (seen is not None) == (case.name in GOES_ON)
    if seen is None:
        assert not steps
        assert "carry" in said
        return
    assert steps
    observed = suite.Observed(case, seen, tmp_path / "two", llava, data, keys)
    suite.final_is_the_last_model(observed)
    if not case.apart:
        suite.boundary_identity(observed)
        assert not case.continues or torch.equal(seen.fresh[0], before.after[0])
