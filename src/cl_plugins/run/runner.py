"""The loop over the steps of a run. It knows no method by name."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base import ranks
from ..base.files import write_bytes
from ..base.logs import logger
from ..config import Recipe
from ..contract.carry import Carry
from ..contract.host import Host
from ..evaluation.matrix import AccuracyMatrix, row_name
from ..evaluation.metrics import continual_metrics
from ..evaluation.results import SHORT, TOGETHER
from ..methods.registry import get_method
from ..records.run import read_run, write_run
from ..replay.keeping import candidate_files
from . import parts, prepare, record
from .backends import engine_rules
from .consolidate import consolidate
from .data_sets import trained_tests
from .evaluate import build_matrix, evaluate, read_probes, write_matrix
from .finish import finish
from .harness_run import measure
from .interrupt import Interrupted, StopRequest
from .journal import Journal
from .opening import Opening, begin, forget_end, note_failure, open_directory, trained_tasks
from .plan import JOINT, ORACLE, ZERO_SHOT, Step, make_plan
from .progress import Progress, clock
from .reading import read_data
from .state import RunState
from .train import remove_checkpoints, train
from .units import units
from .validation import unused_sets


if TYPE_CHECKING:
    from ..report import Run


class Runner:
    """Carries out one recipe in one output directory.

    Args:
        host: The library that has model, data and trainer.
        recipe: The checked recipe.
        callbacks: The user's trainer callbacks.
        stop: Whether someone asked the run to stop.
    """

    def __init__(self, host: Host, recipe: Recipe, callbacks: list[Any], stop: StopRequest) -> None:
        self._config = config = recipe.config
        self._root = Path(str(recipe.host_keys["output_dir"]))
        self._numbers: dict[str, int] = {}  # step -> its number in the plan
        self._tidied: set[str] = set()  # tasks whose folders this process has looked through
        self._row_open = False  # whether a cell was measured since a row ended
        self._rows_ended = 0
        self._rows_written = 0  # of them, in the matrix
        self._has_matrix = False  # whether this process, which is rank 0 then, has written it
        self._state = RunState(
            host=host,
            root=self._root,
            host_keys=recipe.host_keys,
            config=config,
            method=get_method(config.method)(config.options),
            journal=Journal(Path("/nonexistent")),
            stop=stop,
            callbacks=callbacks,
        )

    def run(self) -> None:
        """Do every step that is not finished yet."""
        state = self._state
        opening, plan = self._open()
        todo = [step for step in plan if step.key not in state.journal]
        if not todo:
            ranks.on_main(lambda: self._begin(opening))
            logger.info("this run is finished; nothing to do")
            ranks.on_main(lambda: self._show(plan))
            state.tracker.close()
            return
        if state.carry is not None:
            ranks.on_main(state.carry.verify)
        about = state.host, state.host_keys, self._config
        known = ranks.on_main(lambda: trained_tests(*about))
        for line in (*unused_sets(*about), *known.values()):
            logger.info("%s", line)
        self._read(todo, opening.appended, known)
        ranks.on_main(lambda: self._begin(opening))
        try:
            ranks.on_main(state.tracker.open)
            ranks.on_main(lambda: self._catch_up(plan))
            ranks.on_main(lambda: self._track(plan))
            if self._carry_out(todo, plan):
                ranks.on_main(lambda: self._show(plan))
        finally:
            state.tracker.close()

    def _open(self) -> tuple[Opening, list[Step]]:
        """Compare the directory with the recipe and recover what a kill has left; what `_begin` will write, and all steps."""
        state = self._state
        state.base_fingerprint = ranks.on_main(lambda: state.host.fingerprint(state.run_args))
        engine_rules(state)  # known as soon as the base is; nothing is trained for an engine that cannot answer
        earlier = ranks.on_main(
            lambda: prepare.earlier_carry(self._config, state.host_keys, state.base_fingerprint, self._root)
        )
        opening = ranks.on_main(lambda: open_directory(state, earlier))
        state.journal = Journal(self._root)
        if opening.appended:
            forget_end(state.journal)
        plan = make_plan(self._config, state.method, earlier.tasks if earlier else ())
        self._numbers = {step.key: number for number, step in enumerate(plan, start=1)}
        ranks.on_main(lambda: self._tidy_up(plan))
        state.carry = self._current_carry() or earlier
        return opening, plan

    def _carry_out(self, todo: list[Step], plan: list[Step]) -> bool:
        """Do the steps that are left; whether all of them are done now."""
        state = self._state
        state.progress = Progress(units(state, todo), visible=ranks.is_main())
        limit, count = self._config.block.stop_after, 0
        try:
            for steps in self._rows(todo):
                for step in steps:
                    if ranks.any_true(state.stop.asked):  # all ranks leave together, or none
                        raise Interrupted
                    self._do(step, plan)
                    count += 1
                    if limit is not None and count >= limit and step is not todo[-1]:
                        logger.info(
                            "stopped after %d steps, as cl.stop_after says; the same command resumes the run, "
                            "`cl-plugins report` draws what is there",
                            limit,
                        )
                        self._end_row(plan, now=True)
                        ranks.on_main(self._write_run)
                        return False
                self._end_row(plan)
        except Interrupted:
            self._end_row(plan, now=True)
            done = sum(step.key in state.journal for step in plan)
            logger.info("stopped: %d of %d steps are finished; the same command resumes the run", done, len(plan))
            raise
        finally:
            state.close_backend()
            state.progress.close()
        return True

    def _rows(self, todo: list[Step]) -> Iterator[list[Step]]:
        """The steps; those of a row together, by the model that answers them, which is known when the row begins."""
        for _, steps in groupby(todo, key=lambda step: step.row if step.tests else step.key):
            yield self._state.by_route(list(steps))

    def _begin(self, opening: Opening) -> None:
        begin(self._root, opening)
        self._state.hashes.save()

    def _tidy_up(self, plan: list[Step]) -> None:
        """Do again what a kill right after a line of the journal may have left undone."""
        done = [step for step in plan if step.key in self._state.journal]
        for step in done:
            if step.kind == "train":
                remove_checkpoints(self._state, str(step.task), step.phase)
            elif step.tests:
                parts.remove(self._root, str(step.row), str(step.task), step.place)
        consolidated = [str(step.task) for step in done if step.kind == "consolidate"]
        if consolidated:
            self._tidy(consolidated[-1])

    def _current_carry(self) -> Carry | None:
        """The carry in the run's own directory."""
        path = self._root / "carry"
        return Carry.open(path) if (path / "carry.json").is_file() else None

    def _read(self, todo: list[Step], appended: Sequence[str], known: Collection[tuple[str, str]]) -> None:
        """Read what is still needed; the training sets of tasks that were there at an earlier start were checked then."""
        tests = dict.fromkeys(step.task for step in todo if step.tests and step.task)
        trainings = list(dict.fromkeys(step.task for step in todo if step.kind == "train" and step.task))
        if any(step.startswith("train:") for step in self._state.journal.entries):
            trainings = [task for task in trainings if task in appended]
        read_data(self._state, list(tests), trainings, known)

    def _do(self, step: Step, plan: list[Step]) -> None:
        state, number = self._state, self._numbers[step.key]
        if step.tests and step.row != ZERO_SHOT and not self._measurable(step):
            logger.warning(
                "%s can no longer be measured, since the carry is of a later task; the cell stays empty", step.key
            )
            return
        started = time.monotonic()
        state.progress.begin(step, number, len(plan))
        artefacts: dict[str, Any] = {}
        details: dict[str, Any] = {}
        if not step.tests:
            state.close_backend()
        if step.tests:
            artefacts, details = self._evaluate(step, plan)
        elif step.kind == "train":
            try:
                artefacts, details = train(state, step, lambda n: state.progress.begin(step, number, len(plan), n))
            except Exception as error:
                if ranks.is_main():
                    note_failure(self._root, step.key, error)
                raise
            details["processes"] = ranks.world_size()
        elif step.kind == "consolidate":
            artefacts = ranks.on_main(lambda: consolidate(state, step))
            state.carry = Carry.open(self._root / "carry")
            state.forget_model()
        else:
            if self._config.eval.scope != "none":
                ranks.on_main(lambda: self._write_matrix(plan))  # the model card shows it
            artefacts, details = finish(state)
        seconds = time.monotonic() - started
        if state.restore_seconds is not None:
            details["restore_seconds"] = round(state.restore_seconds, 3)
            state.restore_seconds = None
        ranks.on_main(lambda: state.journal.finish(step.key, seconds, artefacts, **details))
        ranks.barrier()
        state.progress.end()
        self._row_open = self._row_open or step.tests
        ranks.on_main(lambda: self._after(step, plan, seconds, details))

    def _evaluate(self, step: Step, plan: list[Step]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Artefacts and details of a step that tests the model."""
        probe = self._config.probe(str(step.task)) if step.kind == "probe" else None
        if probe is not None and probe.harness is not None:
            return measure(self._state, step, probe)
        return evaluate(self._state, step, plan)

    def _measurable(self, step: Step) -> bool:
        """Whether the model of this row is the one the carry holds."""
        tasks = self._state.carry.tasks if self._state.carry is not None else ()
        if step.row == ORACLE:
            return bool(tasks) and tasks[-1] == trained_tasks(self._state)[-1]
        return bool(tasks) and step.row in (row_name(tasks[-1]), tasks[-1])

    def _after(self, step: Step, plan: list[Step], seconds: float, details: dict[str, Any]) -> None:
        """What follows a finished step on rank 0: tidying up, trackers, a line for the reader."""
        task = str(step.task)
        if step.tests:
            parts.remove(self._root, str(step.row), task, step.place)
            logger.info("%s: %.2f (n=%d, %s)", step.key, details["score"], details["n"], clock(seconds))
            self._state.tracker.cells(self._state.journal.entries)
            if not self._has_matrix:  # the first cell: from now on there is something to show
                self._state.journal.sync()
                self._write_matrix(plan)
        elif step.kind == "train":
            logger.info("%s: %d optimizer steps in %s", step.key, details["optimizer_steps"], clock(seconds))
            if "valid_loss" in details:
                logger.info(
                    "%s: validation loss %.4f at step %d", step.key, details["valid_loss"], details["valid_step"]
                )
            remove_checkpoints(self._state, task, step.phase)
        elif step.kind == "consolidate":
            self._tidy(task)

    def _tidy(self, task: str) -> None:
        """``cl.keep``: the updates of which tasks stay under ``tasks/``; the carry has its own copy or link.

        Training samples never stay there, so that `cl-plugins replay delete` has one place to search.
        """
        keep = self._config.block.keep
        names = list(self._config.stream.task_names) if task != JOINT else [JOINT]
        position = names.index(task)
        tidied = [] if keep == "all" else names[:position] if keep == "last" else names[: position + 1]
        folders = [self._state.directory(name) for name in tidied if name not in self._tidied]
        gone = [p for f in folders for p in (*sorted(f.glob("*.safetensors")), f / "update.json") if p.is_file()]
        for name in names[: position + 1]:
            if name not in self._tidied:
                gone += [p for p in candidate_files(self._state.directory(name)) if p not in gone]
        self._tidied |= {*(names[: position + 1] if keep == "all" else tidied)}
        if not gone:
            return
        for path in gone:
            self._state.journal.forget(str(path.relative_to(self._root)))
        self._state.journal.rewrite()  # first: a file that the journal names must never be missing
        for path in gone:
            path.unlink()

    def _end_row(self, plan: list[Step], *, now: bool = False) -> None:
        """Write the matrix with the cells that were measured since; what a kill leaves out is in their own files.

        Args:
            plan: All steps.
            now: Also where a long stream waits for further rows.
        """
        ended, self._row_open = self._row_open, False
        if ended:
            self._rows_ended += 1
            ranks.on_main(self._state.journal.sync)  # first: no cell of the matrix may be missing in the journal
        due = self._rows_ended <= SHORT or self._rows_ended % TOGETHER == 0
        if self._rows_ended > self._rows_written and (due or now):
            self._rows_written = self._rows_ended
            ranks.on_main(lambda: self._write_matrix(plan))
        if ended:
            ranks.on_main(lambda: self._track(plan))

    def _catch_up(self, plan: list[Step]) -> None:
        """Write the matrix with the cells of a row in which an earlier process was killed."""
        if any(step.tests and step.key in self._state.journal for step in plan):
            self._write_matrix(plan)

    def _write_matrix(self, plan: list[Step]) -> None:
        carry = self._state.carry
        learned = carry.tasks if carry is not None else ()
        self._has_matrix = True
        write_matrix(self._root, self._matrix(plan, learned), read_probes(self._root, plan))

    def _matrix(self, plan: list[Step], learned: Sequence[str] = ()) -> AccuracyMatrix:
        state = self._state
        return build_matrix(self._root, plan, self._config, state.scores, learned, looked_at=state.rows_read)

    def _track(self, plan: list[Step]) -> None:
        """Send to the trackers what they do not have: cells, and the metrics of the latest row if it is complete."""
        journal, tracker = self._state.journal, self._state.tracker
        if not tracker.wanted:
            return
        tracker.cells(journal.entries)
        tested = [step for step in plan if step.kind == "evaluate" and step.row not in (ZERO_SHOT, ORACLE)]
        done = [step.row for step in tested if step.key in journal]
        if done and all(step.key in journal for step in tested if step.row == done[-1]):
            metrics = continual_metrics(self._matrix(plan))
            values = {
                name: metric.value if metric.values is None else metric.values for name, metric in metrics.items()
            }
            tracker.metrics(str(done[-1]), values, self._state.steps_done)

    def _write_run(self) -> None:
        """Bring ``run.json`` up to date."""
        value = read_run(self._root)
        entries = self._state.journal.entries
        value["seconds"] = round(sum(entry.seconds for entry in entries.values()), 1)
        value["peak_memory_bytes"] = max(record.peak_memory(), int(value.get("peak_memory_bytes") or 0))
        value["sizes"] = {
            name: sum(p.stat().st_size for p in (self._root / name).rglob("*") if p.is_file())
            for name in ("carry", "final", "tasks")
        }
        counted = {step.split(":")[1]: entry.details for step, entry in entries.items() if step.startswith("train:")}
        value["training_data"] = {
            task: {key: details[key] for key in ("records", "dropped_records", "cut_samples")}
            for task, details in counted.items()
            if "dropped_records" in details
        }
        value["test_data"] = {**(value.get("test_data") or {}), **self._state.shortened_tests()}
        measured = ("valid_loss", "valid_step", "optimizer_steps")
        value["validation"] = {
            task: {key: details[key] for key in measured}
            for task, details in counted.items()
            if "valid_loss" in details
        }
        if "finish" in entries:
            value["merge_error"] = entries["finish"].details.get("merge_error")
        trained = {
            k.removeprefix("train:"): e.details.get("numbers") for k, e in entries.items() if k.startswith("train:")
        }
        value["numbers"] = {name: numbers for name, numbers in trained.items() if numbers}
        write_run(self._root, value)

    def _write_report(self, plan: list[Step]) -> Run | None:
        """Bring ``run.json`` up to date and write matrix, metrics, tables, pictures and pages.

        Returns:
            The run as it was read for them; None where nothing is tested.
        """
        from ..report import read_run as read_results
        from ..report import write_report

        self._write_run()
        if self._config.eval.scope == "none":
            return None
        self._write_matrix(plan)
        run = read_results(self._root)
        write_report(run, write_bytes)
        return run

    def _show(self, plan: list[Step]) -> None:
        from ..report import terminal_table

        run = self._write_report(plan)
        if run is not None:
            logger.info("results\n%s", terminal_table(run))
            logger.info("report: %s", self._root / "report.html")
            self._track(plan)
            self._state.tracker.pictures(self._state.steps_done)
        logger.info("final model: %s", self._root / "final")
