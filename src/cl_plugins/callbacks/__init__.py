"""The methods for any Transformers trainer: ``Trainer``, ``Seq2SeqTrainer``, TRL's ``SFTTrainer``, a custom trainer.

Two ways in:

* `ContinualLearner` holds the base and leads a stream through a method, task by task::

      learner = ContinualLearner(model, "inclora", "out", lora=LoraConfig(...))
      for name, dataset in stream.items():
          with learner.task(name) as task:
              SFTTrainer(task.model, train_dataset=dataset, callbacks=[task.callback], ...).train()
      model = learner.model()  # answers for all tasks

  With ``tasks=[...]`` and ``tests={...}`` the directory is that of a run: ``learner.evaluate()`` fills a row of the accuracy
  matrix, ``learner.finish()`` writes ``final/`` and the report.

* `ContinualCallback` alone, where something else builds the model, as in
  ``run_exp(args, callbacks=[ContinualCallback("ewc", "out", "task_1")])``.

Penalties need the callback only. A method that uses the logits of every batch (LwF, DER) or adds samples to it
(replay) needs the trainer: ``class Mine(ContinualTrainerMixin, SFTTrainer)`` and ``Mine(..., terms=task.terms)``. Both
write the carry of a run, in the same format; the samples of a replay buffer are in it as the trainer's
collator got them.
"""

from __future__ import annotations

from ..training.mixin import ContinualTrainerMixin
from .callback import ContinualCallback, make_method
from .learner import ContinualLearner


__all__ = ["ContinualCallback", "ContinualLearner", "ContinualTrainerMixin", "make_method"]
