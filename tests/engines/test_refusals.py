"""What is not tested with an engine is refused before anything loads; these need no engine."""

from __future__ import annotations

import json

import pytest
import tiny


def refused(model, data, out, method, **more):
    from cl_plugins.base.errors import RecipeError

    try:
        tiny.checked(tiny.recipe(model, data, out, method, **more))
    except RecipeError as error:
        return str(error)
    return ""


@pytest.fixture
def zero(tmp_path):
    def write(stage, **more):
        path = tmp_path / f"zero{stage}.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": stage, **more}}))
        return str(path)

    return write


def test_tested_stages_pass(llava, data, tmp_path, zero):
    for method, stage in (("seqfull", 2), ("seqfull", 3), ("inclora", 2), ("inclora", 3), ("seqlora", 2), ("lwf", 2)):
        more = {"deepspeed": zero(stage), "use_cpu": False}
        assert refused(llava, data, tmp_path / "run", method, **more) == "", (method, stage)


@pytest.mark.parametrize("part", ["offload_optimizer", "offload_param"])
def test_offload(llava, data, tmp_path, zero, part):
    """To the CPU, or switched off; weights only where they are split."""

    def said(stage, device):
        deepspeed = zero(stage, **{part: {"device": device}})
        return refused(llava, data, tmp_path / "run", "seqfull", deepspeed=deepspeed, use_cpu=False)

    assert said(3, "cpu") == said(3, "none") == said(2, "none") == ""
    assert "'nvme', which is not tested" in said(3, "nvme")
    assert ("with ZeRO-2, which does not split them" in said(2, "cpu")) == (part == "offload_param")


@pytest.mark.parametrize("method", ["seqlora", "single_task", "multitask", "lwf"])
def test_a_stage_that_a_method_does_not_declare(llava, data, tmp_path, zero, method):
    message = refused(llava, data, tmp_path / "run", method, deepspeed=zero(3), use_cpu=False)
    assert f"'{method}' is not tested with DeepSpeed ZeRO-3" in message


@pytest.mark.parametrize("stage", [0, 1])
def test_stages_that_no_method_declares(llava, data, tmp_path, zero, stage):
    assert "deepspeed" in refused(llava, data, tmp_path / "run", "inclora", deepspeed=zero(stage), use_cpu=False)


def test_a_configuration_that_cannot_be_read(llava, data, tmp_path):
    message = refused(llava, data, tmp_path / "run", "inclora", deepspeed=str(tmp_path / "none.json"), use_cpu=False)
    assert "cannot be read" in message


def test_a_quantised_base_under_deepspeed(llava, data, tmp_path, zero):
    message = refused(llava, data, tmp_path / "run", "inclora", deepspeed=zero(3), quantization_bit=4, use_cpu=False)
    assert "quantised with bnb" in message


def test_zero_3_with_use_cpu(llava, data, tmp_path, zero):
    assert "DS_ACCELERATOR" in refused(llava, data, tmp_path / "run", "inclora", deepspeed=zero(3))


def test_merging_into_split_tensors(llava, data, tmp_path, zero):
    method = {"name": "inclora", "consolidate": "merge"}
    assert "ZeRO-3 has split" in refused(llava, data, tmp_path / "run", method, deepspeed=zero(3), use_cpu=False)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "mslora_cr", "inference": "all"},
        {"name": "mslora_cr"},
        {"name": "olora"},
        {"name": "ewc"},
        {"name": "sefe"},
    ],
)
def test_penalties_under_deepspeed(llava, data, tmp_path, zero, method):
    """Gradients are split over the ranks, and a term that is added to a whole gradient would be lost."""
    more = {"deepspeed": zero(2), "use_cpu": False}
    assert f"'{method['name']}' cannot add its penalties" in refused(llava, data, tmp_path / "run", method, **more)
    assert refused(llava, data, tmp_path / "run", method) == ""


@pytest.mark.parametrize(("bits", "name"), [(4, ""), (8, "bnb-8bit")])
def test_four_bits_are_tested_and_eight_are_not(llava, data, tmp_path, bits, name):
    message = refused(llava, data, tmp_path / "run", "inclora", quantization_bit=bits)
    assert (name in message) if name else message == ""


def test_a_base_whose_own_config_says_eight_bits(llava, data, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    config = json.loads((llava / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    assert "bnb-8bit" in refused(folder, data, tmp_path / "run", "inclora")


class TestShare:
    """Which batches a rank answers."""

    def shares(self, batches, world_size, equal, alike=True):
        from cl_plugins.run.evaluate import share

        return [share(range(batches), rank, world_size, equal=equal, alike=alike) for rank in range(world_size)]

    def test_all_batches_once(self):
        assert self.shares(5, 2, equal=False) == [[0, 2, 4], [1, 3]]
        assert self.shares(1, 2, equal=False) == [[0], []]

    def test_equal_numbers_where_all_ranks_must_call_the_model_together(self):
        assert self.shares(5, 2, equal=True) == [[0, 2, 4], [1, 3, 3]]

    def test_everyone_answers_all_where_calls_would_differ(self):
        assert self.shares(4, 2, equal=True, alike=False) == [[0, 1, 2, 3]] * 2
        assert self.shares(1, 2, equal=True) == [[0], [0]]


@pytest.mark.parametrize("content", ["[]", "{", '{"zero_optimization": []}', '{"zero_optimization": {"stage": "x"}}',
                                     '{"zero_optimization": {"stage": 2, "offload_param": "cpu"}}'])  # fmt: skip
def test_any_file_may_be_named_as_configuration(content, tmp_path):
    from cl_plugins.host.facts import offloads, zero_stage

    (tmp_path / "zero.json").write_text(content)
    assert zero_stage(str(tmp_path / "zero.json")) == (2 if '"stage": 2' in content else 0)
    assert offloads(str(tmp_path / "zero.json")) == {}


@pytest.mark.parametrize("content", ["[]", '{"quantization_config": null}', '{"quantization_config": [1]}', "3"])
def test_any_content_of_a_bases_config(content, tmp_path):
    from cl_plugins.host.facts import base_quantisation

    (tmp_path / "config.json").write_text(content)
    assert base_quantisation({}, str(tmp_path)) is None
    assert base_quantisation({"quantization_bit": "x"}, str(tmp_path)) == "bnb"
