"""Stands for mlflow: the fluent calls with the arguments of version 3."""

from __future__ import annotations

from types import SimpleNamespace

from tracked import note


__version__ = "3.5.0"
_active = None


def active_run():
    return _active


def set_tracking_uri(uri):
    note("set_tracking_uri", uri=uri)


def set_experiment(experiment_name=None, experiment_id=None):
    note("set_experiment", name=experiment_name)


def start_run(run_id=None, experiment_id=None, run_name=None, nested=False, tags=None):
    global _active
    _active = SimpleNamespace(info=SimpleNamespace(run_id=run_id or "run-of-mlflow"))
    note("init", id=_active.info.run_id, name=run_name, resume=run_id is not None)
    return _active


def log_dict(dictionary, artifact_file, run_id=None):
    note("config", values=sorted(dictionary))


def log_metrics(metrics, step=None, synchronous=None, run_id=None):
    note("log", values=metrics, step=step)


def log_artifact(local_path, artifact_path=None, run_id=None):
    note("log", values={artifact_path: f"image {local_path}"}, step=None)


def end_run(status="FINISHED"):
    global _active
    _active = None
    note("finish")
