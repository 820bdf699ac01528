"""SEFE: the protected magnitude and the choice of positions without B A, and what a run carries and does with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regularised import gap, in_layouts, logged, same_files, tensors, text_tasks, train
from safetensors.torch import load_file
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from cl_plugins.methods.sefe import merge_positions, positions, protected_magnitude, top_positions


def factors(out=12, columns=9, rank=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, columns, generator=generator, dtype=torch.float64)
    b = torch.randn(out, rank, generator=generator, dtype=torch.float64)
    return a.to(dtype), b.to(dtype)


PLACES = torch.tensor([0, 5, 17, 18, 44, 45, 61, 107], dtype=torch.int32)
COUNTS = torch.tensor([1, 3, 1, 2, 1, 1, 4, 1], dtype=torch.int32)


def dense(a, b, places, counts=None):
    """With the whole matrix."""
    values = (b @ a).reshape(-1)[places.long()].abs()
    weights = torch.ones_like(values) if counts is None else counts.to(values.dtype)
    return (weights * values).sum() / weights.sum()


# --- the magnitude ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [None, COUNTS], ids=["once", "counted"])
@pytest.mark.parametrize("block", [1, 3 * 9 * 8, 1 << 20], ids=["one row", "three rows", "all rows"])
def test_value_and_gradients_equal_the_whole_matrixs(counts, block):
    a, b = (x.requires_grad_() for x in factors())
    value = protected_magnitude(a, b, PLACES, counts, block_bytes=block)
    expected = dense(a, b, PLACES, counts)
    assert value.item() == pytest.approx(expected.item(), abs=1e-10)
    for got, want in zip(torch.autograd.grad(value, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        assert torch.allclose(got, want, atol=1e-10)


def test_gradcheck_away_from_the_kinks():
    a, b = (x.requires_grad_() for x in factors())
    assert gradcheck(lambda x, y: protected_magnitude(x, y, PLACES, COUNTS, block_bytes=200), (a, b))
    assert gradcheck(lambda x: protected_magnitude(x, b.detach(), PLACES), (a,))
    assert gradcheck(lambda y: protected_magnitude(a.detach(), y, PLACES), (b,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_at_the_kink_the_gradient_is_zero(dtype):
    """A fresh LoRA: B is zero everywhere."""
    a, b = factors(dtype=dtype)
    a, b = a.requires_grad_(), torch.zeros_like(b, requires_grad=True)
    value = protected_magnitude(a, b, PLACES)
    assert value.item() == 0.0
    value.backward()
    assert not a.grad.any()
    assert not b.grad.any()
    assert a.grad.dtype == dtype


def test_some_zero_elements_among_others():
    a, b = factors()
    b[0] = 0
    a, b = a.requires_grad_(), b.requires_grad_()
    protected_magnitude(a, b, PLACES).backward()
    assert torch.isfinite(a.grad).all()
    assert not b.grad[0].any()
    assert b.grad[1].any()


def test_order_and_repetition():
    a, b = factors()
    shuffled = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    expected = protected_magnitude(a, b, PLACES, COUNTS)
    assert torch.equal(protected_magnitude(a, b, PLACES[shuffled], COUNTS[shuffled], block_bytes=1), expected) or (
        float(protected_magnitude(a, b, PLACES[shuffled], COUNTS[shuffled]))
        == pytest.approx(float(expected), abs=1e-12)
    )
    repeated = PLACES.repeat_interleave(COUNTS)
    x, y = (v.clone().requires_grad_() for v in (a, b))
    value = protected_magnitude(x, y, repeated)
    assert value.item() == pytest.approx(float(expected), abs=1e-12)
    value.backward()
    want = torch.autograd.grad(dense(*(p := (a.requires_grad_(), b.requires_grad_())), PLACES, COUNTS), p)
    assert torch.allclose(x.grad, want[0], atol=1e-12)
    assert torch.allclose(y.grad, want[1], atol=1e-12)


def test_no_positions():
    a, b = (x.requires_grad_() for x in factors())
    value = protected_magnitude(a, b, PLACES[:0])
    assert value.item() == 0.0
    value.backward()
    assert not a.grad.any()


def test_half_precision_factors_are_multiplied_in_fp32():
    a, b = factors(dtype=torch.bfloat16)
    value = protected_magnitude(a, b, PLACES)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(dense(a.double(), b.double(), PLACES)), rel=1e-6)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, torch.Tensor):
                self.bytes = max(self.bytes, value.numel() * value.element_size())
        return made


OUT, IN, RANK, BLOCK = 2048, 1024, 4, 64 * 1024  # B A would take 8 MiB


def test_no_tensor_is_larger_than_a_block():
    a, b = factors(OUT, IN, RANK, dtype=torch.float32)
    with Largest() as seen:
        places = top_positions(a, b, 0.002, block_bytes=BLOCK)
    assert places.numel() == int(0.002 * OUT * IN)
    assert seen.bytes <= max(BLOCK, 3 * 8 * places.numel())  # what was found so far and in this block, int64
    a, b = a.requires_grad_(), b.requires_grad_()
    kept = []
    with Largest() as seen, torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        protected_magnitude(a, b, places, block_bytes=BLOCK).backward()
    assert seen.bytes <= BLOCK
    assert sum(t.numel() * t.element_size() for t in kept) <= 4 * (a.numel() + b.numel())
    with Largest() as seen:  # the mode does see B A where it is made
        dense(a, b, places)
    assert seen.bytes == 4 * OUT * IN


# --- the positions ----------------------------------------------------------------------------------------------------


def stable_top(a, b, count):
    values = (b.double() @ a.double()).abs().reshape(-1)
    return torch.sort(torch.sort(values, descending=True, stable=True).indices[:count]).values


@settings(max_examples=60)
@given(
    out=st.integers(1, 12), columns=st.integers(1, 12), rank=st.integers(1, 3), seed=st.integers(0, 99),
    share=st.floats(0, 1), rows=st.integers(1, 13), spread=st.integers(0, 3),
)  # fmt: skip
def test_top_positions_are_exact_with_ties_in_row_order(out, columns, rank, seed, share, rows, spread):
    """Small whole numbers make many equal elements."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(-spread, spread + 1, (rank, columns), generator=generator).float()
    b = torch.randint(-spread, spread + 1, (out, rank), generator=generator).float()
    found = top_positions(a, b, share, block_bytes=rows * columns * 8)
    assert found.dtype == torch.int32
    assert found.tolist() == stable_top(a, b, max(1, int(share * out * columns))).tolist()


def test_top_positions_do_not_depend_on_the_block_size():
    a, b = factors(300, 200, 8, dtype=torch.float32)
    whole = top_positions(a, b)
    assert whole.numel() == int(0.02 * 300 * 200)
    for rows in (1, 7, 299):
        assert torch.equal(top_positions(a, b, block_bytes=rows * 200 * 8), whole)


def test_wide_positions_only_where_they_are_needed(monkeypatch):
    a, b = factors()
    narrow = top_positions(a, b, 0.5)
    monkeypatch.setattr(positions, "INT32_LIMIT", 12 * 9)
    wide = top_positions(a, b, 0.5)
    assert (narrow.dtype, wide.dtype) == (torch.int32, torch.int64)
    assert narrow.tolist() == wide.tolist()
    assert protected_magnitude(a, b, wide).item() == protected_magnitude(a, b, narrow).item()


def test_merged_positions_stand_once_with_their_count():
    merged, counts = merge_positions([torch.tensor(x, dtype=torch.int32) for x in ([1, 4, 9], [0, 4], [4, 9])])
    assert merged.tolist() == [0, 1, 4, 9]
    assert counts.tolist() == [1, 1, 3, 2]
    assert merged.dtype == torch.int32


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return text_tasks(tmp_path_factory.mktemp("sefe") / "data", ("one", "two", "three"))


@pytest.fixture(scope="module")
def run(llama, texts, tmp_path_factory):
    """``run(options, ...)``: a run of two tasks; equal ones are made once."""
    made = {}

    def one(options=None, name="sefe", **more):
        key = repr((options, name, more))
        if key not in made:
            out = tmp_path_factory.mktemp("sefe") / "run"
            made[key] = train(llama, texts, out, {"name": name, **(options or {})}, **more)
        return made[key]

    return one


SOME = {"weight": 200.0, "share": 0.1}


def pairs(values):
    """Module -> A, B of an update."""
    found = {n.removesuffix(".lora_A.weight"): v for n, v in values.items() if n.endswith(".lora_A.weight")}
    return {n.removeprefix("base_model.model."): (a, values[f"{n}.lora_B.weight"]) for n, a in found.items()}


@pytest.mark.parametrize("consolidate", ["merge", "stack"])
def test_weight_0_is_inclora(run, consolidate):
    plain, zero = run({"consolidate": consolidate}, "inclora"), run({"consolidate": consolidate, "weight": 0})
    assert same_files(plain, zero, "tasks/*/update.safetensors")
    assert same_files(plain, zero, "final/model.safetensors")
    assert not list(zero.rglob("*positions*"))


def test_the_first_task_is_incloras_and_the_second_is_not(run):
    plain, out = run(name="inclora"), run(SOME)
    assert same_files(plain, out, "tasks/01_one/update.safetensors")
    assert gap(tensors(out), tensors(plain)) > 1e-3


def expected_term(update, lists, faithful=False):
    """The ten-line reference, with the whole matrices."""
    total = []
    for name, (a, b) in pairs(update).items():
        chosen = torch.cat([places[name].long() for places in lists])
        chosen = chosen if faithful else torch.unique(chosen)
        total.append((b @ a).reshape(-1)[chosen].abs().mean())
    return torch.stack(total).sum() / (224 if faithful else len(total))


@pytest.mark.parametrize("faithful", [False, True], ids=["once", "peer"])
def test_the_step_is_that_of_the_formula(run, faithful):
    """Step 1 starts at B = 0, where the gradient is zero; step 2 takes it where step 1 ended. Two tasks lie behind."""
    options = {**SOME, "weight": 2000.0, **({"faithful": "peer"} if faithful else {})}
    ends = {}
    for steps in (1, 2):
        more = {"tasks": ("one", "two", "three"), "cl": {"task_overrides": {"three": {"max_steps": steps}}}}
        ends[steps] = run(options, **more)
    out = ends[2]
    lists = [tensors(out, task, "positions") for task in ("01_one", "02_two")]
    after_1 = {n: v.clone().requires_grad_() for n, v in tensors(ends[1], "03_three").items()}
    term = 2000.0 * expected_term(after_1, lists, faithful)
    assert logged(out, "sefe", "03_three")[1] == pytest.approx(term.item(), rel=1e-4)
    overlap = [len(set(lists[0][n].tolist()) & set(lists[1][n].tolist())) for n in lists[0]]
    assert sum(overlap) > 0  # so that once and counted differ


def test_the_positions_are_those_of_the_largest_elements(run):
    out = run(SOME)
    for task in ("01_one", "02_two"):
        places = tensors(out, task, "positions")
        modules = pairs(tensors(out, task))
        assert places.keys() == modules.keys()
        for name, (a, b) in modules.items():
            count = int(0.1 * a.shape[1] * b.shape[0])
            assert places[name].tolist() == stable_top(a, b, count).tolist()


def test_the_carry_holds_each_tasks_positions_as_they_were_written(run):
    out = run(SOME, tasks=("one", "two", "three"))
    files = [f"positions/{task}.safetensors" for task in ("01_one", "02_two", "03_three")]
    import json

    record = json.loads((out / "carry" / "carry.json").read_text())
    assert record["meta"]["positions"] == files
    assert set(files) <= set(record["files"])
    for file in files:
        task = file.removeprefix("positions/").removesuffix(".safetensors")
        assert (out / "carry" / file).samefile(out / "tasks" / task / "positions.safetensors")
        assert all(v.dtype == torch.int32 for v in load_file(out / "carry" / file).values())


def test_the_protected_elements_move_less(run):
    def moved(out):
        places = tensors(run(SOME), "01_one", "positions")
        return sum(
            float((b @ a).reshape(-1)[places[n].long()].abs().mean()) for n, (a, b) in pairs(tensors(out)).items()
        )

    assert moved(run({**SOME, "weight": 40.0})) < 0.8 * moved(run({"weight": 0}))


def test_the_batch_layout_does_not_matter(llama, tmp_path):
    (whole, *others), without = in_layouts(llama, tmp_path, {"name": "sefe", **SOME})
    assert max(gap(other, whole) for other in others) < 1e-3
    assert gap(without, whole) > 1e-2


def test_gradient_checkpointing_gives_the_same_run(run):
    assert gap(tensors(run(SOME, disable_gradient_checkpointing=True)), tensors(run(SOME))) < 1e-6


def test_merged_and_stacked_pasts_give_the_same_term(run):
    merged, stacked = run({**SOME, "consolidate": "merge"}), run({**SOME, "consolidate": "stack"})
    assert logged(stacked, "sefe")[1:] == pytest.approx(logged(merged, "sefe")[1:], rel=1e-3)


def test_it_is_logged_and_begins_at_zero(run):
    values = logged(run(SOME), "sefe")
    assert values[0] == 0.0
    assert values[-1] > 0
    assert logged(run(SOME), "sefe", "01_one") == []


def test_a_task_of_one_step_is_no_dead_penalty(run):
    assert (run(SOME, max_steps=1) / "final").is_dir()
