"""Stands for trackio: `init`, `log`, `Image`, `finish` with the arguments of version 0.27."""

from __future__ import annotations

from tracked import note


class Image:
    def __init__(self, value, caption=None):
        self.path = value

    def __repr__(self):
        return f"image {self.path}"


def init(project, name=None, group=None, space_id=None, config=None, resume="never", private=None):
    note("init", id=name, project=project, name=name, resume=resume)


def log(metrics, step=None):
    note("log", values=metrics, step=step)


def finish():
    note("finish")
