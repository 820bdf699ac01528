"""What is done with a run or a carry, each as a function from its directory to what comes out."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl_plugins.base.errors import ClPluginsError, RunStateError
from cl_plugins.cli.report import rescore
from cl_plugins.contract.carry import Carry, carry_directory
from cl_plugins.replay.store import Buffer, tensor_names
from cl_plugins.report import compare_table, terminal_table
from cl_plugins.run.deletion import forget, kept_samples
from cl_plugins.run.reopen import carry_after, planned, read_recipe
from cl_plugins.run.state import RunState
from cl_plugins.run.status import collect


SECONDS = 20.0  # a use takes milliseconds; this is for those that wait for a pipe


class Hangs(BaseException):
    """A use did not come to an end."""


def _digest(tensors: Any) -> str:
    parts = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in sorted(tensors.items())}
    return json.dumps(parts)


def report(root: Path) -> Any:
    return terminal_table(root, width=100)


def compared(root: Path) -> Any:
    return compare_table([root], width=100)


def status(root: Path) -> Any:
    found = collect(root)
    return {key: value for key, value in found.items() if key != "run"}


def verified(root: Path) -> Any:
    found = collect(root, verify=True)
    if found["damaged"]:
        raise RunStateError(found["damaged"])
    return {key: value for key, value in found.items() if key != "run"}


def scored_anew(root: Path) -> Any:
    with TemporaryDirectory() as out:
        return (rescore(root, ["contains"], Path(out) / "out") / "matrix.json").read_text()


def steps(root: Path) -> Any:
    keys, config = read_recipe(root)
    return [{**keys, "output_dir": ""}, repr(config), [step.key for step in planned(root, config)]]


def samples(root: Path) -> Any:
    return [asdict(sample) for sample in kept_samples(root)]


def carried(root: Path) -> Any:
    carry = Carry.open(carry_directory(root))
    carry.verify()
    buffer = Buffer.open(carry)
    found: list[Any] = [carry.tasks, carry.method, carry.meta, carry.base]
    found += [_digest(carry.load(name)) for name in sorted(carry.files) if name.endswith(".safetensors")]
    if buffer is not None:
        found += [[asdict(sample), record] for sample, record in buffer.entries()]
        found += [
            buffer.medium(name).read_bytes().hex()
            for _, record in buffer.entries()
            for name in record.get("images") or ()
        ]
        found += [_digest(buffer.tensors(name)) for name in tensor_names(buffer)]
    return found


def received(root: Path) -> Any:
    """The carry as another site takes it up, without anything else of the run."""
    carry = Carry.open(carry_directory(root))
    carry.verify()
    return [carry.identity, carry.stream, sorted(carry.files)]


def after_the_first(root: Path) -> Any:
    """The carry as it was after the first task, made again from the task's update."""
    keys, config = read_recipe(root)
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        state = RunState.to_look(None, out, keys, config)  # type: ignore[arg-type]
        carry = carry_after(state, root, config.stream.task_names[0], Path(scratch))
        return [carry.tasks, carry.meta, [_digest(carry.load(name)) for name in sorted(carry.files)]]


def deleted(root: Path) -> Any:
    """Deletion of all samples of the first task; changes the run."""
    first = [sample.task for sample in kept_samples(root)][:1]
    gone = forget(root, lambda sample: sample.task in first, "delete")
    return [[asdict(sample) for sample in gone], samples(root)]


READING: dict[str, Callable[[Path], Any]] = {
    use.__name__: use
    for use in (report, compared, status, verified, scored_anew, steps, samples, carried, received, after_the_first)
}
CHANGING: dict[str, Callable[[Path], Any]] = {"deleted": deleted}


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """End a use that waits forever."""

    def over(*args: Any) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(use: Callable[[Path], Any], root: Path) -> tuple[str, Any]:
    """``("value", text)``, ``("error", message)`` for an error of the package, or ``("raw", what)`` for anything else."""
    try:
        with limited():
            return "value", json.dumps(use(root), default=str).replace(str(root), "")
    except ClPluginsError as error:
        return "error", str(error)
    except Hangs:
        return "raw", "hangs"
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"
