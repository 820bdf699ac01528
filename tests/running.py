"""Runs in this process for the suites of bad input and of the rules: small, without pictures, looked at afterwards."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import tiny


def go(keys, callbacks=None):
    """Carry out a recipe without drawing pictures (the report has its own suite)."""
    from llamafactory.train.tuner import run_exp

    gc.freeze()  # what is imported stays; the trainer collects garbage at the end of every task
    with mock.patch("cl_plugins.report.write_report"):
        run_exp(dict(keys), callbacks=callbacks)


def recipe(model, data, out, method="inclora", tasks=("one", "two"), *, cl=None, **keys):
    """A recipe of two short text tasks; ``cl`` is merged one level deep."""
    made = tiny.recipe(model, data, out, method, tasks, text_only=True, **{"max_steps": 2, **keys})
    for key, value in (cl or {}).items():
        both = isinstance(value, dict) and isinstance(made["cl"].get(key), dict) and key != "stream"
        made["cl"][key] = {**made["cl"][key], **value} if both else value
    return made


NO_TESTS = {"eval": {"scope": "none"}}


def journal(out):
    return [json.loads(line) for line in (Path(out) / "journal.jsonl").read_text().splitlines()]


def steps(out):
    return [entry["step"] for entry in journal(out)]


def load(out, name):
    return json.loads((Path(out) / name).read_text())


def difference(a, b):
    """Distance of two sets of tensors, relative to the first."""
    assert a.keys() == b.keys()
    size = sum(float(a[n].double().square().sum()) for n in a) ** 0.5
    return sum(float((a[n].double() - b[n].double()).square().sum()) for n in a) ** 0.5 / size


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def weights(out):
    return digest(Path(out) / "final" / "model.safetensors")


def predictions(out):
    folder = Path(out) / "predictions"
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*.jsonl"))}


def files(out):
    """Every file with its bytes' hash; the lock's note changes with every start."""
    out = Path(out)
    return {str(p.relative_to(out)): digest(p) for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"}


def half_written(out):
    return [str(p) for p in Path(out).rglob("*") if p.name.endswith((".tmp", ".old"))]


@contextmanager
def changed(path, text):
    """A file with another content for a while."""
    path, before = Path(path), Path(path).read_bytes()
    path.unlink()
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        yield
    finally:
        path.write_bytes(before)


def copy_of(folder, target):
    return Path(shutil.copytree(folder, target))
