"""Stands for swanlab: `login`, `init`, `log`, `Image`, `finish` with the arguments of version 0.10."""

from __future__ import annotations

from tracked import note


_run = None


class _Config(dict):
    def update(self, values):
        super().update(values)


config = _Config()


class Image:
    def __init__(self, data_or_path, mode="RGB", caption=None):
        self.path = data_or_path

    def __repr__(self):
        return f"image {self.path}"


def has_run():
    return _run is not None


def get_run():
    if _run is None:
        raise RuntimeError("No active Run. Call swanlab.init() first.")
    return _run


def login(api_key=None, host=None):
    note("login", api_key=api_key)


def init(
    project=None, workspace=None, experiment_name=None, description=None, job_type=None, group=None, tags=None, config=None,
    logdir=None, mode=None, load=None, public=None, callbacks=None, settings=None, id=None, resume=None, reinit=None,
):  # fmt: skip
    global _run
    if id is not None and len(id) != 21:
        raise ValueError("the id must have 21 characters")
    _run = object()
    note(
        "init",
        id=id,
        project=project,
        workspace=workspace,
        name=experiment_name,
        mode=mode,
        resume=resume,
        logdir=logdir,
    )


def log(data, step=None, print_to_console=False):
    note("log", values=data, step=step)


def finish():
    global _run
    _run = None
    note("finish")
