"""Two gloo ranks do the same work as one process, and share it.

One case is started as users do it, with `llamafactory-cli` and torchrun; the ranks of the others are forked.
"""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import tiny
from launch import launch
from method_cases import case_of, in_two_processes
from running import difference, go


TASKS = ("one", "two")
LAUNCHED = case_of("inclora-merge")


def keys(llava, data, out, case, per_device, **more):
    # a test set of 6 items does not divide into equal batches of 4: the ranks' shares differ in nothing but the items
    method, layout = case.given(case.ranks), {"per_device_train_batch_size": per_device}
    return tiny.recipe(llava, data, out, method, TASKS, cl=dict(case.block), **{**case.keys, **layout, **more})


@pytest.fixture(scope="module", params=in_two_processes(term=False))
def both(request, llava, data, tmp_path_factory, server):
    """The same recipe at the same global batch, in one process and in two."""
    case, folder = request.param, tmp_path_factory.mktemp(f"two-{request.param.id}")
    single, double = folder / "single", folder / "double"
    go(keys(llava, data, single, case, 8))
    if case is LAUNCHED:
        launch(keys(llava, data, double, case, 4), folder)
    else:
        server.run_in(2, keys(llava, data, double, case, 4))
    return case, single, double


def steps(out):
    return [json.loads(line)["step"] for line in (out / "journal.jsonl").read_text().splitlines()]


def test_the_same_steps(both):
    _, single, double = both
    assert steps(single) == steps(double)
    assert steps(double)[-1] == "finish"
    assert len(steps(double)) == len(set(steps(double)))


def test_weights_are_those_of_one_process(both):
    """Equal global batch, answers of one token: host-facts say why only these can be compared."""
    from safetensors.torch import load_file

    _, single, double = both
    for task in ("01_one", "02_two"):
        a = load_file(single / "tasks" / task / "update.safetensors")
        b = load_file(double / "tasks" / task / "update.safetensors")
        assert difference(a, b) <= 1e-4


def test_every_item_is_answered_once_and_in_order(both):
    _, single, double = both
    files = sorted(p.relative_to(double) for p in double.glob("predictions/*/*.jsonl"))
    assert files == sorted(p.relative_to(single) for p in single.glob("predictions/*/*.jsonl"))
    assert len(files) == 2 + 1 + 2  # zero-shot, after one, after two
    for file in files:
        a = [json.loads(line) for line in (single / file).read_text().splitlines()]
        b = [json.loads(line) for line in (double / file).read_text().splitlines()]
        assert [x["id"] for x in a] == [x["id"] for x in b]
        assert [(x["prompt"], x["reference"]) for x in a] == [(x["prompt"], x["reference"]) for x in b]
        # the weights differ by rounding, so a tie of the two best tokens may fall the other way, once
        assert sum(x["prediction"] != y["prediction"] for x, y in zip(a, b, strict=True)) <= 1


def test_zero_shot_answers_are_equal(both):
    """Before training nothing has been rounded differently: only the batches differ."""
    _, single, double = both
    for task in TASKS:
        file = f"predictions/zero_shot/{task}.jsonl"
        assert (single / file).read_bytes() == (double / file).read_bytes()


def test_final_opens_and_is_the_last_model(both):
    """As users open it. Of a model that chooses by row the part of a task: between two parts there may be a tie."""
    import torch

    import cl_plugins
    from cl_plugins.adapters.rows import state_of

    _, single, double = both
    ids = torch.randint(10, 60, (2, 24), generator=torch.Generator().manual_seed(1))

    def logits(out):
        model = cl_plugins.load(out)
        state = state_of(model)
        with nullcontext() if state is None else state.telling(TASKS[-1]), torch.no_grad():
            return model(input_ids=ids).logits

    x, y = logits(single), logits(double)
    assert (x - y).abs().max() <= 1e-3 * x.abs().max()


@pytest.mark.parametrize("both", [pytest.param(LAUNCHED, id=LAUNCHED.id)], indirect=True)
def test_an_error_of_rank_0_ends_all_ranks(both, llava, data, tmp_path):
    """Only rank 0 looks at the run's files; a changed recipe must not leave the other rank waiting."""
    case, _, double = both
    result = launch(keys(llava, data, double, case, 4, learning_rate=3e-3), tmp_path, check=False)
    assert result.returncode != 0
    assert "learning_rate" in result.stdout
    assert "rank 0 stopped" in result.stdout


def test_a_rank_answers_only_its_share(tmp_path, monkeypatch):
    """Which items a rank takes, and that the parts are put together by number."""
    from cl_plugins.base import ranks

    taken = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        taken.append(list(range(ranks.rank(), 7, ranks.world_size())))
    assert taken == [[0, 2, 4, 6], [1, 3, 5]]
