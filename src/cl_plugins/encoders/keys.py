"""The keys of a recipe with ``encoders:``, and what they become: `transformers.TrainingArguments` and a few of our own."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..base.errors import Problem
from ..base.schema import build, nearest
from ..contract.host import ENCODERS, KeyInfo, encoders_name
from ..contract.overrides import override_problems
from ..crossmodal.configuration import ClassifierOptions
from ..crossmodal.encoders import is_reserved
from ..crossmodal.inputs import EncoderSpec


CLASSIFIER, LABELS = "classifier", "labels"
PATH_KEYS = frozenset({"dataset_dir", "output_dir"})
DATA_KEYS = frozenset({"dataset_dir", "max_samples", LABELS})
SAMPLE_KEYS = frozenset({"dataset_dir"})
_OWN = {
    ENCODERS: ("per_run", "all tasks share one model"),
    CLASSIFIER: ("per_run", "all tasks share one model"),
    "dataset_dir": ("per_task", "the task's data"),
    "max_samples": ("per_task", "the task's data"),
    LABELS: ("per_task", "the classes of a task whose training set is not here"),
    "trust_remote_code": ("per_run", "encoders with their own code are not loaded"),
}
_PER_TASK = (
    "learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm optim lr_scheduler_type "
    "lr_scheduler_kwargs warmup_ratio warmup_steps num_train_epochs max_steps per_device_train_batch_size "
    "gradient_accumulation_steps dataloader_drop_last dataloader_num_workers logging_steps logging_strategy "
    "logging_first_step save_steps save_strategy save_total_limit"
).split()
_PER_RUN = (
    "output_dir seed data_seed bf16 use_cpu report_to run_name per_device_eval_batch_size full_determinism "
    "ddp_backend ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers disable_tqdm tf32"
).split()
_FIX = "Remove it."


@dataclass
class EncoderTrainingArguments(TrainingArguments):  # type: ignore[misc]
    """Transformers' arguments with the defaults of C11: AdamW 1e-4, weight decay 0.01, cosine, 20 epochs, batches of 32."""

    learning_rate: float = field(default=1e-4)
    weight_decay: float = field(default=0.01)
    num_train_epochs: float = field(default=20.0)
    per_device_train_batch_size: int = field(default=32)
    per_device_eval_batch_size: int = field(default=64)
    lr_scheduler_type: str = field(default="cosine")
    remove_unused_columns: bool = field(default=False)


@cache
def _training_fields() -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(TrainingArguments) if f.init}


@cache
def _number_fields() -> dict[str, type]:
    """Keys whose value is a number -> int or float."""
    found: dict[str, type] = {}
    for each in dataclasses.fields(TrainingArguments):
        written = each.type if isinstance(each.type, str) else getattr(each.type, "__name__", "") or str(each.type)
        words = set(re.findall(r"\w+", written)) - {"None", "Optional"}
        if words in ({"int"}, {"float"}, {"int", "float"}):
            found[each.name] = int if words == {"int"} else float
    return found


def _as_number(key: str, value: Any) -> Any:
    """A text as the number that it stands for, since YAML reads 1e-4 as a text; other values as they are.

    Raises:
        ValueError: If it stands for no number of this key.
    """
    kind = _number_fields().get(key)
    return kind(value) if kind is not None and isinstance(value, str) else value


def kind_of(key: str) -> KeyInfo:
    """What kind of key a key is."""
    if key in _OWN:
        kind, reason = _OWN[key]
        return KeyInfo(key, kind, reason, "cl_plugins")  # type: ignore[arg-type]
    home = "TrainingArguments" if key in _training_fields() else ""
    if key in _PER_TASK:
        return KeyInfo(key, "per_task", "how the task is trained", home)
    if key in _PER_RUN:
        return KeyInfo(key, "per_run", "one model, one directory, one engine", home)
    return KeyInfo(key, "refused", "not tested with a classifier on frozen encoders", home)


def key_table() -> list[KeyInfo]:
    """Every key."""
    names = dict.fromkeys([*_OWN, *_PER_TASK, *_PER_RUN, *_training_fields()])
    return [kind_of(name) for name in names]


def _key_problems(where: str, key: str) -> list[Problem]:
    info = kind_of(key)
    if info.kind != "refused":
        return []
    if info.home:
        return [Problem(where, f"is not supported with `encoders`: {info.reason}.", _FIX)]
    known = (*_OWN, *_PER_TASK, *_PER_RUN)
    fix = f"{nearest(key, known)} Keys of a language model have no meaning with `encoders`.".strip()
    return [Problem(where, "is no key of a recipe with `encoders`.", fix)]


def check(raw: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with the top level of a recipe."""
    found: list[Problem] = []
    for key in map(str, raw):
        if key != "cl" and not key.startswith("cl."):
            found += _key_problems(key, key)
    if not isinstance(raw.get("output_dir"), str):
        found.append(Problem("output_dir", "is missing.", "Name the folder for this run."))
    specs(raw, found)
    options(raw, found)
    return found + _value_problems(raw, "") + _replay_problems(raw.get("cl"))


def _replay_problems(block: Any) -> list[Problem]:
    """Selections that read the features of a language model's answer."""
    replay = block.get("replay") if isinstance(block, Mapping) else None
    how = replay.get("selection") if isinstance(replay, Mapping) else None
    if how not in ("herding", "k_center"):
        return []
    what = f"is {how!r}, which reads features of a language model."
    return [Problem("cl.replay.selection", what, "Use `class_balanced`, `random`, or one by loss.")]


def check_overrides(overrides: Mapping[str, Any], where: str) -> list[Problem]:
    """What is wrong with keys that are given for single tasks."""
    return override_problems(overrides, where, _override_problems)


def _override_problems(where: str, key: str, value: Any) -> list[Problem]:
    found = _key_problems(where, key)
    if kind_of(key).kind == "per_run":
        found.append(Problem(where, "cannot differ from task to task.", "Set it at the top level."))
    return found + _value_problems({key: value}, where.removesuffix(key))


def _value_problems(given: Mapping[str, Any], where: str) -> list[Problem]:
    """Texts in the place of numbers, and wrong types of the few keys that are no concern of `TrainingArguments`."""
    found = []
    for key, value in given.items():
        try:
            _as_number(key, value)
        except ValueError:
            kind = "whole number" if _number_fields()[key] is int else "number"
            found.append(Problem(f"{where}{key}", f"is {value!r}.", f"Give a {kind}."))
    if not isinstance(given.get("dataset_dir", ""), str):
        found.append(Problem(f"{where}dataset_dir", f"is {given['dataset_dir']!r}.", "Name a folder."))
    most = given.get("max_samples")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        found.append(Problem(f"{where}max_samples", f"is {most!r}.", "Give a number of samples, at least 1."))
    labels = given.get(LABELS)
    if labels is not None and not (isinstance(labels, list) and all(isinstance(name, str) for name in labels)):
        found.append(Problem(f"{where}{LABELS}", f"is {labels!r}.", "Give a list of names of classes."))
    return found


def specs(keys: Mapping[str, Any], problems: list[Problem]) -> dict[str, EncoderSpec]:
    """The entries under ``encoders``, sorted by name.

    Args:
        keys: The recipe.
        problems: Gets what is wrong.
    """
    given = keys.get(ENCODERS)
    if not isinstance(given, Mapping) or not given:
        fix = "Give a mapping: name of a modality -> `kind` and `model`, or `config`."
        problems.append(Problem(ENCODERS, f"is {given!r}.", fix))
        return {}
    found = {}
    for name in sorted(map(str, given)):
        where, entry = f"{ENCODERS}.{name}", given[name]
        if not name.isidentifier() or is_reserved(name):
            fix = "Use letters, digits and '_'; not id, label, or a name that PyTorch uses itself, such as `values`."
            problems.append(Problem(where, "is no name of a modality.", fix))
        elif not isinstance(entry, Mapping):
            problems.append(Problem(where, f"is {entry!r}.", "Give `kind` and `model`, or `config`."))
        else:
            spec = build(EncoderSpec, entry, where, problems)
            if spec is not None:
                found[name] = spec
    return found


def options(keys: Mapping[str, Any], problems: list[Problem]) -> ClassifierOptions:
    """The keys of ``classifier``.

    Args:
        keys: The recipe.
        problems: Gets what is wrong.
    """
    given = keys.get(CLASSIFIER) or {}
    if not isinstance(given, Mapping):
        problems.append(Problem(CLASSIFIER, f"is {given!r}.", "Give a mapping of its options, or leave it out."))
        return ClassifierOptions()
    return build(ClassifierOptions, given, CLASSIFIER, problems) or ClassifierOptions()


@dataclass(frozen=True)
class EncoderArgs:
    """The arguments of one task, see `cl_plugins.contract.session.TaskArgs`.

    Attributes:
        training: Transformers' arguments.
        keys: The recipe's keys with the task's own.
        datasets: Names of the training sets.
    """

    training: EncoderTrainingArguments
    keys: dict[str, Any]
    datasets: tuple[str, ...]

    @property
    def base_name(self) -> str:
        """The encoders, as one text."""
        return name_of(self.keys)

    @property
    def trust_remote_code(self) -> bool:
        """Encoders with code of their own are not loaded."""
        return False

    @property
    def trained_modules(self) -> list[str]:
        """Nothing beside what the method trains."""
        return []


def name_of(keys: Mapping[str, Any]) -> str:
    """The encoders of a recipe, as one text; of a folder its last part, since the text is written into models."""
    found = specs(keys, []).items()
    return encoders_name({n: s.public_name or str(s.random_config().get("model_type")) for n, s in found})


def task_keys(
    keys: Mapping[str, Any],
    *,
    datasets: Sequence[str],
    output_dir: Path,
    seed: int,
    overrides: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The keys of one task, see `Host.task_keys`."""
    return {
        **keys,
        **(overrides or {}),
        "dataset": list(datasets),
        "output_dir": str(output_dir),
        "seed": seed,
        "run_seed": int(keys.get("seed", 42)),
    }


def parse(keys: Mapping[str, Any]) -> EncoderArgs:
    """The arguments of one task; seeds every generator.

    Raises:
        ValueError: If Transformers refuses a value.
        TypeError: The same.
    """
    from transformers import set_seed

    names = keys.get("dataset") or ()
    fields = {k: _as_number(k, v) for k, v in keys.items() if k in _PER_TASK or k in _PER_RUN}
    fields.setdefault("report_to", "none")
    training = EncoderTrainingArguments(**fields)
    set_seed(training.seed)
    return EncoderArgs(training, dict(keys), tuple(names))
