"""What must hold for every method: the shared tests over `method_cases.CASES`."""

from __future__ import annotations

import pytest
import tiny
from method_cases import CASES, HALF_CASES

from cl_plugins.testing import suite


@pytest.fixture(scope="module")
def half_llava(tmp_path_factory):
    return tiny.build_llava(tmp_path_factory.mktemp("models") / "half", dtype="bfloat16")


#: The cases in bf16 that are part of `make test`, one for each kind of carry; the others are in `make test-slow`.
FAST_HALF = ("inclora-stack-bf16", "seqfull-bf16", "moelora-bf16")
PARAMS = [
    *(pytest.param(case, id=case.id) for case in CASES),
    *(pytest.param(case, id=case.id, marks=() if case.id in FAST_HALF else pytest.mark.slow) for case in HALF_CASES),
]


@pytest.fixture(scope="module", params=PARAMS)
def observed(request, llava, half_llava, data, tmp_path_factory):
    """A finished run of one method, watched from outside."""
    case = request.param
    return suite.observe(case, half_llava if case.half else llava, data, tmp_path_factory.mktemp(case.id) / "run")


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
def test_shared(observed, check):
    check(observed)


def test_terms_are_finite_and_act_from_the_second_task_on(observed):
    """What stands in the logs; a term that is not finite ends the training by itself."""
    suite.terms_are_finite_and_act(observed, expected=observed.case.term)
