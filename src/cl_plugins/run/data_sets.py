"""The data sets of a run: which there are, what is wrong with them, and what identifies their content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import Problem, RunStateError
from ..base.files import sha256, write_json
from ..records.record import read_file


if TYPE_CHECKING:
    from ..config import CLConfig
    from ..contract.host import DataSet, Host
    from ..streams import Task


def data_sets(host: Host, keys: Mapping[str, Any], config: CLConfig) -> dict[str, DataSet]:
    """The data sets that a run reads, each as its task reads it.

    Args:
        host: The host.
        keys: The recipe's host keys.
        config: The ``cl:`` block.

    Returns:
        What stands for it in ``run.json`` (its name, behind the task's where the task has its own place for it)
        -> data set.
    """
    found: dict[str, DataSet] = {}
    for task in config.stream.tasks:
        own = {**keys, **config.overrides_for(task.name)}
        most = own.get("max_samples")
        limit = most if isinstance(most, int) and not isinstance(most, bool) and most > 0 else None
        trained = config.block.only in (None, task.name)
        uses = [(name, limit, False) for name in (task.train if trained else ())]
        uses += [(name, limit, False) for name in (task.valid if trained and host.validates(own) else ())]
        uses += [(name, None, True) for name in (task.test if config.eval.scope != "none" else ())]
        for name, most_records, test in uses:
            data_set = host.data_set(name, own, most_records, test=test)
            key = name if data_set.place == host.data_set(name, keys).place else f"{task.name}/{name}"
            if key not in found or most_records is None:
                found[key] = data_set
    for probe in config.eval.probes:  # by names of their own, since a probe that is not measured yet may change
        own = {**keys, **probe.overrides}
        found |= {probe_key(probe.name, name): host.data_set(name, own, test=True) for name in probe.test}
    return found


#: Begins what stands for the data sets of probes in ``run.json``.
PROBE_DATA = "probe:"


def probe_key(probe: str, data_set: str = "") -> str:
    """What stands for a data set of a probe in ``run.json``; without a data set the beginning of all of them."""
    return f"{PROBE_DATA}{probe}/{data_set}"


def data_problems(host: Host, keys: Mapping[str, Any], config: CLConfig) -> list[Problem]:
    """Data set names that do not exist, files that are missing or cannot be used, pictures that are missing."""
    found = [problem for used in data_sets(host, keys, config).values() for problem in used.problems()]
    found += _together(host, keys, config)
    return list(dict.fromkeys([*found, *_tested_samples(host, keys, config)]))


def _together(host: Host, keys: Mapping[str, Any], config: CLConfig) -> list[Problem]:
    """What the data sets of all tasks say against each other."""
    trained: dict[str, list[DataSet]] = {}
    tested: dict[str, list[DataSet]] = {}
    for task in config.stream.tasks:
        own = {**keys, **config.overrides_for(task.name)}
        if task.train and config.block.only in (None, task.name):
            trained[task.name] = [host.data_set(name, own) for name in task.train]
        if task.test and config.eval.scope != "none":
            tested[task.name] = [host.data_set(name, own, test=True) for name in task.test]
    for probe in config.eval.probes:
        tested[f"probe {probe.name}"] = [
            host.data_set(name, {**keys, **probe.overrides}, test=True) for name in probe.test
        ]
    whole = config.block.only is None and config.block.carry_from is None
    return host.sets_problems(trained, tested, whole=whole)


def _tested_samples(host: Host, keys: Mapping[str, Any], config: CLConfig) -> list[Problem]:
    """Validation sets that are a test set under another name: the same file, or a copy of it."""
    found = []
    tests = _test_files(host, keys, config, (*config.stream.tasks, *(probe.task for probe in config.eval.probes)))
    for number, task in enumerate(config.stream.tasks):
        own = {**keys, **config.overrides_for(task.name)}
        for name in task.valid if host.validates(own) else ():
            files = _data_files(host.data_set(name, own))
            for (other, test), tested in tests.items():
                same = next((a for a in files for b in tested if _same(a, b)), None)
                if same is not None:
                    what = (
                        f"{name!r} has the same content ({same.name}) as the test set {test!r} of task '{other}': the weights "
                        "would be chosen by what they are tested on."
                    )
                    fix = "Give samples that are not tested."
                    found.append(Problem(f"cl.stream.tasks[{number}].valid", what, fix))
                    break
    return found


def trained_tests(host: Host, keys: Mapping[str, Any], config: CLConfig) -> dict[tuple[str, str], str]:
    """Test sets that are trained on: the same file as a training set, or a copy of it.

    Args:
        host: The host.
        keys: The recipe's host keys.
        config: The ``cl:`` block.

    Returns:
        Task that trains and task that is tested -> a sentence for the log.
    """
    tests = _test_files(host, keys, config, config.stream.tasks)
    found: dict[tuple[str, str], str] = {}
    for task in config.stream.tasks:
        own = {**keys, **config.overrides_for(task.name)}
        for name in task.train:
            files = _data_files(host.data_set(name, own))
            found |= {
                (task.name, other): (
                    f"task '{task.name}' trains on {name!r}, which has the same content as the test set {test!r} of task "
                    f"'{other}': its scores measure what was learned by heart"
                )
                for (other, test), tested in tests.items()
                if any(_same(a, b) for a in files for b in tested)
            }
    return found


def _test_files(
    host: Host, keys: Mapping[str, Any], config: CLConfig, tasks: Iterable[Task]
) -> dict[tuple[str, str], list[Path]]:
    """Task and test set -> its files."""
    return {
        (task.name, name): _data_files(host.data_set(name, {**keys, **config.overrides_for(task.name)}, test=True))
        for task in tasks
        for name in task.test
    }


def _data_files(data_set: DataSet) -> list[Path]:
    """Local files of a data set that hold records."""
    return [path for path in data_set.files() if path.name != "dataset_info.json" and path.is_file()]


def _same(a: Path, b: Path) -> bool:
    """Whether two files have equal content."""
    return a.samefile(b) or (a.stat().st_size == b.stat().st_size and sha256(a) == sha256(b))


def absent_data(host: Host, keys: Mapping[str, Any], config: CLConfig) -> list[Problem]:
    """Those of `data_problems` that say that data are not there, or not yet."""
    found = [problem for used in data_sets(host, keys, config).values() for problem in used.absent()]
    return list(dict.fromkeys(found))


def data_records(host: Host, keys: Mapping[str, Any], config: CLConfig, hashes: FileHashes) -> dict[str, Any]:
    """What identifies the content of every data set, for ``run.json``.

    Args:
        host: The host.
        keys: The recipe's host keys.
        config: The ``cl:`` block.
        hashes: Hashes that are known already.
    """
    return {key: used.record(hashes) for key, used in data_sets(host, keys, config).items()}


class FileHashes:
    """SHA-256 of data files; a file is read again only if its path, size or times differ.

    Args:
        file: Where the hashes are kept from one start to the next. A damaged file counts as empty.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, list[Any]] = {}
        self._new = False
        try:
            value = json.loads(read_file(file)) if file.exists() else {}
            self._known = {name: entry for name, entry in value.items() if isinstance(entry, list) and len(entry) == 4}
        except (RunStateError, ValueError, TypeError, AttributeError, RecursionError):
            pass

    def __call__(self, path: Path) -> str:
        """The hash of a file in hex."""
        stat, name = path.stat(), str(path.absolute())
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        entry = self._known.get(name, [])
        if entry[:3] != state or not isinstance(entry[3], str):
            entry = [*state, sha256(path)]
            self._known[name], self._new = entry, True
        return str(entry[3])

    def save(self) -> None:
        """Write what is new."""
        if self._new:
            write_json(self._file, self._known)
            self._new = False
