from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_plugins.base.errors import DataError
from cl_plugins.evaluation import metrics as M
from cl_plugins.evaluation.matrix import AccuracyMatrix


TASKS = ["path", "sur", "cell", "rad"]
ZERO_SHOT = [36.01, 31.45, 4.99, 12.86]


def matrix(scores, tasks=TASKS, **changes):
    fields = {"stream": "s", "method": "inclora", "tasks": tasks, "scores": scores}
    return AccuracyMatrix(**(fields | changes))


def lower(rows):
    return [[*row, *[None] * (len(rows) - len(row))] for row in rows]


# The accuracy matrices that the Medical-CL paper prints (tables 2 and 3, seen tasks only).
INCLORA = lower([[68.85], [63.83, 53.43], [59.93, 51.62, 84.34], [53.58, 47.12, 75.58, 18.12]])
SEQFULL = lower([[61.17], [59.85, 58.03], [59.24, 56.47, 82.09], [54.54, 57.54, 80.27, 16.20]])


@pytest.mark.parametrize(
    ("R", "expected"),
    [
        (
            INCLORA,
            {
                "a_k": [68.85, 58.63, 65.2967, 48.60],
                "last": 48.60,
                "mfn": 48.60,
                "average": 60.34,
                "mft": 56.1850,
                "bwt": -10.11,
                "mfn_minus_mft": -7.585,
                "forgetting": 10.11,
            },
        ),
        (
            SEQFULL,
            {
                "a_k": [61.17, 58.94, 65.9333, 52.1375],
                "last": 52.1375,
                "mfn": 52.1375,
                "average": 59.5452,
                "mft": 54.3725,
                "bwt": -2.98,
                "mfn_minus_mft": -2.235,
                "forgetting": 2.98,
            },
        ),
    ],
    ids=["inclora", "seqfull"],
)
def test_the_worked_example_of_the_paper(R, expected):
    got = M.continual_metrics(matrix(R, zero_shot=ZERO_SHOT))
    for name, value in expected.items():
        number = got[name].values if name == "a_k" else got[name].value
        shown = value if name == "a_k" else [value]
        for ours, theirs in zip(number if name == "a_k" else [number], shown, strict=True):
            # To the last digit printed: half a unit of it.
            digits = len(str(theirs).partition(".")[2])
            assert ours == pytest.approx(theirs, abs=0.5 * 10 ** -max(2, digits) + 1e-9), name
        assert got[name].reason is None
    assert sum(ZERO_SHOT) / 4 == pytest.approx(21.33, abs=0.005)
    assert got["fwt"].value is None


def test_each_metric_on_a_matrix_small_enough_to_do_by_hand():
    R = [[80.0, 20.0, 0.0], [90.0, 60.0, 10.0], [50.0, 70.0, 40.0]]
    assert M.a_k(R) == pytest.approx([80, 75, 160 / 3])
    assert M.last(R) == M.mfn(R) == pytest.approx(160 / 3)
    assert M.average(R) == pytest.approx((80 + 75 + 160 / 3) / 3)
    assert M.mft(R) == pytest.approx(60)
    assert M.bwt(R) == pytest.approx((-30 + 10) / 2)
    assert M.mfn_minus_mft(R) == pytest.approx((-30 + 10) / 3)
    # Task 1 peaks after task 2; task 2 is best at the end, which counts as negative forgetting.
    assert M.forgetting(R) == pytest.approx(((90 - 50) + (60 - 70)) / 2)
    assert M.fwt(R, [5.0, 15.0, 12.0]) == pytest.approx(((20 - 15) + (10 - 12)) / 2)


SCORE = st.floats(0, 100)
FULL = st.integers(2, 6).flatmap(lambda T: st.lists(st.lists(SCORE, min_size=T, max_size=T), min_size=T, max_size=T))


@given(FULL)
def test_relations_between_the_metrics(R):
    T = len(R)
    assert M.bwt(R) == pytest.approx((M.mfn(R) - M.mft(R)) * T / (T - 1), abs=1e-9)
    assert M.mfn_minus_mft(R) == pytest.approx(M.bwt(R) * (T - 1) / T, abs=1e-9)
    assert M.forgetting(R) >= -M.bwt(R) - 1e-9
    assert M.a_k(R)[-1] == M.last(R) == M.mfn(R)
    assert min(M.a_k(R)) - 1e-9 <= M.average(R) <= max(M.a_k(R)) + 1e-9
    assert -100 <= M.bwt(R) <= 100
    assert -100 <= M.forgetting(R) <= 100


@given(FULL)
def test_forgetting_is_minus_bwt_where_every_task_peaks_at_its_own_training(R):
    for j in range(len(R)):
        R[j][j] = 100.0
    assert M.forgetting(R) == pytest.approx(-M.bwt(R), abs=1e-9)


@given(st.lists(SCORE, min_size=2, max_size=6))
def test_a_model_that_never_changes_neither_forgets_nor_transfers(row):
    R = [list(row) for _ in row]
    assert M.bwt(R) == M.forgetting(R) == M.mfn_minus_mft(R) == M.fwt(R, row) == 0


@given(FULL, SCORE)
def test_cells_above_the_diagonal_matter_to_fwt_only(R, other):
    changed = [[value if j <= i else other for j, value in enumerate(row)] for i, row in enumerate(R)]
    for metric in (M.last, M.average, M.a_k, M.mft, M.bwt, M.forgetting):
        assert metric(R) == metric(changed)
    assert M.fwt(changed, [other] * len(R)) == pytest.approx(0)


@given(FULL, st.floats(0, 50))
def test_a_constant_added_to_all_scores_moves_means_and_leaves_differences(R, shift):
    moved = [[value / 2 + shift for value in row] for row in R]
    halved = [[value / 2 for value in row] for row in R]
    for metric in (M.bwt, M.forgetting, M.mfn_minus_mft):
        assert metric(moved) == pytest.approx(metric(halved), abs=1e-9)
    for metric in (M.last, M.average, M.mft):
        assert metric(moved) == pytest.approx(metric(halved) + shift, abs=1e-9)


@given(FULL, st.randoms(use_true_random=False))
def test_a_value_is_missing_exactly_when_a_reason_is_given(R, rng):
    holes = [[None if rng.random() < 0.2 else value for value in row] for row in R]
    zero_shot = [None if rng.random() < 0.2 else 1.0 for _ in R]
    tasks = [f"t{j}" for j in range(len(R))]
    full = M.continual_metrics(matrix(R, tasks, zero_shot=[1.0] * len(R)))
    got = M.continual_metrics(matrix(holes, tasks, zero_shot=zero_shot))
    for name, metric in got.items():
        numbers = [metric.value] if metric.values is None else metric.values
        assert (None in numbers) == (metric.reason is not None), name
        # What is given does not depend on what is missing elsewhere.
        whole = [full[name].value] if metric.values is None else full[name].values
        assert all(a is None or a == b for a, b in zip(numbers, whole, strict=True))


def test_a_missing_cell_is_named_and_spoils_only_what_needs_it():
    R = [list(row) for row in INCLORA]
    R[2][0] = None
    got = M.continual_metrics(matrix(R))
    reason = "needs R[after cell][path]"
    assert got["a_k"].values == (68.85, pytest.approx(58.63), None, pytest.approx(48.60))
    assert {name for name, metric in got.items() if metric.reason == reason} == {"average", "a_k", "forgetting"}
    assert got["last"].value == pytest.approx(48.60)
    assert got["bwt"].value == pytest.approx(-10.1133, abs=1e-4)
    assert got["fwt"].reason.startswith("needs R[zero_shot][sur], R[zero_shot][cell]")
    assert "R[after path][sur]" in got["fwt"].reason


def test_a_site_that_cannot_see_old_test_sets_gets_what_its_diagonal_allows():
    R = [[INCLORA[i][j] if i == j else None for j in range(4)] for i in range(4)]
    got = M.continual_metrics(matrix(R))
    assert [name for name, metric in got.items() if metric.value is not None] == ["mft"]
    assert got["last"].reason == "needs R[after rad][path], R[after rad][sur], R[after rad][cell]"
    assert got["bwt"].reason == got["last"].reason


def test_an_unfinished_stream_and_a_run_of_one_task():
    unfinished = M.continual_metrics(matrix(INCLORA[:2]))
    assert unfinished["a_k"].values == (68.85, pytest.approx(58.63), None, None)
    assert unfinished["last"].reason.startswith("needs R[after rad][path]")
    only = M.continual_metrics(matrix([INCLORA[1]], rows=["after_sur"]))
    assert only["a_k"].values == (None, pytest.approx(58.63), None, None)
    assert only["mft"].reason == "needs R[after path][path], R[after cell][cell], R[after rad][rad]"


def test_one_task_has_no_transfer_and_no_forgetting():
    got = M.continual_metrics(matrix([[70.0]], ["path"], zero_shot=[10.0]))
    for name in ("bwt", "forgetting", "fwt"):
        assert got[name].value is None
        assert got[name].reason == "defined for 2 tasks or more"
    assert got["last"].value == got["average"].value == got["mft"].value == 70.0
    assert got["mfn_minus_mft"].value == 0.0
    assert M.bwt([[70.0]]) is M.forgetting([[70.0]]) is M.fwt([[70.0]], [1.0]) is None


def test_a_joint_model_has_final_means_only():
    got = M.continual_metrics(matrix([[10.0, 20.0, 30.0, 40.0]], method="multitask", rows=["joint"]))
    assert got["last"].value == got["mfn"].value == 25.0
    for name in set(M.NAMES) - {"last", "mfn"}:
        assert got[name].value is None
        assert "joint" in got[name].reason
    partly = M.continual_metrics(matrix([[10.0, None, 30.0, 40.0]], rows=["joint"]))
    assert partly["last"].reason == "needs R[joint][sur]"
    assert M.continual_metrics(matrix([], rows=["joint"]))["last"].value is None


@pytest.mark.parametrize("seen", ["diagonal", "all"])
def test_independent_models_have_no_sequence(seen):
    R = [[50.0 if seen == "all" or i == j else None for j in range(4)] for i in range(4)]
    got = M.continual_metrics(matrix(R, method="alone", independent=True))
    assert got["mft"].value == 50.0
    for name in set(M.NAMES) - {"mft"}:
        assert got[name].value is None
        assert "(alone)" in got[name].reason
    assert got["a_k"].values == (None,) * 4


@pytest.mark.parametrize("R", [[], [[]], [[1.0, 2.0], [1.0]], [[1.0], [2.0]]])
def test_shapes_that_are_no_accuracy_matrix_are_refused(R):
    with pytest.raises(DataError, match="one column per task"):
        M.last(R)


def test_the_file_format():
    data = json.loads(M.metrics_to_json(M.continual_metrics(matrix(INCLORA, zero_shot=ZERO_SHOT))))
    assert data["format"] == 2
    assert list(data["metrics"]) == list(M.NAMES)
    for name, entry in data["metrics"].items():
        assert list(entry) == ["values" if name == "a_k" else "value", "reason", "divisor", "formula"]
    assert data["metrics"]["bwt"]["divisor"] == "T-1"
    assert data["metrics"]["mfn_minus_mft"]["divisor"] == "T"
    assert data["metrics"]["a_k"]["values"][0] == 68.85
