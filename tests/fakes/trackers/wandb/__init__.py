"""Stands for wandb: `init`, `log`, `Image`, `config`, `define_metric`, `finish` with the arguments of version 0.22."""

from __future__ import annotations

from types import SimpleNamespace

from tracked import note


run = None


class _Config(dict):
    def update(self, values, allow_val_change=None):
        super().update(values)
        note("config", values=sorted(values))


config = _Config()


class Image:
    def __init__(self, data_or_path, mode=None, caption=None):
        self.path = data_or_path

    def __repr__(self):
        return f"image {self.path}"


def init(entity=None, project=None, dir=None, id=None, name=None, notes=None, tags=None, config=None, resume=None):
    global run
    note("init", id=id, project=project, name=name, resume=resume)
    run = SimpleNamespace(id=id)
    return run


def define_metric(name, step_metric=None, step_sync=None):
    note("define_metric", name=name, step_metric=step_metric)


def log(data, step=None, commit=None):
    values = {key: value for key, value in data.items() if key != "global_step"}
    note("log", values=values, step=data["global_step"])


def finish(exit_code=None, quiet=None):
    global run
    run = None
    note("finish")
