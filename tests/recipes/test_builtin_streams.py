"""The streams that ship with the package."""

from __future__ import annotations

import pytest
import yaml

from cl_plugins.base.errors import RecipeError
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.host.keys import check_overrides
from cl_plugins.recipe import parse_cl
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
    "mllm_cl_ability": (("ocr", "contains"), ("math", "exact_match"), ("vp", "contains"), ("app", "exact_match")),
    "mslora_cr_8": (
        ("pathvqa", "token_f1"),
        ("slake_vqarad", "token_f1"),
        ("derm", "token_f1"),
        ("pcam", "choice_accuracy"),
        ("cxp", "choice_accuracy"),
        ("ham", "choice_accuracy"),
        ("nmi", "token_f1"),
        ("iu_x_ray", "token_f1"),
    ),
    "mslora_cr_6": (
        ("pathvqa", "token_f1"),
        ("slake_vqarad", "token_f1"),
        ("pcam", "choice_accuracy"),
        ("cxp", "choice_accuracy"),
        ("nmi", "token_f1"),
        ("iu_x_ray", "token_f1"),
    ),
    "coin": (
        ("scienceqa", "choice_accuracy"),
        ("textvqa", "exact_match"),
        ("imagenet", "exact_match"),
        ("gqa", "exact_match"),
        ("vizwiz", "exact_match"),
        ("grounding", "box_accuracy"),
        ("vqav2", "exact_match"),
        ("ocrvqa", "exact_match"),
    ),
    "ucit": (
        ("imagenet_r", "exact_match"),
        ("arxivqa", "exact_match"),
        ("vizwiz_caption", "bleu"),
        ("iconqa", "exact_match"),
        ("clevr_math", "exact_match"),
        ("flickr30k", "bleu"),
    ),
    "standard_cl": tuple((name, "choice_accuracy") for name in ("dbpedia", "amazon", "yahoo", "agnews")),
    "trace": (
        ("c_stance", "choice_accuracy"),
        ("fomc", "choice_accuracy"),
        ("meetingbank", "rouge_l"),
        ("py150", "edit_similarity"),
        ("scienceqa", "choice_accuracy"),
        ("numglue_cm", "exact_match"),
        ("numglue_ds", "exact_match"),
        ("20minuten", "sari"),
    ),
}
# Sizes that a source states: the answer files of MSLoRA-CR, the names of UCIT's files, OCRBench's divisor, O-LoRA's files and logs.
SIZES = {
    "mllm_cl_ability": {"ocr": (None, 1000)},
    "mslora_cr_8": {
        "pathvqa": (None, 6761),
        "slake_vqarad": (None, 1512),
        "derm": (None, 3219),
        "pcam": (None, 6555),
        "cxp": (None, 624),
        "ham": (None, 2003),
        "nmi": (None, 1889),
        "iu_x_ray": (None, 666),
    },
    "ucit": {
        "imagenet_r": (None, 3000),
        "arxivqa": (40000, 3000),
        "vizwiz_caption": (None, 3000),
        "iconqa": (None, 3000),
        "clevr_math": (40000, 3000),
        "flickr30k": (40000, 3000),
    },
    "standard_cl": {"dbpedia": (14000, 7600), "amazon": (5000, 7600), "yahoo": (10000, 7600), "agnews": (4000, 7600)},
}
SIZES["mslora_cr_6"] = {name: size for name, size in SIZES["mslora_cr_8"].items() if name not in ("derm", "ham")}
WITHOUT_PEER_SCORER = {("mllm_cl_ability", "math"), ("mllm_cl_ability", "app")}  # a language model, a server


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
def test_defaults_are_keys_of_the_host_that_may_vary_by_task(name: str) -> None:
    stream = load_stream(name)
    assert check_overrides({task.name: task.defaults for task in stream.tasks}, where=name) == []
    assert not any(task.overrides for task in stream.tasks)  # a recipe's own length must win


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_order_and_scorers_are_the_papers(name: str) -> None:
    stream = load_stream(name)
    assert tuple((task.name, task.scorer) for task in stream.tasks) == PUBLISHED[name]
    prefix = "mslora_cr" if name.startswith("mslora_cr_") else name
    for task in stream.tasks:
        assert task.train == (f"{prefix}_{task.name}_train",)
        assert task.test == (f"{prefix}_{task.name}_test",)
        assert task.source
        assert task.licence
        assert task.modality
        assert task.max_new_tokens


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("medical_cl", "max_steps", [2000, 2000, 2000, 2000]),
        ("mllm_cl", "num_train_epochs", [1, 3, 1, 2, 1]),
        ("mllm_cl_ability", "num_train_epochs", [3, 1, 1, 3]),
        ("mslora_cr_8", "num_train_epochs", [3, 4, 4, 1, 1, 1, 6, 9]),
        ("mslora_cr_6", "num_train_epochs", [3, 4, 1, 1, 6, 9]),
        ("coin", "num_train_epochs", [1] * 8),
        ("ucit", "num_train_epochs", [1] * 6),
        ("standard_cl", "num_train_epochs", [1] * 4),
        ("trace", "num_train_epochs", [5, 3, 7, 5, 3, 5, 5, 7]),
    ],
)
def test_the_lengths_are_those_of_the_papers(name: str, key: str, values: list[int]) -> None:
    config = parse_cl({"stream": name, "method": {"name": "seqlora"}})
    for keys, expected in (
        ((), values),
        (("learning_rate",), values),
        (("max_steps",), None),
        (("num_train_epochs",), None),
    ):
        tasks = config.with_defaults(keys)
        found = [tasks.overrides_for(task).get(key) for task in tasks.stream.task_names]
        assert found == (expected or [None] * len(values)), keys


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_what_is_not_known_is_marked(name: str) -> None:
    stream = load_stream(name)
    notes = " ".join(stream.notes)
    assert "ASSUMPTION" in notes or "unknown" in notes
    known = {task.name: (task.train_size, task.test_size) for task in stream.tasks}
    stated = {name: size for name, size in known.items() if size != (None, None)}
    assert stated == SIZES.get(stream.name, {}), "no source states other sizes"


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_task_has_the_published_rule_beside_the_strict_one(name: str) -> None:
    for task in load_stream(name).tasks:
        if (name, task.name) in WITHOUT_PEER_SCORER:
            assert task.peer_scorer is None
        else:
            assert task.peer_scorer is not None
            assert get_scorer(task.peer_scorer).name.startswith("peer:")


def test_a_peer_scorer_that_is_none_is_an_error() -> None:
    task = {"name": "a", "train": "a", "test": "b", "peer_scorer": "contains"}
    with pytest.raises(RecipeError, match=r"tasks\[0\]\.peer_scorer: is 'contains'\. Write `peer:<library>`"):
        load_stream({"name": "s", "tasks": [task]})


def test_the_six_tasks_of_mslora_cr_are_six_of_the_eight() -> None:
    eight, six = load_stream("mslora_cr_8"), load_stream("mslora_cr_6")
    assert six.tasks == tuple(task for task in eight.tasks if task.name not in ("derm", "ham"))


def test_modalities_of_mslora_cr_are_those_of_the_authors_script() -> None:
    """The script says for each task which of the earlier ones have its modality."""
    modalities = [task.modality for task in load_stream("mslora_cr_8").tasks]
    same = [[int(earlier == now) for earlier in modalities[:t]] for t, now in enumerate(modalities)]
    assert same[3:5] == [[1, 0, 0], [0, 1, 0, 0]]
    assert same[6:] == [[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0, 0]]


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_key_is_an_error(name: str) -> None:
    mapping = yaml.safe_load(builtin_streams()[name])
    mapping["tasks"][-1]["scorrer"] = mapping["tasks"][-1].pop("scorer")
    with pytest.raises(RecipeError, match=r"scorrer.*Did you mean 'scorer'"):
        load_stream(mapping)


def test_a_peer_scorer_that_does_not_exist_is_found_before_anything_runs() -> None:
    task = {"name": "a", "train": "a", "test": "b", "peer_scorer": "peer:mllm_cl:nothing"}
    with pytest.raises(RecipeError, match=r"cl\.stream\.tasks\[0\]\.peer_scorer: .*'nothing'"):
        parse_cl({"stream": {"name": "s", "tasks": [task]}, "method": {"name": "seqlora"}})
