"""Stand-ins for experiment trackers in place of their packages, and what they were told."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from cl_plugins.host import facts


FAKES = Path(__file__).parent / "fakes" / "trackers"
TRACKERS = ("tensorboard", "wandb", "mlflow", "swanlab", "trackio")
CELLS = ("zero_shot/one", "zero_shot/two", "after_one/one", "after_two/one", "after_two/two")


class Tracked:
    """What the stand-ins have noted."""

    def __init__(self, file):
        self.file = file

    def __call__(self, call=None):
        lines = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        return [line for line in lines if call in (None, line["call"])]

    def points(self):
        """(name, step, value) of all that was sent."""
        return [(name, line["step"], value) for line in self("log") for name, value in line["values"].items()]

    def values(self, beginning):
        return {name: (step, value) for name, step, value in self.points() if name.startswith(beginning)}


@contextmanager
def stand_ins(file, monkeypatch):
    """The stand-ins in place of the packages; they write what they are told to a file."""
    monkeypatch.setenv("TRACKED", str(file))
    monkeypatch.syspath_prepend(str(FAKES))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # tensorboardX is taken instead
    monkeypatch.setattr(
        facts, "find_spec", lambda name: find_spec("json") if name == "tensorboard" else find_spec(name)
    )
    for variable in ("WANDB_PROJECT", "WANDB_RUN_ID", "MLFLOW_RUN_ID", "SWANLAB_MODE", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.delenv(variable, raising=False)
    names = ("tracked", "wandb", "mlflow", "swanlab", "trackio", "tensorboardX")
    names += ("swanlab.integration", "swanlab.integration.transformers")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield Tracked(file)
    for name in names:
        sys.modules.pop(name, None)


def one_run_with_everything(tracked, tracker, out):
    """One run for both tasks of three steps: every loss, every cell, the metrics and the pictures, at their steps."""
    assert len({line["id"] for line in tracked("init")}) == 1
    assert len(tracked("init")) == len(tracked("finish")) == (1 if tracker != "tensorboard" else 3)
    assert [step for name, step, _ in tracked.points() if name == "one/loss"] == [1, 2, 3]
    assert [step for name, step, _ in tracked.points() if name == "two/loss"] == [4, 5, 6]
    matrix, metrics = (json.loads((out / name).read_text()) for name in ("matrix.json", "metrics.json"))
    cells = tracked.values("score/")
    assert {f"score/{cell}" for cell in CELLS} | {"score/one", "score/two"} == set(cells)
    assert cells["score/zero_shot/two"] == (0, matrix["zero_shot"][1])
    assert cells["score/after_one/one"] == (3, matrix["scores"][0][0])
    assert cells["score/after_two/one"] == cells["score/one"] == (6, matrix["scores"][1][0])
    for name in ("last", "average", "bwt"):
        assert tracked.values("metrics/")[f"metrics/{name}"] == (6, metrics["metrics"][name]["value"])
    assert [step for name, step, _ in tracked.points() if name == "metrics/a_k"] == [3, 6]
    pictures = [str(value) for _, _, value in tracked.points() if str(value).startswith("image")]
    assert len(pictures) == 2
