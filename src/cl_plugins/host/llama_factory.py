"""LLaMA-Factory as the host of a run, see `cl_plugins.contract.host.Host`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.files import sha256
from ..base.words import Words
from ..contract.host import keys_to_look
from . import keys as key_rules
from . import names, task_args, validation
from .data import absent_files, local_files
from .media import DataUse, fingerprint, inspect, on_hub
from .quiet import quiet


if TYPE_CHECKING:
    from ..base.errors import Problem
    from ..contract.capabilities import Capabilities, RunFacts
    from ..contract.host import KeyInfo, ModelSizes, Trained
    from ..contract.method import Method
    from ..contract.session import TaskArgs
    from ..streams import Stream, Task
    from .session import Session


@dataclass(frozen=True)
class LocalDataSet:
    """A data set of ``dataset_info.json``, see `cl_plugins.contract.host.DataSet`."""

    use: DataUse
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in ``dataset_info.json``."""
        return self.use.name

    @property
    def place(self) -> Hashable:
        """``dataset_dir`` and ``media_dir``."""
        return self.use.dataset_dir, self.use.media_dir

    def problems(self) -> list[Problem]:
        """Unknown name, missing file, not JSON, no record, missing media."""
        return inspect(self.use)

    def absent(self) -> list[Problem]:
        """No ``dataset_info.json``, or no file of the name that it gives."""
        return absent_files(self.use.dataset_dir, self.use.name)

    def files(self) -> list[Path]:
        """``dataset_info.json`` and the files that it names."""
        return local_files(self.use.dataset_dir, [self.use.name])[0]

    def samples(self) -> int | None:
        """See `cl_plugins.contract.host.DataSet.samples`."""
        from .row_counts import row_count

        return row_count(self.use)

    def record(self, sha256: Callable[[Path], str] = sha256) -> dict[str, Any]:
        """What of it decides a number (`fingerprint`), independent of its location; rows of hubs by their content."""
        found = fingerprint(self.use, sha256)
        if on_hub(found.get("entry", {})) and not found.get("files"):
            from .hub import hub_digest

            folder = Path(str(self.keys.get("output_dir", "."))) / "tasks"
            keys = task_args.task_keys(self.keys, datasets=[self.name], output_dir=folder, seed=0)
            found["rows"] = hub_digest(self.use, task_args.parse({**keys, "seed": self.keys.get("seed", 42)}))
        return found


class LlamaFactoryHost:
    """LLaMA-Factory."""

    name = "LLaMA-Factory"
    engines: tuple[str, ...] = ("vllm",)
    command = "llamafactory-cli train"
    path_keys = key_rules.PATH_KEYS
    engine_keys = key_rules.ENGINE_KEYS
    data_keys = key_rules.DATA_KEYS
    sample_keys = key_rules.SAMPLE_KEYS
    validation_keys = validation.KEYS
    prompt_keys = key_rules.PROMPT_KEYS
    reader = "the base's tokenizer"
    generates = True
    words = Words()

    def quiet(self) -> AbstractContextManager[None]:
        """See `Host.quiet`."""
        return quiet()

    def require(self) -> None:
        """See `Host.require`."""
        names.require(load=True)

    def key_table(self) -> list[KeyInfo]:
        """See `Host.key_table`."""
        return key_rules.key_table()

    def key_info(self, key: str) -> KeyInfo:
        """See `Host.key_info`."""
        return key_rules.kind_of(key)

    def key_problems(self, raw: Mapping[str, Any]) -> list[Problem]:
        """See `Host.key_problems`."""
        from .facts import setting_problems

        return key_rules.check(raw) + setting_problems(raw)

    def override_problems(self, overrides: Mapping[str, Any], where: str) -> list[Problem]:
        """See `Host.override_problems`."""
        return key_rules.check_overrides(overrides, where)

    def facts(self, keys: Mapping[str, Any], stream: Stream) -> RunFacts:
        """See `Host.facts`."""
        from .facts import run_facts

        return run_facts(keys, stream)

    def method_problems(self, name: str, able: Capabilities, facts: RunFacts, penalised: bool) -> list[Problem]:
        """See `Host.method_problems`."""
        from .facts import capability_problems

        return capability_problems(name, able, facts, penalised)

    def data_set(
        self, name: str, keys: Mapping[str, Any], limit: int | None = None, *, test: bool = False
    ) -> LocalDataSet:
        """See `Host.data_set`."""
        folder, media = keys.get("dataset_dir", "data"), keys.get("media_dir")
        folder = folder if isinstance(folder, str) else "ONLINE"  # a mapping, as the host also takes it: nothing local
        return LocalDataSet(DataUse(name, folder, media if isinstance(media, str) else None, limit, test), keys)

    def validates(self, keys: Mapping[str, Any]) -> bool:
        """See `Host.validates`."""
        return validation.asked(keys)

    def chooses_weights(self, keys: Mapping[str, Any]) -> bool:
        """See `Host.chooses_weights`."""
        return validation.asked(keys) and validation.chooses(keys)

    def validation_problems(self, keys: Mapping[str, Any], where: str) -> list[Problem]:
        """See `Host.validation_problems`."""
        return validation.problems(keys, where)

    def base_problems(self, keys: Mapping[str, Any]) -> list[Problem]:
        """See `Host.base_problems`."""
        from .meta_model import adapter_problems

        return adapter_problems(keys)

    def sets_problems(
        self, trained: Mapping[str, Sequence[Any]], tested: Mapping[str, Sequence[Any]], *, whole: bool
    ) -> list[Problem]:
        """None: each is checked by itself."""
        return []

    def sizes(self, keys: Mapping[str, Any], method: Method, task: Task) -> ModelSizes:
        """See `Host.sizes`."""
        from .meta_model import measure

        return measure(keys, method, task)

    def trained(self, keys: Mapping[str, Any], method: Method, tasks: Sequence[Task]) -> Trained:
        """See `Host.trained`."""
        from .meta_model import trained

        return trained(keys, method, tasks)

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
        return task_args.task_keys(
            keys, datasets=datasets, output_dir=output_dir, seed=seed, overrides=overrides, valid=valid
        )

    def task_args(self, keys: dict[str, Any]) -> task_args.HostArgs:
        """See `Host.task_args`."""
        return task_args.parse(keys)

    def trackers(self, args: TaskArgs) -> dict[str, dict[str, Any]]:
        """``report_to``, and SwanLab with its own keys for ``use_swanlab``; the host's launcher has logged in to it."""
        found: dict[str, dict[str, Any]] = {str(name): {} for name in args.training.report_to}
        own = task_args.own(args).finetuning
        if own.use_swanlab:
            keys = ("project", "workspace", "mode", "logdir")
            found["swanlab"] = {key: getattr(own, f"swanlab_{key}", None) for key in keys}
            found["swanlab"]["experiment_name"] = own.swanlab_run_name
        return found

    def looking_keys(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """See `Host.looking_keys`."""
        return keys_to_look(keys, self.engine_keys)

    def fingerprint(self, args: TaskArgs) -> dict[str, Any]:
        """See `Host.fingerprint`."""
        from .fingerprint import base_fingerprint

        own = task_args.own(args)
        return base_fingerprint(own.model, own_template=own.data.template is None)

    def session(
        self, args: TaskArgs, trainings: Sequence[tuple[str, Sequence[str], Mapping[str, Any]]] = ()
    ) -> Session:
        """See `Host.session`."""
        from .session import Session

        return Session(task_args.own(args))
