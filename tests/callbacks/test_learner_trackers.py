"""Trackers that a script's trainers name in ``report_to`` get one run for the stream, as those of a recipe do."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import nullcontext
from unittest import mock

import pytest
from method_cases import slow_unless
from test_learner_runs import Mine, Stopped, learner, rows_of
from tracked_runs import TRACKERS, one_run_with_everything
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

from cl_plugins.base.errors import RunStateError
from cl_plugins.callbacks.reporting import one_run_for_all


STEPS = 3


class Plain(Trainer):
    """A trainer without the mixin."""

    def __init__(self, *args, terms=None, **kwargs):
        super().__init__(*args, **kwargs)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Stopped


def train(task, llama, name, report_to, kind=Mine, more=(), **given):
    tokenizer = AutoTokenizer.from_pretrained(llama)
    for training in task.trainings():
        args = TrainingArguments(
            output_dir=str(task.callback.directory / "trainer" / name), per_device_train_batch_size=4, max_steps=STEPS,
            save_strategy="no", report_to=report_to, use_cpu=True, disable_tqdm=True, logging_steps=1, **given,
        )  # fmt: skip
        kind(
            model=training.model, train_dataset=training.samples(rows_of(tokenizer, name)), terms=training.terms,
            data_collator=DataCollatorForSeq2Seq(tokenizer), callbacks=[*more, training.callback],
            args=training.arguments(args),
        ).train()  # fmt: skip


def script(llama, directory, report_to, *, pages=False, **given):
    """A user's script from its first line to its last; without pages and pictures, which take their time."""
    with nullcontext() if pages else mock.patch("cl_plugins.report.write_report"):
        whole_script(llama, directory, report_to, **given)


def whole_script(llama, directory, report_to, *, kind=Mine, stop=None, **given):
    made = learner(llama, directory)
    made.evaluate()
    for name in ("one", "two"):
        if name not in made.finished:
            more = [StopAt(stop)] if stop is not None and name == "two" else []
            with made.task(name) as task:
                train(task, llama, name, report_to, kind, more, **given)
        made.evaluate()
    made.finish()


@pytest.mark.parametrize("tracker", slow_unless(TRACKERS, ("tensorboard", "wandb")))
def test_one_run_has_every_loss_every_cell_the_metrics_and_the_pictures(llama, tmp_path, tracked, tracker):
    out = tmp_path / "stream"
    script(llama, out, tracker, kind=Plain, pages=True)
    one_run_with_everything(tracked, tracker, out)
    counts = Counter((n, step) for n, step, _ in tracked.points() if not n.endswith(("/epoch", "pictures")))
    assert set(counts.values()) == {1}  # Transformers' own callbacks have sent nothing beside


def test_a_script_that_is_started_again_goes_on_with_that_run(llama, tmp_path, tracked):
    out = tmp_path / "stream"
    with pytest.raises(Stopped):
        script(llama, out, "wandb", stop=2)
    sys.modules.pop("wandb")  # a process that has forgotten its run
    script(llama, out, "wandb")
    assert len(tracked("init")) == 2
    assert len({line["id"] for line in tracked("init")}) == 1
    assert [step for name, step, _ in tracked.points() if name == "two/loss"] == [4, 4, 5, 6]
    assert len([name for name, _, _ in tracked.points() if name == "score/zero_shot/one"]) == 1


def test_what_a_tracker_missed_is_sent_by_a_start_that_trains_nothing(llama, tmp_path, tracked, monkeypatch, caplog):
    out = tmp_path / "stream"
    made = learner(llama, out)
    for name in ("one", "two"):
        with made.task(name) as task:
            train(task, llama, name, "trackio")
    monkeypatch.setenv("TRACKED_FAILS", "log")
    made.evaluate()
    assert "the tracker 'trackio' failed (ConnectionError: no network)" in caplog.text
    monkeypatch.delenv("TRACKED_FAILS")
    sys.modules.pop("trackio")
    again = learner(llama, out)
    again.evaluate()
    with mock.patch("cl_plugins.report.write_report"):
        again.finish()
    assert {"score/after_two/one", "score/after_two/two"} <= set(tracked.values("score/"))
    assert "metrics/last" in tracked.values("metrics/")
    assert len({line["id"] for line in tracked("init")}) == 1


def test_the_run_is_named_after_the_directory_or_as_the_trainer_says(llama, tmp_path, tracked):
    script(llama, tmp_path / "stream", "wandb")
    script(llama, tmp_path / "other", "wandb", run_name="mine")
    assert [line["name"] for line in tracked("init")] == ["stream", "mine"]
    assert len({line["id"] for line in tracked("init")}) == 2


def test_one_that_cannot_be_opened_is_an_error_before_the_first_step(llama, tmp_path, tracked, monkeypatch):
    monkeypatch.setenv("TRACKED_FAILS", "init")
    made = learner(llama, tmp_path / "stream")
    with (
        pytest.raises(RunStateError, match=r"'mlflow' cannot be opened.*no network") as caught,
        made.task("one") as task,
    ):
        train(task, llama, "one", "mlflow")
    assert caught.value.problems[0].fix.endswith('or give the trainer `report_to="none"`.')


def test_without_trackers_nothing_is_opened_and_an_unknown_one_is_refused(llama, tmp_path, tracked):
    script(llama, tmp_path / "stream", "none")
    assert not tracked()
    made = learner(llama, tmp_path / "other")
    with pytest.raises(ValueError, match="tensorbord"), made.task("one") as task:
        train(task, llama, "one", "tensorbord")


def test_only_trainers_that_are_made_inside_a_task_leave_their_callbacks_out():
    from transformers import trainer

    before = trainer.get_reporting_integration_callbacks
    for error in (None, Stopped):
        with pytest.raises(Stopped) if error else nullcontext(), one_run_for_all():
            assert trainer.get_reporting_integration_callbacks("wandb") == []
            if error:
                raise error
        assert trainer.get_reporting_integration_callbacks is before
