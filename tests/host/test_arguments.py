"""The `cl` field and the refusals, through the host's own `get_train_args` and `get_infer_args`."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import sys

import pytest

from cl_plugins.base.errors import RecipeError
from cl_plugins.host import activation, arguments


@pytest.fixture(scope="module")
def parser():
    from llamafactory.hparams import parser

    activation.activate()
    return parser


def _refused(parser, raw) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        parser.get_train_args(raw)
    return {problem.where: f"{problem.what} {problem.fix}" for problem in caught.value.problems}


def test_cl_is_accepted_and_the_recipe_is_kept(parser, recipe):
    before = copy.deepcopy(recipe)
    _, data_args, training_args, _, _ = parser.get_train_args(recipe)
    assert recipe == before
    assert data_args.cl == before["cl"]
    kept = data_args.cl_recipe
    assert {**kept.host_keys, "cl": before["cl"]} == before
    assert data_args.dataset == ["path_a", "path_b"]
    assert training_args.learning_rate == 1e-4
    data_args.cl["method"]["name"] = "changed"
    assert kept.config.method == "seqlora"
    assert recipe == before


def test_the_block_is_parsed_once(parser, recipe, monkeypatch):
    from cl_plugins.run import check

    calls, parse = [], check.parse_cl
    monkeypatch.setattr(check, "parse_cl", lambda *args, **kwargs: calls.append(args) or parse(*args, **kwargs))
    parser.get_train_args(recipe)
    assert len(calls) == 1


def test_one_rank_looks_at_the_data_for_all(parser, recipe, monkeypatch):
    recipe["dataset_dir"] = "/nowhere"
    assert list(_refused(parser, recipe)) == ["dataset_dir"]
    monkeypatch.setenv("RANK", "1")
    assert parser._parse_train_args(recipe)[1].cl_recipe.config.method == "seqlora"


def test_the_class_behaves_like_the_hosts(parser, recipe):
    _, data_args, *_ = parser.get_train_args(recipe)
    cls = type(data_args)
    assert isinstance(data_args, parser.DataArguments)
    assert [f.name for f in dataclasses.fields(cls)][:-1] == [f.name for f in dataclasses.fields(parser.DataArguments)]
    assert cls in parser._TRAIN_ARGS
    assert cls in parser._INFER_ARGS
    assert cls is arguments.ContinualDataArguments
    copied = pickle.loads(pickle.dumps(data_args))
    assert copied == data_args
    assert copied.cl_recipe == data_args.cl_recipe
    as_dict = data_args.to_dict()
    assert as_dict["cl"] == recipe["cl"]
    assert "cl_recipe" not in as_dict
    assert repr(data_args).startswith("ContinualDataArguments(template='llama3'")
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        arguments.Nothing  # noqa: B018


def test_the_help_text_shows_the_key(parser, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.get_train_args(["-h"])
    assert caught.value.code == 0
    assert "--cl CL" in capsys.readouterr().out


def test_containers_of_omegaconf_arrive_as_plain_ones(parser, recipe):
    from omegaconf import OmegaConf

    wrapped = {**recipe, "cl": OmegaConf.create(recipe["cl"])}
    _, data_args, *_ = parser.get_train_args(wrapped)
    assert data_args.cl == recipe["cl"]
    tasks = data_args.cl["stream"]["tasks"]
    assert type(tasks) is list
    assert type(tasks[0]) is dict
    assert type(tasks[0]["train"]) is list
    assert type(data_args.cl_recipe.config.block.stream["tasks"]) is list


def test_dotted_overrides_of_the_shell(parser, recipe, tmp_path, monkeypatch):
    from omegaconf import OmegaConf

    path = tmp_path / "recipe.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(recipe)))
    words = ["cl.method.name=inclora", "cl.eval.max_new_tokens=8", "cl.task_overrides.rad.max_steps=7", "lora_rank=4"]
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(path), *words])
    _, data_args, _, finetuning_args, _ = parser.get_train_args()
    config = data_args.cl_recipe.config
    assert config.method == "inclora"
    assert config.eval.max_new_tokens == 8
    assert config.block.task_overrides == {"rad": {"max_steps": 7}}
    assert finetuning_args.lora_rank == data_args.cl_recipe.host_keys["lora_rank"] == 4


def test_without_cl_the_hosts_own_class_and_values_come_back(parser, plain_recipe):
    from transformers import HfArgumentParser

    parsed = parser.get_train_args(plain_recipe)
    assert type(parsed[1]) is parser.DataArguments
    (expected,) = HfArgumentParser([parser.DataArguments]).parse_dict(plain_recipe, allow_extra_keys=True)
    expected.packing = False  # as the host's own post-processing sets it
    assert vars(parsed[1]) == vars(expected)
    assert list(vars(parsed[1])) == list(vars(expected))
    infer = {key: plain_recipe[key] for key in ("model_name_or_path", "template")}
    assert type(parser.get_infer_args(infer)[1]) is parser.DataArguments
    words = [f"--{key}={plain_recipe[key]}" for key in ("model_name_or_path", "template", "output_dir", "use_cpu")]
    assert type(parser.get_train_args([*words, "--run_name", "cl=1"])[1]) is parser.DataArguments


def test_without_cl_the_hosts_own_errors_come(parser, plain_recipe):
    with pytest.raises(ValueError, match=r"^Some keys are not used by the HfArgumentParser: \['cls'\]$"):
        parser.get_train_args({**plain_recipe, "cls": 1})
    with pytest.raises(ValueError, match=r"^Please specify dataset for training\.$"):
        parser.get_train_args({**plain_recipe, "dataset": None})


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"stage": "pt"}, "stage"),
        ({"stage": "dpo"}, "stage"),
        ({"do_train": False}, "do_train"),
        ({"use_mca": True}, "use_mca"),
        ({"use_hyper_parallel": True}, "use_hyper_parallel"),
        ({"dataset": "alpaca"}, "dataset"),
        ({"val_size": 0.1}, "val_size"),
        ({"use_dora": True}, "use_dora"),
        ({"cl": None}, "cl"),
        ({"cl": "medical_cl"}, "cl"),
        ({"cl": True}, "cl"),
        ({"cl.method.name": "inclora"}, "cl.method.name"),
    ],
)
def test_a_recipe_that_cl_cannot_carry_out_is_refused(parser, recipe, change, where):
    assert list(_refused(parser, {**recipe, **change})) == [where]


def test_everything_that_is_wrong_is_reported_at_once(parser, recipe):
    recipe["cl"]["method"]["name"] = "seqlra"
    recipe["cl"]["evl"] = {}
    recipe["cl"]["task_overrides"] = {"rad": {"seed": 3, "max_stepz": 1}}
    recipe["cl"]["stream"]["tasks"][1]["overrides"] = {"template": "qwen"}
    found = _refused(parser, {**recipe, "stage": "pt", "tokenized_path": "x", "learn_rate": 1})
    assert {
        "stage",
        "tokenized_path",
        "learn_rate",
        "cl.method.name",
        "cl.evl",
        "cl.task_overrides.rad.seed",
        "cl.task_overrides.rad.max_stepz",
    } <= set(found)
    assert "seqlora" in found["cl.method.name"]


def test_overrides_in_the_stream_are_checked_too(parser, recipe):
    recipe["cl"]["stream"]["tasks"][1]["overrides"] = {"template": "qwen"}
    assert list(_refused(parser, recipe)) == ["cl.stream.tasks.rad.template"]


def test_an_optimizer_that_no_test_has_run_is_refused_also_with_full_fine_tuning(parser, recipe):
    recipe["cl"]["method"] = {"name": "seqfull"}
    assert list(_refused(parser, {**recipe, "finetuning_type": "full", "use_galore": True})) == ["use_galore"]


def test_megatron_by_environment_is_refused(parser, recipe, monkeypatch):
    monkeypatch.setenv("USE_MCA", "1")
    assert list(_refused(parser, recipe)) == ["USE_MCA"]
    monkeypatch.delenv("USE_MCA")
    with pytest.raises(RecipeError, match="Megatron"):
        parser._parse_train_mca_args(recipe)


@pytest.mark.parametrize(
    "words",
    [
        ["--stage", "sft", "--cl", "{}"],
        ["--cl={method: x}"],
        ["--cl.method.name=seqlora"],
        ["cl.method.name=seqlora", "--stage", "sft"],
        ["--stage=sft", "cl=x"],
    ],
)
def test_cl_on_a_command_line_without_a_yaml_says_where_it_belongs(parser, words):
    assert "recipe.yaml" in _refused(parser, words)["cl"]


def test_cl_is_refused_where_nothing_is_trained(parser, recipe):
    with pytest.raises(RecipeError) as caught:
        parser.get_infer_args({**recipe, "output_dir": "saves/run1"})
    assert "saves/run1/final" in str(caught.value).replace("\\", "/")
    assert "model_name_or_path" in str(caught.value)
    with pytest.raises(RecipeError, match="finished model"):
        parser._parse_eval_args(recipe)


def test_extra_keys_do_not_let_a_refusal_slip(parser, recipe, monkeypatch):
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "1")
    assert list(_refused(parser, {**recipe, "stage": "pt"})) == ["stage"]
    with pytest.raises(RecipeError):
        parser.get_infer_args(recipe)


def test_a_recipe_in_json_is_read_also_where_the_host_fails_to(parser, recipe, tmp_path, monkeypatch):
    from llamafactory.train import tuner

    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(path), "cl.method.name=inclora", "max_steps=7"])
    _, data_args, training_args, _, _ = parser.get_train_args()
    assert data_args.cl_recipe.config.method == "inclora"
    assert training_args.max_steps == 7
    assert tuner.read_args is parser.read_args
    plain = {key: value for key, value in recipe.items() if key != "cl"}
    path.write_text(json.dumps({**plain, "dataset": "x"}))
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(path)])
    assert parser.get_train_args()[1].dataset == ["x"]
    path.write_text("{")
    with pytest.raises(RecipeError, match="no recipe in JSON"):
        parser.get_train_args()
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", str(tmp_path / "nowhere.json")])
    with pytest.raises(RecipeError, match="nowhere"):
        parser.get_train_args()
