"""`plan` says what a run will do and need, and does none of it; `validate` finds what a run would refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from cl_plugins.run import estimate


SAMPLES, ITEMS = 24, 6  # of the data of `tiny`


@pytest.fixture
def plan(cli):
    def go(recipe, *words):
        code, out, err = cli("plan", recipe, "--json", *words)
        return code, json.loads(out) if out else err

    return go


def test_steps_are_those_of_the_run(plan, inclora):
    from cl_plugins.run.journal import Journal

    code, value = plan(inclora.recipe)
    assert code == 0
    assert [step["key"] for step in value["steps"]] == list(Journal(inclora.root).entries)
    assert all(step["finished"] for step in value["steps"])


def test_options_are_shown_as_they_are_understood(plan, fresh, cli):
    recipe = fresh(cl={"method": {"name": "olora", "faithful": "peer", "lambda_1": 0.1}})
    assert plan(recipe)[1]["method_options"] == {"faithful": "port", "lambda_1": 0.1}
    assert "faithful: port, lambda_1: 0.1" in cli("plan", recipe)[1]


def test_a_recipe_without_a_projector_is_not_said_to_carry_one(plan, fresh):
    carried = plan(fresh(additional_target="multi_modal_projector"))[1]["carries"]
    assert carried == "the LoRA of every past task and the latest projector"
    carried = plan(fresh(additional_target=None))[1]["carries"]
    assert carried.endswith("(no projector here: the recipe has no `additional_target`)")


def test_nothing_is_written(plan, fresh, tmp_path):
    recipe = fresh()
    before = sorted(tmp_path.iterdir())
    code, value = plan(recipe)
    assert code == 0
    assert sorted(tmp_path.iterdir()) == before
    assert not any(step["finished"] for step in value["steps"])


def test_arguments_of_each_task(plan, fresh, tmp_path):
    recipe = fresh(cl={"task_overrides": {"two": {"max_steps": 9}}})
    _, value = plan(recipe)
    one, two, _ = value["tasks"]
    assert one["keys"] == {"dataset": "one_train", "output_dir": str(tmp_path / "out" / "tasks" / "01_one")}
    assert two["keys"]["max_steps"] == 9
    assert two["keys"]["seed"] == 1007
    assert two["instead_of"]["max_steps"] == 4
    assert two["instead_of"]["seed"] == 7
    _, value = plan(recipe, "cl.seed_per_task=false")
    assert "seed" not in value["tasks"][1]["keys"]


def test_joint_training_is_one_task(plan, fresh):
    _, value = plan(fresh(cl={"method": {"name": "multitask"}}))
    assert [task["task"] for task in value["tasks"]] == ["joint"]
    assert value["tasks"][0]["keys"]["dataset"] == "one_train,two_train,three_train"


def test_key_table(plan, fresh):
    _, value = plan(fresh())
    kinds = {entry["key"]: entry["kind"] for entry in value["keys"]}
    assert kinds["max_steps"] == "per_task"
    assert kinds["lora_rank"] == "per_run"
    assert "val_size" not in kinds
    _, value = plan(fresh(), "--all-keys")
    kinds = {entry["key"]: entry["kind"] for entry in value["keys"]}
    assert kinds["val_size"] == "refused"
    assert len(kinds) > 300


def test_counts_equal_what_was_trained(plan, inclora):
    _, value = plan(inclora.recipe)
    trained = load_file(inclora.root / "tasks" / "01_one" / "update.safetensors")
    assert value["model"]["trainable"] == sum(tensor.numel() for tensor in trained.values())
    lora = sum(tensor.numel() for name, tensor in trained.items() if ".lora_" in name)
    assert value["model"]["parts"] == {"LoRA": lora, "multi_modal_projector": value["model"]["trainable"] - lora}
    assert value["model"]["image_tokens"] == 4
    assert "q_proj" in value["model"]["targets"]


def test_full_fine_tuning_counts_language_model_and_projector(plan, fresh, llava):
    from transformers import AutoModelForImageTextToText

    keys = {"finetuning_type": "full", "freeze_multi_modal_projector": False}
    recipe = fresh(cl={"method": {"name": "seqfull"}}, additional_target=None, lora_target="all", **keys)
    code, value = plan(recipe)
    assert code == 0, value
    model = AutoModelForImageTextToText.from_pretrained(llava)
    tower = sum(p.numel() for name, p in model.named_parameters() if "vision_tower" in name)
    assert value["model"]["parts"] == {"weights": sum(p.numel() for p in model.parameters()) - tower}


def test_disk_need_holds_what_a_run_left(plan, inclora):
    _, value = plan(inclora.recipe)
    disk, root = value["disk"], inclora.root
    updates = sum(p.stat().st_size for p in root.glob("tasks/*/update.safetensors"))
    assert updates * 0.8 < disk["updates"] < updates * 1.2
    weights = (root / "final" / "model.safetensors").stat().st_size
    assert weights * 0.8 < disk["final"] < weights * 1.2
    assert disk["total"] > estimate.used_space(root)
    assert disk["used"] == estimate.used_space(root)


def test_too_small_a_disk_is_refused(cli, fresh, monkeypatch):
    monkeypatch.setattr(estimate, "free_space", lambda path: 1024)
    code, out, _ = cli("plan", fresh())
    assert code == 2
    assert "The disk is too small for this run." in out


def test_pictures_that_do_not_fit_are_seen(plan, fresh):
    _, value = plan(fresh(), "cutoff_len=4")
    assert any("A picture takes 4 tokens" in warning for warning in value["warnings"])


def test_a_base_that_is_not_here_leaves_the_sizes_out(plan, fresh):
    code, value = plan(fresh(model_name_or_path="someone/not-in-any-cache"))
    assert code == 0
    assert value["model"] is None
    assert value["disk"] is None
    assert "someone/not-in-any-cache" in value["warnings"][0]


def test_lengths_are_counted_from_the_files(plan, fresh):
    _, value = plan(fresh(num_train_epochs=2, max_steps=-1, per_device_train_batch_size=2))
    assert [task["optimizer_steps"] for task in value["tasks"]] == [SAMPLES] * 3
    assert [task["test_items"] for task in value["tasks"]] == [ITEMS] * 3


def test_data_that_are_not_there_yet_are_planned_with_the_streams_sizes(cli, plan, fresh, tmp_path):
    stream = yaml.safe_load(fresh().read_text())["cl"]["stream"]
    for task in stream["tasks"]:
        task |= {"train_size": 1000, "test_size": 70}
    changes = {"dataset_dir": str(tmp_path / "none"), "cl": {"stream": stream}, "max_steps": -1, "num_train_epochs": 2}
    recipe = fresh(**changes, per_device_train_batch_size=4)
    code, value = plan(recipe, "cl.eval.max_items=50")
    assert code == 0
    assert [task["optimizer_steps"] for task in value["tasks"]] == [500] * 3
    assert [task["test_items"] for task in value["tasks"]] == [50] * 3
    assert value["disk"]["fits"]
    assert "The data are not there yet" in value["warnings"][0]
    assert str(tmp_path / "none") in value["warnings"][0]
    out = cli("plan", recipe)[1]
    assert "500 optimizer steps on one device" in out
    assert "one_test (70 items)" in out
    assert cli("validate", recipe)[0] == 2  # a run needs them


def test_what_is_wrong_with_data_that_are_there_stays_an_error(plan, fresh, tmp_path):
    """A file that is missing may come; a name that dataset_info.json lacks is a mistake."""
    folder = tmp_path / "half"
    folder.mkdir()
    source = Path(yaml.safe_load(fresh().read_text())["dataset_dir"])
    info = json.loads((source / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info))
    recipe = fresh(dataset_dir=str(folder))
    code, value = plan(recipe)
    assert code == 0
    assert "5 more are missing." in value["warnings"][0]
    assert value["tasks"][0]["test_items"] is None
    del info["one_test"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    code, err = plan(recipe)
    assert code == 2
    assert "there is no data set called 'one_test'" in err
    assert "does not exist" not in err


def test_text_is_readable(cli, fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli(
        "plan", fresh(output_dir="out", model_name_or_path="base", dataset_dir=_relative(fresh)), "--all-keys"
    )
    assert code == 0
    for word in ("inclora on tiny, seed 7", "evaluate after three", "Keys per task", "Keys refused", "Task two"):
        assert word in out
    assert not [
        line for line in out.splitlines() if len(line) > 80 and str(tmp_path.parent) not in line and "/" not in line
    ]


def _relative(fresh):
    import os

    import yaml

    return os.path.relpath(yaml.safe_load(fresh("other").read_text())["dataset_dir"])


# --- validate


def test_good_recipes(cli, inclora, seqlora):
    code, out, _ = cli("validate", inclora.recipe, seqlora.recipe)
    assert code == 0
    assert out.splitlines() == [f"ok  {inclora.recipe}", f"ok  {seqlora.recipe}", "2 of 2 recipes are valid"]


def test_every_problem_of_every_file(cli, fresh, inclora):
    bad = fresh("bad", cl={"task_overrides": {"two": {"lora_rnk": 3}, "four": {}}}, val_size=0.1)
    code, out, _ = cli("validate", inclora.recipe, bad, "gone.yaml")
    assert code == 2
    assert f"ok  {inclora.recipe}" in out
    assert "cl.task_overrides.four" in out
    assert "val_size" in out
    assert "gone.yaml" in out
    assert "1 of 3 recipes are valid" in out


def test_misspelt_host_keys_of_a_task(cli, fresh):
    code, out, _ = cli("validate", fresh(cl={"task_overrides": {"two": {"learning_rte": 3}}}))
    assert code == 2
    assert "Did you mean 'learning_rate'?" in out


def test_missing_data_is_found(cli, fresh):
    code, out, _ = cli("validate", fresh(dataset_dir="nowhere"))
    assert code == 2
    assert "nowhere/dataset_info.json" in out


def test_what_only_the_host_refuses(cli, fresh):
    code, out, _ = cli("validate", fresh(quantization_bit=4, quantization_device_map="auto"))
    assert code == 2
    assert "LLaMA-Factory says: Cannot use device map" in " ".join(out.split())


def test_words_apply_to_all_files(cli, inclora, seqlora):
    code, out, _ = cli("validate", inclora.recipe, seqlora.recipe, "cl.keep=lst")
    assert code == 2
    assert out.count("Did you mean 'last'?") == 2


def test_validate_json(cli, inclora, tmp_path):
    code, out, _ = cli("validate", inclora.recipe, tmp_path / "gone.yaml", "--json")
    value = json.loads(out)
    assert code == 2
    assert value[str(inclora.recipe)] == {"problems": [], "notes": []}
    assert value[str(tmp_path / "gone.yaml")]["problems"][0]["what"] == "does not exist."


# --- the arithmetic


def need(**more):
    from cl_plugins.contract.capabilities import Capabilities
    from cl_plugins.contract.host import ModelSizes

    model = ModelSizes(1000, 100, {"LoRA": 100}, (), more.pop("dtype", "float32"), None, "llava")
    options = {"quantised": False, "zero_stage": 0, **more}
    chain = options.pop("low_rank", True)
    able = Capabilities(low_rank=chain, grows=options.pop("grows", chain))
    keys = {"save_strategy": "no", **options.pop("keys", {})}
    return estimate.disk_need(model, keys, able, options.pop("tasks", 4), options.pop("keep", "all"), **options)


def test_disk_arithmetic():
    whole = need()
    assert (whole.updates, whole.checkpoints, whole.final) == (4 * 400, 400 + 800, 4000)
    assert need(keep="none").updates == 4 * 400, "a chain of low-rank updates lives in the carry"
    assert need(grows=False, keep="none").updates == 2 * 400, (
        "one LoRA: the old carry stays until the new one is there"
    )
    half = need(keys={"bf16": True}, tasks=8)
    assert half.final == 8 * 400, "half-precision bases leave one adapter of the summed rank"
    assert need(dtype="bfloat16").final == 4 * 400
    full = need(low_rank=False, keep="last", keys={"bf16": True})
    assert (full.updates, full.checkpoints, full.final) == (2 * 400, (2000 + 200) + 800, 2200)
    assert need(low_rank=False, keep="all").updates == 4 * 400
    assert need(earlier=3, tasks=1).updates == 4 * 400


def test_disk_arithmetic_with_deepspeed():
    """As in checkpoints of a tiny model: 12 bytes in the optimizer; ZeRO-2 keeps the model twice, ZeRO-3 the frozen part."""
    split = {"low_rank": False, "keep": "last", "keys": {"bf16": True}}
    two, three = need(zero_stage=2, **split), need(zero_stage=3, **split)
    assert (two.updates, two.checkpoints, two.final) == (2 * 200, 2000 + 2000 + 1200, 2000)
    assert (three.updates, three.checkpoints, three.final) == (2 * 200, 2000 + 1800 + 1200, 2000)
    assert need(zero_stage=2, low_rank=False, keep="last").checkpoints == 4000 + 4000 + 1200
    assert need(zero_stage=2, keys={"bf16": True}).checkpoints == 200 + 200 + 1200


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ({"save_strategy": "steps", "save_steps": 10, "max_steps": 45}, 5),
        ({"save_strategy": "steps", "save_steps": 10, "max_steps": 45, "save_total_limit": 2}, 3),
        ({"save_strategy": "epoch"}, 1),
        ({"save_strategy": "no"}, 1),
    ],
)
def test_checkpoints_side_by_side(keys, count):
    assert need(keys=keys).checkpoints == count * 1200


def test_free_space_of_a_directory_to_be(tmp_path):
    assert abs(estimate.free_space(tmp_path / "a" / "b") - estimate.free_space(tmp_path)) < 2**30
    assert estimate.used_space(tmp_path / "a") == 0
    assert estimate.free_space(Path("relative/that/is/not/there")) > 0


def test_what_is_trained_is_counted_by_the_method_itself(cli, llava, data, tmp_path, monkeypatch):
    """The routers of a routed method are counted: they come from its own `begin_task`, on a model without weights."""
    import importlib
    import sys
    from pathlib import Path

    import tiny
    import yaml

    from cl_plugins.methods.registry import METHODS

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "third_party_methods"))
    importlib.invalidate_caches()
    METHODS.refresh()
    keys = tiny.recipe(llava, data, tmp_path / "run", {"name": "lab_moe", "experts": 3, "rank": 2})
    keys["additional_target"] = "multi_modal_projector"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(keys))
    code, out, _ = cli("plan", tmp_path / "recipe.yaml", "--json")
    shown = json.loads(out)
    assert shown["model"] is not None, shown["warnings"]
    parts = shown["model"]["parts"]
    for name in [n for n in sys.modules if n.startswith("lab_methods")]:
        del sys.modules[name]
    monkeypatch.undo()
    METHODS.refresh()
    assert code == 0
    hidden, wide, layers, factors = 48, 96, 2, 3 * 2
    each = 4 * (2 * hidden * factors + 3 * hidden) + 2 * ((hidden + wide) * factors + 3 * hidden)
    down = (hidden + wide) * factors + 3 * wide
    assert parts["the method's own"] == layers * (each + down)
    assert parts["weights"] == (32 + 1) * 48 + (48 + 1) * 48
