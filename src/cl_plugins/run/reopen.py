"""A run seen from outside: its recipe out of ``run.json``, its carry after any of its tasks, who is working on it.

Nothing here writes into the run's directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RecipeError, RunStateError
from ..base.lock import holder
from ..base.logs import logger
from ..base.outside import read_json
from ..base.secrets import without_masked
from ..config import CLConfig
from ..contract.carry import Carry, CarryWriter, TaskUpdate, carry_directory
from ..contract.export import LowRankSum
from ..contract.host import same_base, same_tokenizer, settings_changes
from ..recipe import parse_cl
from ..records.run import RUN, read_run
from ..training.handover import TENSORS, UPDATE, file_records
from .journal import Journal
from .plan import JOINT, Step, make_plan
from .received import carried_tasks


if TYPE_CHECKING:
    from ..contract.host import Host
    from .state import RunState


TRUST, TRUST_OPTION = "trust_remote_code", "--trust-remote-code"
# Options of vLLM that say how much of the machine it takes. Others name classes, formats and files.
PLAIN_OPTIONS = frozenset(
    "tensor_parallel_size pipeline_parallel_size data_parallel_size gpu_memory_utilization max_model_len max_num_seqs "
    "max_num_batched_tokens enforce_eager swap_space cpu_offload_gb kv_cache_dtype block_size enable_prefix_caching "
    "enable_chunked_prefill disable_custom_all_reduce dtype seed limit_mm_per_prompt disable_log_stats".split()
)
# In `run.json` the stream is in the order in which it was learned.
_ORDER_KEYS = ("order", "order_seed")


def read_record(root: Path) -> dict[str, Any]:
    """``run.json`` of a run.

    Raises:
        RunStateError: If there is none, or it is damaged.
    """
    if not os.path.lexists(root / RUN):
        what = "is not the directory of a run: it holds no run.json."
        raise RunStateError(Problem(str(root), what, "Give the `output_dir` of the recipe."))
    return read_run(root)


def read_recipe(root: Path, record: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], CLConfig]:
    """The host keys and the checked ``cl:`` block that a run was made with, without credentials, which are not kept.

    Args:
        root: Its directory.
        record: Its ``run.json``, if it has been read already.

    Raises:
        RunStateError: If there is no run.
        RecipeError: If the block no longer makes sense here (a method's package is gone).
    """
    record = record if record is not None else read_record(root)
    recipe = without_masked(record["recipe"])
    host_keys = {key: value for key, value in recipe.items() if key != "cl"}
    block = {key: value for key, value in recipe.get("cl", {}).items() if key not in _ORDER_KEYS}
    block["stream"] = without_masked(record["stream"])
    return {**host_keys, "output_dir": str(root)}, parse_cl(block)


def planned(root: Path, config: CLConfig) -> list[Step]:
    """The steps of a run, as the run itself plans them.

    Args:
        root: Its directory.
        config: Its ``cl:`` block.
    """
    from ..methods.registry import get_method

    return make_plan(config, get_method(config.method)(config.options), _earlier(root, config))


def _earlier(root: Path, config: CLConfig) -> tuple[str, ...]:
    """Tasks in the carry that the run began with; the run's own carry knows them too once it has one."""
    if config.block.carry_from is None:
        return ()
    tasks = carried_tasks(root, Path(config.block.carry_from)) or ()
    return tuple(task for task in tasks if task != config.block.only)


def check_idle(root: Path) -> None:
    """Refuse to read a carry that is being replaced.

    Raises:
        RunStateError: If the run is being carried out.
    """
    note = holder(root)
    if note is not None:
        what = f"is being carried out by process {note.get('pid', '?')} on {note.get('host', '?')}."
        raise RunStateError(Problem(str(root), what, "Wait until it is done, or stop it."))


def check_target(out: Path) -> None:
    """Results of an inspection are never written into a run.

    Raises:
        RunStateError: If ``out`` is the directory of a run.
    """
    if (out / "journal.jsonl").exists():
        raise RunStateError(Problem(str(out), "is the directory of a run.", "Choose another directory for `--out`."))


def reopen(
    host: Host,
    root: Path,
    out: Path,
    host_keys: Mapping[str, Any],
    config: CLConfig,
    *,
    trust_remote_code: bool = False,
) -> RunState:
    """Put a run's tokenizer, base and method together again, to evaluate it.

    The run may come from an untrusted source, so its record is ignored where it requests to run code (`distrusted`).

    Args:
        host: The host.
        root: The run's directory.
        out: Where results go; the run's own directory is only read.
        host_keys: Keys of the host, from `read_recipe`; engine keys are left out.
        config: The block, from `read_recipe`.
        trust_remote_code: Whether the user's own command says that code which comes with the base may be run.

    Returns:
        A state with the fingerprint of the base, and without a carry.

    Raises:
        RunStateError: If the base is missing, or is another one than the run's, or the record requests to run code
            and the command does not.
    """
    from .state import RunState

    name = str(host_keys.get("model_name_or_path", ""))
    fix = "Give its path: `--model PATH`."
    if Path(name).is_absolute() and not Path(name).exists():
        raise RunStateError(Problem(str(root), f"belongs to the base {name}, which does not exist.", fix))
    if not trust_remote_code:
        host_keys, config = distrusted(root, host_keys, config)
    else:
        host_keys = {**host_keys, TRUST: True}
    state = RunState.to_look(host, out, host.looking_keys(host_keys), config)
    state.source = root
    state.base_fingerprint = host.fingerprint(state.run_args)
    recorded = read_record(root).get("base") or {}
    same = same_base(recorded, state.base_fingerprint)
    if not same and not Path(name).exists() and not state.base_fingerprint.get("commit"):
        what = f"belongs to the base {name}, and there is no folder {name} here (you start from {Path.cwd()})."
        raise RunStateError(Problem(str(root), what, fix))
    if not same or not same_tokenizer(recorded, state.base_fingerprint):
        what = f"belongs to another {'tokenizer' if same else 'base'} ({recorded.get('name')}) than the one at {name}."
        raise RunStateError(Problem(str(root), what, fix))
    if differing := settings_changes(recorded, state.base_fingerprint):
        what = f"was made with other settings of the base at {name}: {'; '.join(differing)}."
        raise RunStateError(Problem(str(root), what, "Restore the files of the base."))
    return state


def distrusted(root: Path, host_keys: Mapping[str, Any], config: CLConfig) -> tuple[dict[str, Any], CLConfig]:
    """Keys and block of a run without what would run code: only the user's own command can ask for that.

    Args:
        root: The run's directory, for the message.
        host_keys: Keys of the host.
        config: The block.

    Raises:
        RunStateError: If the run cannot be opened without it: the base has its own code and the record asks to run
            it, or an option of vLLM is not one of `PLAIN_OPTIONS`.
    """
    stream, block = config.stream, config.block
    recorded = bool(host_keys.get(TRUST)) or any(config.overrides_for(name).get(TRUST) for name in stream.task_names)
    fix = f"If you trust its source, add `{TRUST_OPTION}`."
    problems = []
    base = Path(str(host_keys.get("model_name_or_path", "")))
    if recorded and _has_code(base):
        what = f"requests to run the code that comes with the base {base} (`trust_remote_code: true`)."
        problems.append(Problem(str(root / "run.json"), what, f"Read the .py files there. {fix}"))
    strange = sorted(set(block.eval.backend_options) - PLAIN_OPTIONS)
    if strange and block.eval.backend == "vllm":
        what = f"sets `cl.eval.backend_options` {', '.join(strange)}, which may make vLLM load code."
        problems.append(Problem(str(root / "run.json"), what, f"Use `--backend host`. {fix}"))
    if problems:
        raise RunStateError(problems)
    if recorded:
        logger.warning("the run's recipe has `trust_remote_code: true`, which is ignored here. %s", fix)

    def plain(keys: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in keys.items() if key != TRUST}

    tasks = tuple(replace(t, overrides=plain(t.overrides), defaults=plain(t.defaults)) for t in stream.tasks)
    overrides = {name: plain(keys) for name, keys in block.task_overrides.items()}
    config = replace(config, stream=replace(stream, tasks=tasks), block=replace(block, task_overrides=overrides))
    return {**plain(host_keys), TRUST: False}, config


def _has_code(base: Path) -> bool:
    """Whether a local checkpoint names its own classes, which Transformers imports if it is told to."""
    for path in sorted(base.glob("*config.json")) if base.is_dir() else ():
        try:
            value = read_json(path)
        except (OSError, ValueError):
            continue  # its reader reports what is wrong with it
        if isinstance(value, dict) and "auto_map" in value:
            return True
    return False


class _Pointer(CarryWriter):
    """Writes a carry that only points to files: for a look back, nothing is copied."""

    def link(self, source: Path, name: str) -> None:
        """A symbolic link instead of the file."""
        os.symlink(source.resolve(), self._target(name))


def carry_after(state: RunState, root: Path, task: str | None, scratch: Path) -> Carry:
    """The carry of a run after one of its tasks, verified.

    The carries of earlier tasks are not kept; they are made again from the tasks' updates by the method's own
    `consolidate`, which reads nothing but files.

    Args:
        state: From `reopen`.
        root: The run's directory.
        task: Name of the task; None takes the latest carry as it is.
        scratch: An empty directory for the carry of an earlier task.

    Raises:
        RunStateError: If there is no carry, it is damaged, or the updates that are needed were not kept.
        RecipeError: If the run has not learned such a task.
    """
    latest = Carry.open(carry_directory(root))
    latest.verify()
    if task is None or task == latest.tasks[-1]:
        return latest
    if task not in latest.tasks:
        from ..base.schema import nearest

        fix = f"{nearest(task, latest.tasks)} Learned: {', '.join(latest.tasks)}.".strip()
        raise RecipeError(Problem("--task", f"the run has no trained task {task!r}.", fix))
    given = (read_record(root).get("imported") or {}).get("tasks")
    if given is not None and task not in given:
        what = f"has no checkpoint of the training of '{task}': the model as it was then is not known."
        raise RunStateError(Problem(str(root), what, f"Import it as well. Known: {', '.join(given)}."))
    wanted = list(latest.tasks[: latest.tasks.index(task) + 1])
    if state.schedule != "sequential":
        wanted = [task]
    source = replace(state, root=root, journal=Journal(root))
    carry: Carry | None = None
    for number, name in enumerate(wanted, start=1):
        writer = _Pointer(scratch / f"{number:02d}")
        writer.path.mkdir(parents=True)
        state.method.consolidate(carry, _update(source, latest, name), writer)
        files = file_records(writer)
        tasks = tuple(wanted[:number])
        carry = Carry(writer.path, tasks, latest.method, writer.meta, latest.base, files, latest.stream, linked=True)
    if carry is None:
        raise RunStateError(Problem(str(root), "holds no carry.", "Give the directory of a run that finished a task."))
    return carry


def _update(source: RunState, latest: Carry, task: str) -> TaskUpdate:
    """A task's update: its own file, or the copy that the carry keeps."""
    if task in source.config.stream.task_names:
        folder = source.directory(task)
        if all(os.path.lexists(folder / name) for name in (TENSORS, UPDATE)):
            return source.update(task)
    part = source.method.export_task(latest, task)
    whole = source.method.export(latest)
    found = [
        *(part.updates if isinstance(part, LowRankSum) else ()),
        *(whole.updates if isinstance(whole, LowRankSum) else ()),
    ]
    kept = [update for update in found if update.task == task]
    if kept:
        return kept[0]
    what = f"the update of task '{task}' was not kept."
    fix = "Only the latest model is available; `cl.keep: all` (the default) keeps all updates."
    raise RunStateError(Problem(str(source.root), what, fix))


def row_of(carry: Carry) -> str:
    """The row of the accuracy matrix that a carry's model answers for."""
    from ..evaluation.matrix import row_name

    return JOINT if carry.tasks[-1] == JOINT else row_name(carry.tasks[-1])
