"""Writers of experiment trackers: each opens one run, or goes on with the one that an earlier process has opened.

Transformers' own callbacks put `train/` in front of every name and open a run per process, so the common trackers are called
directly. The others are reached through those callbacks.
"""

from __future__ import annotations

import copy
import os
import re
import secrets
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..base.logs import logger


#: The metric that is the horizontal axis, where a tracker wants one among the metrics.
STEP = "global_step"


@dataclass(frozen=True)
class About:
    """What trackers are told of a run.

    Attributes:
        root: The run's directory.
        training: The host's training arguments of any task.
        options: Options of this tracker that the host's keys have.
        config: Recipe and stream, credentials masked.
    """

    root: Path
    training: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Name of the run for people."""
        name = getattr(self.training, "run_name", None)
        if name == getattr(
            self.training, "output_dir", None
        ):  # the default of Transformers 4: a folder of one training
            name = None
        return str(name or self.root.absolute().name)


class Writer:
    """One tracker.

    Args:
        about: The run.
    """

    name: ClassVar[str]

    def __init__(self, about: About) -> None:
        self.about = about

    def open(self, known: str | None) -> str | None:
        """Open the run.

        Args:
            known: What an earlier process was told by this function.

        Returns:
            What identifies the run; None where nothing needs to.
        """
        raise NotImplementedError

    def rewind(self, step: int) -> None:
        """A training goes on after this step: what an earlier process has sent of later ones is sent again."""

    def begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A trainer begins."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        raise NotImplementedError

    def picture(self, name: str, path: Path, step: int) -> None:
        """Send a picture (PNG)."""

    def close(self) -> None:
        """End this process's part of the run."""


class TensorBoard(Writer):
    """Event files in ``TENSORBOARD_LOGGING_DIR``, or in ``tensorboard/`` of the run; all processes write into one folder."""

    name = "tensorboard"

    def open(self, known: str | None) -> str | None:
        """See `Writer.open`."""
        folder = os.getenv("TENSORBOARD_LOGGING_DIR")
        self._folder = Path(folder).expanduser() / self.about.title if folder else self.about.root / "tensorboard"
        self._writer = self._new(None)
        if known is None:
            for name, value in self.about.config.items():
                self._writer.add_text(name, f"```\n{value}\n```")
        return "tensorboard"

    def _new(self, purge: int | None) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            from tensorboardX import SummaryWriter  # type: ignore[no-redef]
        return SummaryWriter(log_dir=str(self._folder), purge_step=purge)

    def rewind(self, step: int) -> None:
        """A new event file that declares later steps void."""
        self._writer.close()
        self._writer = self._new(step + 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Writer.scalars`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        """See `Writer.picture`."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """See `Writer.close`."""
        self._writer.close()


class WandB(Writer):
    """Weights & Biases: resumed by id. A run that is open in this process already is used and left open."""

    name = "wandb"

    def open(self, known: str | None) -> str | None:
        """See `Writer.open`."""
        import wandb

        self._wandb = wandb
        self._own = wandb.run is None
        if self._own:
            identity = os.getenv("WANDB_RUN_ID") or known or _identity(8)
            project = os.getenv("WANDB_PROJECT", "huggingface")
            wandb.init(project=project, id=identity, resume="allow", name=self.about.title)
        wandb.config.update(dict(self.about.config), allow_val_change=True)
        wandb.define_metric(STEP)
        wandb.define_metric("*", step_metric=STEP)
        return str(wandb.run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Writer.scalars`."""
        self._wandb.log({**values, STEP: step})

    def picture(self, name: str, path: Path, step: int) -> None:
        """See `Writer.picture`."""
        self._wandb.log({name: self._wandb.Image(str(path)), STEP: step})

    def close(self) -> None:
        """See `Writer.close`."""
        if self._own:
            self._wandb.finish()


class MLflow(Writer):
    """MLflow: resumed by id. A run that is open in this process already is used and left open."""

    name = "mlflow"

    def open(self, known: str | None) -> str | None:
        """See `Writer.open`."""
        import mlflow

        self._mlflow = mlflow
        self._own = mlflow.active_run() is None
        if not self._own:
            return str(mlflow.active_run().info.run_id)
        uri, experiment = os.getenv("MLFLOW_TRACKING_URI"), os.getenv("MLFLOW_EXPERIMENT_NAME")
        if uri:
            mlflow.set_tracking_uri(uri)
        if experiment:
            mlflow.set_experiment(experiment)
        identity = os.getenv("MLFLOW_RUN_ID") or known
        if identity is not None:
            run = mlflow.start_run(run_id=identity)
        else:
            run = mlflow.start_run(run_name=self.about.title)
            mlflow.log_dict(dict(self.about.config), "cl_plugins.json")
        return str(run.info.run_id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Writer.scalars`."""
        named = {re.sub(r"[^0-9A-Za-z_\-. :/]", "_", name): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """A later picture of the name replaces the earlier one."""
        self._mlflow.log_artifact(str(path), "pictures")

    def close(self) -> None:
        """See `Writer.close`."""
        if self._own:
            self._mlflow.end_run()


class SwanLab(Writer):
    """SwanLab: resumed by id in mode ``cloud``; the other modes cannot resume and get a run per start."""

    name = "swanlab"

    def open(self, known: str | None) -> str | None:
        """See `Writer.open`."""
        import swanlab

        self._swanlab = swanlab
        self._own = not _has_run(swanlab)
        if not self._own:
            return known
        options = {name: value for name, value in self.about.options.items() if value is not None}
        options.setdefault("experiment_name", self.about.title)
        for name in ("project", "mode"):
            if value := os.getenv(f"SWANLAB_{name.upper()}"):
                options.setdefault(name, value)
        identity = os.getenv("SWANLAB_RUN_ID") or known or _identity(21)  # the only length that older servers take
        if options.get("mode", "cloud") == "cloud":
            options |= {"id": identity, "resume": "allow"}
        swanlab.init(config=dict(self.about.config), **options)
        return identity

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Writer.scalars`."""
        self._swanlab.log(dict(values), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See `Writer.picture`."""
        self._swanlab.log({name: self._swanlab.Image(str(path))}, step=step)

    def close(self) -> None:
        """See `Writer.close`."""
        if self._own:
            self._swanlab.finish()


class Trackio(Writer):
    """Trackio: resumed by the run's name, which gets a suffix so that no other run has it."""

    name = "trackio"

    def open(self, known: str | None) -> str | None:
        """See `Writer.open`."""
        import trackio

        self._trackio = trackio
        name = known or f"{self.about.title}-{_identity(6)}"
        training = self.about.training
        trackio.init(
            project=str(getattr(training, "project", None) or "huggingface"),
            name=name,
            space_id=getattr(training, "trackio_space_id", None),
            config=dict(self.about.config),
            resume="allow",
        )
        return name

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Writer.scalars`."""
        self._trackio.log(dict(values), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See `Writer.picture`."""
        self._trackio.log({name: self._trackio.Image(str(path), caption=name)}, step=step)

    def close(self) -> None:
        """See `Writer.close`."""
        self._trackio.finish()


class ThroughTransformers(Writer):
    """Any other tracker, through its callback in Transformers: no pictures, and a run per process.

    Args:
        about: The run.
        names: Names as in ``report_to``.
    """

    name = "transformers"

    def __init__(self, about: About, names: Sequence[str]) -> None:
        from transformers import TrainerControl, TrainerState
        from transformers.integrations import get_reporting_integration_callbacks

        super().__init__(about)
        self._callbacks = [kind() for kind in get_reporting_integration_callbacks(list(names))]
        self._args = copy.copy(about.training)
        self._args.output_dir = str(about.root)
        self._state, self._control, self._begun = TrainerState(), TrainerControl(), False

    def open(self, known: str | None) -> str | None:
        """They begin with the first numbers, or with the trainer, whose model some of them ask for."""
        return None

    def begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `Writer.begin`."""
        self._state, self._control = copy.copy(state), control
        if not self._begun:
            self._begun = True
            for callback in self._callbacks:
                callback.on_train_begin(self._args, self._state, control, **kwargs)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `Writer.scalars`."""
        self._state.global_step = step
        self.begin(self._args, self._state, self._control)
        for callback in self._callbacks:
            callback.on_log(self._args, self._state, self._control, logs=dict(values))

    def close(self) -> None:
        """See `Writer.close`."""
        for callback in self._callbacks if self._begun else ():
            callback.on_train_end(self._args, self._state, self._control)
        self._begun = False


_OWN: dict[str, type[Writer]] = {kind.name: kind for kind in (TensorBoard, WandB, MLflow, SwanLab, Trackio)}


def _has_run(swanlab: Any) -> bool:
    """Whether SwanLab has an open run; versions before 0.10 have no question for that, and later ones raise for `get_run`."""
    if hasattr(swanlab, "has_run"):
        return bool(swanlab.has_run())
    return swanlab.get_run() is not None


def writer_names(names: Iterable[str]) -> set[str]:
    """Names of the writers of trackers.

    Args:
        names: As in ``report_to``.
    """
    return {name if name in _OWN else ThroughTransformers.name for name in names}


def writers(names: Mapping[str, Mapping[str, Any]], about: Callable[[Mapping[str, Any]], About]) -> list[Writer]:
    """The writers of the trackers that a recipe names.

    Args:
        names: Name as in ``report_to`` -> options of the host's own keys.
        about: Tells of the run, given these options.
    """
    found: list[Writer] = [_OWN[name](about(options)) for name, options in names.items() if name in _OWN]
    others = [name for name in names if name not in _OWN]
    if others:
        logger.debug("trackers through Transformers: %s", ", ".join(others))
        found.append(ThroughTransformers(about({}), others))
    return found


def _identity(length: int) -> str:
    """A random name of lower-case letters and digits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(length))
