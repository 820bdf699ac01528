"""Recipes with `encoders:` under torchrun: two gloo ranks do the same work as one process, and share it."""

from __future__ import annotations

import json
import sys

import encoder_runs
import pytest
import yaml
from launch import environment, execute, free_port
from running import difference
from safetensors.torch import load_file

from cl_plugins.encoders.launch import run_recipe


REPLAY = {"replay": encoder_runs.REPLAY}
#: Method, block, and whether losses compare the rows of a micro-batch with each other: then these must be the same rows.
METHODS = {
    "crossmodal": ({"name": "crossmodal"}, REPLAY, True),
    "contrastive": ({"name": "crossmodal", "align": "contrastive", "freeze": "samples"}, REPLAY, True),
    "replay": ({"name": "seqfull"}, REPLAY, False),
    "ewc": ({"name": "ewc", "weight": 10.0, "fisher_samples": 6}, {"replay": {}}, False),
    "lwf": ({"name": "lwf"}, {"replay": {}}, False),
    "der": ({"name": "der"}, REPLAY, False),
    "joint": ({"name": "multitask"}, {"replay": {}}, False),
}
FAST = "crossmodal"  # part of `make test`; the others are in `make test-slow`
CASES = [pytest.param(name, id=name, marks=() if name == FAST else pytest.mark.slow) for name in METHODS]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return encoder_runs.build(tmp_path_factory.mktemp("records"), train=16)


def launch(keys, folder, check=True):
    """`cl-plugins run` under torchrun with two processes."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(keys))
    run = ["-m", "cl_plugins.cli", "run", str(path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
    return execute(lambda: [*torchrun, str(free_port()), *run], environment, check=check)


def recipe(data, out, name, batch, accumulate=1, **keys):
    # plain gradient descent: Adam's first step makes a full step of any gradient, also of one that is rounding alone
    plain = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    method, block, _ = METHODS[name]
    layout = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate, "max_steps": 3}
    more = {"save_strategy": "no", "ddp_backend": "gloo", **plain, **layout, **keys}
    return encoder_runs.recipe(data, out, dict(method), cl={"eval": {}, **block}, **more)


@pytest.fixture(scope="module", params=CASES)
def both(request, data, tmp_path_factory, server):
    """The same recipe at the same global batch, in one process and in two; one case as users start it."""
    name, folder = request.param, tmp_path_factory.mktemp(f"two-{request.param}")
    single, double = folder / "single", folder / "double"
    one = recipe(data, single, name, 4, 2) if METHODS[name][2] else recipe(data, single, name, 8)
    del one["ddp_backend"]
    run_recipe(one)
    if name == FAST:
        launch(recipe(data, double, name, 4), folder)
    else:
        server.run_in(2, recipe(data, double, name, 4))
    return name, single, double


def journal(out):
    return [json.loads(line)["step"] for line in (out / "journal.jsonl").read_text().splitlines()]


def test_the_same_steps(both):
    _, single, double = both
    assert journal(single) == journal(double)
    assert journal(double)[-1] == "finish"
    assert len(journal(double)) == len(set(journal(double)))


def test_the_same_weights(both):
    _, single, double = both
    files = sorted(path.relative_to(double) for path in double.glob("tasks/*/update.safetensors"))
    assert len(files) == (1 if both[0] == "joint" else 2)
    for file in files:
        assert difference(load_file(single / file), load_file(double / file)) <= 1e-4


def test_the_same_experts_are_counted_and_frozen(both):
    name, single, double = both
    if name not in ("crossmodal", "contrastive"):
        pytest.skip("this method counts no experts")
    first, second = (load_file(out / "tasks/01_one/usage.safetensors")["assignments"] for out in (single, double))
    assert first.tolist() == second.tolist()
    assert int(first.sum()) == 2 * 2 * 16  # adapters, experts per sample, samples: each was counted by one rank
    frozen = [json.loads((out / "carry/carry.json").read_text())["meta"]["frozen"] for out in (single, double)]
    assert frozen[0] == frozen[1]
    assert any(frozen[0])


def test_the_same_samples_are_kept(both):
    _, single, double = both
    files = [out / "carry/replay/manifest.json" for out in (single, double)]
    assert files[0].exists() == files[1].exists()
    if files[0].exists():
        kept = [[s["uid"] for s in json.loads(file.read_text())["samples"]] for file in files]
        assert kept[0] == kept[1]
        assert len(kept[0]) == 10


def test_every_item_is_answered_once_and_in_order(both):
    _, single, double = both
    files = sorted(path.relative_to(double) for path in double.glob("predictions/*/*.jsonl"))
    assert files == sorted(path.relative_to(single) for path in single.glob("predictions/*/*.jsonl"))
    for file in files:
        a, b = ([json.loads(line) for line in (out / file).read_text().splitlines()] for out in (single, double))
        assert [(x["id"], x["reference"]) for x in a] == [(x["id"], x["reference"]) for x in b]
        assert sum(x["prediction"] != y["prediction"] for x, y in zip(a, b, strict=True)) <= 1  # a tie


@pytest.mark.slow
@pytest.mark.parametrize("both", [FAST], indirect=True)
def test_an_error_of_rank_0_ends_all_ranks(both, data, tmp_path):
    """Only rank 0 looks at the run's files; a changed recipe must not leave the other rank waiting."""
    name, _, double = both
    result = launch(recipe(data, double, name, 4, weight_decay=0.5), tmp_path, check=False)
    assert result.returncode != 0
    assert "weight_decay" in result.stdout
