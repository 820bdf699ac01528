"""What must hold for every method: the shared tests over `method_cases.CASES`."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import tiny
from drawing import drawn
from method_cases import CASES, HALF_CASES, VARIANTS

from cl_plugins.testing import suite


@pytest.fixture(scope="module")
def half_llava(tmp_path_factory):
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "half", dtype="bfloat16")


#: The cases in bf16 that are part of `make test`, one for each kind of carry; the others are in `make test-slow`.
FAST_HALF = ("inclora-stack-bf16", "seqfull-bf16", "moelora-bf16")
#: The cases whose pictures are drawn: a chain, a joint model, models of their own, and one that chooses.
DRAWN = ("seqlora", "multitask", "single_task", "hide")
PARAMS = [
    *(pytest.param(case, id=case.id, marks=pytest.mark.slow if case.id in VARIANTS else ()) for case in CASES),
    *(pytest.param(case, id=case.id, marks=() if case.id in FAST_HALF else pytest.mark.slow) for case in HALF_CASES),
]


@pytest.fixture(scope="module", params=PARAMS)
def observed(request, llava, half_llava, data, tmp_path_factory):
    """A finished run of one method, watched from outside."""
    case = request.param
    with drawn() if case.id in DRAWN else nullcontext():
        return suite.observe(case, half_llava if case.half else llava, data, tmp_path_factory.mktemp(case.id) / "run")


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_shared(observed, check):
    check(observed)


def test_terms_are_finite_and_act_from_the_second_task_on(observed):
    """What stands in the logs; a term that is not finite ends the training by itself."""
    suite.terms_are_finite_and_act(observed, expected=observed.case.term)
