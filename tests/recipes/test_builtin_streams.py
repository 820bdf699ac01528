"""The streams that ship with the package."""

from __future__ import annotations

import pytest
import yaml

from cl_plugins.errors import RecipeError
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.host.keys import check_overrides
from cl_plugins.streams import load_stream
from cl_plugins.streams.loader import builtin_streams


NAMES = sorted(builtin_streams())
PUBLISHED = {
    "medical_cl": (("path", "contains"), ("sur", "choice_accuracy"), ("cell", "choice_accuracy"), ("rad", "bleu")),
    "mllm_cl": (
        ("rs", "contains"),
        ("med", "contains"),
        ("ad", "contains"),
        ("sci", "exact_match"),
        ("fin", "exact_match"),
    ),
}


def test_the_streams_of_the_papers_are_there() -> None:
    assert set(PUBLISHED) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_loads_under_its_file_name_and_its_scorers_exist(name: str) -> None:
    stream = load_stream(name)
    assert stream.name == name
    for task in stream.tasks:
        assert task.train, f"{task.name} has no training set"
        assert task.test, f"{task.name} has no test set"
        assert get_scorer(task.scorer).name == task.scorer


@pytest.mark.parametrize("name", NAMES)
def test_no_data_set_serves_two_purposes(name: str) -> None:
    sets = [data for task in load_stream(name).tasks for data in (*task.train, *task.test)]
    assert len(sets) == len(set(sets))


@pytest.mark.parametrize("name", NAMES)
def test_overrides_are_keys_of_the_host_that_may_vary_by_task(name: str) -> None:
    overrides = {task.name: task.overrides for task in load_stream(name).tasks}
    assert check_overrides(overrides, where=name) == []


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_order_and_scorers_are_the_papers(name: str) -> None:
    stream = load_stream(name)
    assert tuple((task.name, task.scorer) for task in stream.tasks) == PUBLISHED[name]
    for task in stream.tasks:
        assert task.train == (f"{name}_{task.name}_train",)
        assert task.test == (f"{name}_{task.name}_test",)
        assert task.source
        assert task.licence
        assert task.modality
        assert task.max_new_tokens


def test_mllm_cl_has_the_epochs_of_the_paper() -> None:
    epochs = [task.overrides["num_train_epochs"] for task in load_stream("mllm_cl").tasks]
    assert epochs == [1, 3, 1, 2, 1]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_is_not_known_is_marked(name: str) -> None:
    stream = load_stream(name)
    notes = " ".join(stream.notes)
    assert "ASSUMPTION" in notes
    assert all(task.train_size is None and task.test_size is None for task in stream.tasks), "no source states sizes"


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_key_is_an_error(name: str) -> None:
    mapping = yaml.safe_load(builtin_streams()[name])
    mapping["tasks"][-1]["scorrer"] = mapping["tasks"][-1].pop("scorer")
    with pytest.raises(RecipeError, match=r"scorrer.*Did you mean 'scorer'"):
        load_stream(mapping)
