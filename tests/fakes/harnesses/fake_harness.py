"""Stand-ins for lm-evaluation-harness and lmms-eval with the signatures of their versions 0.4.13 and 0.7.3.

They ask the model they are given about the items of one task, and give results of the form of the originals.
"""

from __future__ import annotations

import importlib.machinery
import random
import sys
import types
from typing import Any


QUESTIONS = [
    (f"what colour is {name}?", letter) for name, letter in zip(("red", "green", "blue", "grey"), "ABCD", strict=True)
]
SIZE = 8


class TaskManager:
    """Knows the tasks ``colours``, ``perplexed``, ``group`` and ``empty``."""

    def __init__(self, verbosity=None, include_path=None, include_defaults=True, metadata=None, model_name=None):
        self.include_path, self.model_name = include_path, model_name

    def load(self, task_list):
        for task in task_list:
            if task not in ("colours", "perplexed", "group", "empty", "fails"):
                raise KeyError(f"Spec '{task}' is not a registered task/group/tag name or valid YAML path")
        return {"tasks": dict.fromkeys(task_list)}


class RetryError(Exception):
    """As in tenacity."""


def get_task_dict(task_name_list, task_manager=None, task_type="simple"):
    """As in lmms-eval, whose tasks try several times to load their data."""
    if task_name_list == ["gone"]:
        try:
            raise FileNotFoundError("no file gone.parquet")
        except FileNotFoundError as error:
            raise RetryError("RetryError[<Future at 0x7f state=finished raised FileNotFoundError>]") from error
    if task_name_list == ["choices"]:
        one, other = (types.SimpleNamespace(OUTPUT_TYPE=kind) for kind in ("generate_until", "multiple_choice"))
        return {"group": {"one": one, "other": other}}
    return dict.fromkeys(
        task_manager.load(task_name_list)["tasks"], types.SimpleNamespace(OUTPUT_TYPE="generate_until")
    )


class HFLM:
    """As in lm_eval; a model that is in memory already."""

    def __init__(
        self, pretrained, backend="default", tokenizer=None, batch_size=1, mixed_precision_dtype=None, **kwargs
    ):
        self.model, self.tokenizer, self.batch_size, self.backend = pretrained, tokenizer, batch_size, backend

    def choose(self, question):
        """The letter with the largest logit behind a question."""
        import torch

        ids = self.tokenizer(question, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = self.model(ids).logits[0, -1]
        letters = self.tokenizer.convert_tokens_to_ids(list("ABCD"))
        return "ABCD"[int(logits[letters].argmax())]


def simple_evaluate(
    model,
    model_args=None,
    tasks=None,
    num_fewshot=None,
    batch_size=None,
    max_batch_size=None,
    device=None,
    use_cache=None,
    cache_requests=False,
    rewrite_requests_cache=False,
    delete_requests_cache=False,
    limit=None,
    samples=None,
    bootstrap_iters=100000,
    check_integrity=False,
    write_out=False,
    log_samples=True,
    evaluation_tracker=None,
    system_instruction=None,
    apply_chat_template=False,
    fewshot_as_multiturn=True,
    gen_kwargs=None,
    task_manager=None,
    verbosity=None,
    predict_only=False,
    random_seed=0,
    numpy_random_seed=1234,
    torch_random_seed=1234,
    fewshot_random_seed=1234,
    confirm_run_unsafe_code=False,
    metadata=None,
) -> Any:
    """As in lm_eval 0.4.13."""
    import torch

    random.seed(random_seed)
    torch.manual_seed(torch_random_seed)
    (task,) = tasks
    task_manager.load(tasks)
    if task == "fails":
        raise ValueError("the data of the task are gone\nand more")
    CALLS.append(
        {
            "task": task,
            "limit": limit,
            "batch_size": batch_size,
            "num_fewshot": num_fewshot,
            "training": model.model.training,
        }
    )
    found = []
    for number in range(min(limit or SIZE, SIZE)):
        question, right = QUESTIONS[number % 4]
        answer = model.choose(question)
        found.append(
            {
                "doc_id": number,
                "doc": {"question": question},
                "target": right,
                "arguments": [(question, {"until": ["\n"]})],
                "resps": [[answer]],
                "filtered_resps": [answer],
                "filter": "none",
                "metrics": ["acc", "f1"],
                "acc": float(answer == right),
                "f1": 0.5,
            }
        )
    mean = sum(each["acc"] for each in found) / len(found)
    numbers = {"alias": task, "acc,none": mean, "acc_stderr,none": "N/A", "f1,none": 0.5, "f1_stderr,none": "N/A"}
    results = {"name": task, "sample_len": len(found), **({"alias": task} if task == "empty" else numbers)}
    parts = {"group": {"left": found[::2], "right": found[1::2]}}.get(task, {task: found[::-1]})
    lower = {"acc": task != "perplexed", "f1": True}
    return {"results": {task: results}, "samples": parts, "versions": {task: 1.0}, "higher_is_better": {task: lower}}


CALLS: list[dict[str, Any]] = []


class Lmms:
    """As lmms_eval.api.model.lmms."""

    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    def clean(self):
        """Deletes modules that it finds on itself."""
        import torch

        for name in [n for n, value in vars(self).items() if isinstance(value, torch.nn.Module)]:
            delattr(self, name)


class Request:
    """As an instance of lmms-eval."""

    def __init__(self, *args):
        self.args = args


def lmms_simple_evaluate(
    model, model_args=None, launcher_args=None, tasks=None, num_fewshot=None, batch_size=None, limit=None, log_samples=True, task_manager=None, **kwargs
):  # fmt: skip
    """As in lmms-eval 0.7.3, as far as it is called."""
    from PIL import Image

    assert not kwargs
    assert isinstance(model, Lmms)
    (task,) = tasks
    size = min(limit or SIZE, SIZE)
    colours = [(220, 30, 30), (30, 200, 40), (40, 50, 220), (128, 128, 128)]
    docs = [{"picture": Image.new("RGB", (16, 16), colours[i % 4]), "answer": "ABCD"[i % 4]} for i in range(size)]
    model.task_dict[task] = {"test": docs}
    settings = {"max_new_tokens": 3, "until": ["\n"]}
    requests = [
        Request("what colour is this picture?", dict(settings), lambda doc: [doc["picture"]], i, task, "test")
        for i in range(size)
    ]
    answers = model.generate_until(requests)
    model.clean()
    found = [
        {
            "doc_id": i,
            "target": docs[i]["answer"],
            "arguments": ["what colour is this picture?", settings, i, task, "test"],
            "filtered_resps": [answers[i]],
            "exact_match": float(answers[i] == docs[i]["answer"]),
        }
        for i in range(size)
    ]
    mean = sum(each["exact_match"] for each in found) / size
    results = {task: {"alias": task, "exact_match,none": mean, "exact_match_stderr,none": 0.1}}
    return {"results": results, "samples": {task: found}, "versions": {task: "Yaml"}, "higher_is_better": {task: {}}}


def install(monkeypatch) -> None:
    """Put both into `sys.modules` until the end of a test."""

    def module(name, **content):
        made = types.ModuleType(name)
        made.__spec__ = importlib.machinery.ModuleSpec(name, None)
        made.__path__ = []
        for key, value in content.items():
            setattr(made, key, value)
        monkeypatch.setitem(sys.modules, name, made)

    CALLS.clear()
    module("lm_eval", simple_evaluate=simple_evaluate, __version__="0.4.13")
    module("lm_eval.tasks", TaskManager=TaskManager)
    module("lm_eval.models")
    module("lm_eval.models.huggingface", HFLM=HFLM)
    module("lmms_eval")
    module("lmms_eval.tasks", TaskManager=TaskManager, get_task_dict=get_task_dict)
    module("lmms_eval.api")
    module("lmms_eval.api.model", lmms=Lmms)
    module("lmms_eval.evaluator", simple_evaluate=lmms_simple_evaluate, _enable_reentrant_filelocks=lambda: None)
