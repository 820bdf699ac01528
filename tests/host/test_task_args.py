"""Arguments for other data than those of the training: what the host makes of its keys, it makes once."""

from __future__ import annotations

import pytest
from llamafactory.hparams import get_train_args

from cl_plugins.host.task_args import for_data, parse, task_keys


PACKED = {"packing": True, "cutoff_len": 96}


@pytest.fixture
def keys(plain_recipe, tmp_path):
    def make(overrides=None, **changes):
        return task_keys(
            {**plain_recipe, **changes}, datasets=["a", "b"], output_dir=tmp_path, seed=1, overrides=overrides
        )

    return make


@pytest.mark.parametrize(
    ("given", "own"),
    [
        (PACKED, {}),
        ({"neat_packing": True, "cutoff_len": 96}, {}),
        (PACKED, {"packing": False}),
        (PACKED, {"packing": None}),
        (PACKED, {"cutoff_len": 64}),
        (PACKED, {"cutoff_len": None}),
        ({"cutoff_len": 96}, {"packing": True}),
        ({"media_dir": "pictures"}, {"dataset_dir": "elsewhere"}),
        ({"dataset_dir": "here", "media_dir": "here"}, {"dataset_dir": "elsewhere"}),
        ({}, {"dataset_dir": "elsewhere"}),
        ({"media_dir": "pictures"}, {"media_dir": None}),
        ({"mask_history": True}, {"mask_history": None, "train_on_prompt": True}),
    ],
)
def test_other_data_have_the_arguments_that_their_keys_give(given, own, keys):
    found = for_data(parse(keys(**given)), own, ["a", "b"]).data
    written = {key: value for key, value in own.items() if value is not None}
    dropped = [key for key, value in own.items() if value is None]
    expected = get_train_args({k: v for k, v in keys(written, **given).items() if k not in dropped})[1]
    expected.packing, found.packing = bool(expected.packing), bool(found.packing)
    assert vars(found) == vars(expected)


def test_a_second_change_begins_with_the_first(keys):
    once = for_data(parse(keys(**PACKED)), {"cutoff_len": 64}, ["b"])
    assert for_data(once, {}).data.cutoff_len == 63
    assert for_data(once, {}, ["a"]).data.dataset == ["a"]


def test_the_recipe_keeps_its_mappings(keys):
    given = keys(
        accelerator_config={"split_batches": False, "gradient_accumulation_kwargs": {"sync_each_batch": True}}
    )
    before = repr(given)
    parse(given)
    assert repr(given) == before
