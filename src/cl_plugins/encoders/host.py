"""The host of recipes with ``encoders:``, see `cl_plugins.contract.host.Host`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import ClPluginsError, CompatibilityError, Problem
from ..base.files import sha256
from ..base.outside import is_regular, read_json
from ..base.words import Words
from ..contract.capabilities import Capabilities, RunFacts
from ..contract.host import ENCODERS, ModelSizes, Trained, keys_to_look
from ..methods.registry import list_methods
from ..run.engine_variables import FSDP, enabled, fsdp_problem, variable_problems
from . import keys as key_rules
from .checking import length_problems
from .data import RecordSet
from .sets import channel_problems, modality_problems


if TYPE_CHECKING:
    from ..contract.host import KeyInfo
    from ..contract.method import Method
    from ..contract.session import TaskArgs
    from ..streams import Stream, Task
    from .session import Session


#: What an encoder's folder says about its inputs, as settings one by one, and as files that count whole.
_INPUTS = ("preprocessor_config.json", "processor_config.json")
_VOCABULARIES = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json vocab.txt merges.txt "
    "sentencepiece.bpe.model spiece.model tokenizer.model"
).split()


def input_settings(name: str, folder: Path) -> dict[str, Any]:
    """What prepares the inputs of an encoder: its preprocessor's settings, and the hashes of its tokenizer's files.

    Args:
        name: The modality.
        folder: The encoder.

    Returns:
        ``{"<modality>: <file>": {...}}``.
    """
    found: dict[str, Any] = {}
    for file in _INPUTS:
        if is_regular(folder / file):
            try:
                value = read_json(folder / file)
            except (OSError, ValueError):  # Transformers says so
                continue
            if isinstance(value, dict):
                found[f"{name}: {file}"] = {k: v for k, v in value.items() if k != "transformers_version"}
    files = {file: sha256(folder / file) for file in _VOCABULARIES if is_regular(folder / file)}
    return found | ({f"{name}: tokenizer": files} if files else {})


class EncoderHost:
    """A classifier on frozen encoders, trained by Transformers."""

    name = "Transformers"
    engines: tuple[str, ...] = ()
    command = "cl-plugins run"
    path_keys = key_rules.PATH_KEYS
    engine_keys: frozenset[str] = frozenset(
        {"ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"}
    )
    data_keys = key_rules.DATA_KEYS
    sample_keys = key_rules.SAMPLE_KEYS
    validation_keys: frozenset[str] = frozenset()
    prompt_keys: frozenset[str] = frozenset()  # config.json and inputs.json say all of it
    reader = "the encoders"
    generates = False
    words = Words()

    def quiet(self) -> AbstractContextManager[None]:
        """See `Host.quiet`."""
        return nullcontext()

    def require(self) -> None:
        """See `Host.require`: everything needed is a dependency of the package."""

    def key_table(self) -> list[KeyInfo]:
        """See `Host.key_table`."""
        return key_rules.key_table()

    def key_info(self, key: str) -> KeyInfo:
        """See `Host.key_info`."""
        return key_rules.kind_of(key)

    def key_problems(self, raw: Mapping[str, Any]) -> list[Problem]:
        """See `Host.key_problems`."""
        found = key_rules.check(raw) + variable_problems(raw)
        return [*found, fsdp_problem(FSDP, "Use DDP (torchrun).")] if enabled(FSDP) else found

    def override_problems(self, overrides: Mapping[str, Any], where: str) -> list[Problem]:
        """See `Host.override_problems`."""
        return key_rules.check_overrides(overrides, where)

    def facts(self, keys: Mapping[str, Any], stream: Stream) -> RunFacts:
        """See `Host.facts`."""
        known = {**keys, "disable_gradient_checkpointing": True}  # there is none here
        return RunFacts(finetuning_type="full", stream=stream, half_precision=bool(keys.get("bf16")), keys=known)

    def method_problems(self, name: str, able: Capabilities, facts: RunFacts, penalised: bool) -> list[Problem]:
        """See `Host.method_problems`."""
        if able.encoders:
            return []
        what = f"'{name}' is not tested with a classifier on frozen encoders."
        able_ones = (entry.name for entry in list_methods() if entry.value and entry.value.capabilities.encoders)
        return [Problem("cl.method.name", what, f"Methods that are: {', '.join(sorted(able_ones))}.")]

    def data_set(
        self, name: str, keys: Mapping[str, Any], limit: int | None = None, *, test: bool = False
    ) -> RecordSet:
        """See `Host.data_set`."""
        folder = Path(str(keys.get("dataset_dir", "data")))
        return RecordSet(name, folder, key_rules.specs(keys, []), limit)

    def validates(self, keys: Mapping[str, Any]) -> bool:
        """See `Host.validates`: no loss is measured on validation sets."""
        return False

    def chooses_weights(self, keys: Mapping[str, Any]) -> bool:
        """See `Host.chooses_weights`."""
        return False

    def validation_problems(self, keys: Mapping[str, Any], where: str) -> list[Problem]:
        """See `Host.validation_problems`: the keys that ask for it are refused."""
        return []

    def base_problems(self, keys: Mapping[str, Any]) -> list[Problem]:
        """Missing folders, and configs of unknown families, with unknown fields, or that no encoder can be made of."""
        from ..crossmodal.encoders import FAMILIES, config_of, config_problems, family_of

        problems: list[Problem] = []
        for name, spec in key_rules.specs(keys, problems).items():
            where = f"{ENCODERS}.{name}"
            if spec.model is not None and spec.model.startswith((".", "/", "~")) and not Path(spec.model).is_dir():
                fix = f"Paths are relative to the folder you start from ({Path.cwd()})."
                problems.append(Problem(f"{where}.model", f"there is no folder {spec.model}.", fix))
            if spec.config is None:
                continue
            given = spec.random_config()
            try:
                family = family_of(config_of(given), where)
            except CompatibilityError as error:
                problems += [Problem(where, p.what, p.fix) for p in error.problems]
                continue
            problems += length_problems(where, spec, config_of(given))
            if family.kind != spec.kind:
                kinds = ", ".join(t for t, f in FAMILIES.items() if f.kind == spec.kind)
                what = f"is {spec.kind!r}, and {given['model_type']!r} reads {family.kind}."
                problems.append(Problem(f"{where}.kind", what, f"Types for {spec.kind}: {kinds}."))
                continue
            problems += config_problems(given, f"{where}.config")
        return problems

    def sets_problems(
        self, trained: Mapping[str, Sequence[Any]], tested: Mapping[str, Sequence[Any]], *, whole: bool
    ) -> list[Problem]:
        """Modalities that no training record has, and tables of signals with other channels."""
        sets = [each for group in (trained, tested) for of_task in group.values() for each in of_task]
        return modality_problems(trained, tested, whole=whole) + channel_problems(sets)

    def sizes(self, keys: Mapping[str, Any], method: Method, task: Task) -> ModelSizes:
        """See `Host.sizes`."""
        from .session import outline

        try:
            model = outline(keys, (task.name, task.train, {**keys, **task.overrides}))
        except (OSError, ValueError, ClPluginsError) as error:
            what = f"cannot be made here ({' '.join(str(error).split())[:200]})."
            raise CompatibilityError(Problem(ENCODERS, what, "Check their names and configs.")) from error
        parts: dict[str, int] = {}
        for name in model.trained_names():
            part = name.partition(".")[0]
            parts[part] = parts.get(part, 0) + model.get_parameter(name).numel()
        total = sum(p.numel() for p in model.parameters())
        trained = sum(parts.values())
        return ModelSizes(total - trained, trained, parts, (), "float32", None, model.config.model_type)

    def trained(self, keys: Mapping[str, Any], method: Method, tasks: Sequence[Task]) -> Trained:
        """Known for language models only.

        Raises:
            CompatibilityError: Always.
        """
        what = "has encoders in place of a language model, whose trained parts are not told ahead."
        raise CompatibilityError(Problem("recipe", what, "Use a recipe of LLaMA-Factory."))

    def task_keys(
        self,
        keys: Mapping[str, Any],
        *,
        datasets: Sequence[str],
        output_dir: Path,
        seed: int,
        overrides: Mapping[str, Any] | None = None,
        valid: Sequence[str] = (),
    ) -> dict[str, Any]:
        """See `Host.task_keys`."""
        return key_rules.task_keys(keys, datasets=datasets, output_dir=output_dir, seed=seed, overrides=overrides)

    def task_args(self, keys: dict[str, Any]) -> key_rules.EncoderArgs:
        """See `Host.task_args`."""
        return key_rules.parse(keys)

    def trackers(self, args: TaskArgs) -> dict[str, dict[str, Any]]:
        """``report_to``."""
        from .session import own

        return {str(name): {} for name in own(args).training.report_to or ()}

    def looking_keys(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """See `Host.looking_keys`."""
        return keys_to_look(keys, self.engine_keys)

    def fingerprint(self, args: TaskArgs) -> dict[str, Any]:
        """One hash over the encoders, their entries and weights, and the settings of what prepares their inputs.

        The trained parts are no part of the base.
        """
        from .session import own

        mine = own(args)
        about: dict[str, Any] = {"classifier": asdict(key_rules.options(mine.keys, []))}
        settings: dict[str, Any] = {}
        for name, spec in key_rules.specs(mine.keys, []).items():
            entry = asdict(spec)
            if spec.model is not None and Path(spec.model).is_dir():
                files = [
                    p for s in ("*.safetensors", "config.json", "*.bin") for p in sorted(Path(spec.model).glob(s))
                ]
                entry["model"] = {p.name: sha256(p) for p in files}
                settings |= input_settings(name, Path(spec.model))
            elif spec.model is not None:  # of a hub, the commit stands for all files
                from transformers import AutoConfig

                commit = getattr(AutoConfig.from_pretrained(spec.model), "_commit_hash", None)
                entry["model"] = [spec.model, commit]
            about[name] = entry
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        return {"name": mine.base_name, "sha256": digest, "commit": None, "settings": settings}

    def session(
        self, args: TaskArgs, trainings: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]] = ()
    ) -> Session:
        """See `Host.session`."""
        from .session import Session, own

        return Session(own(args), trainings)
