"""Carries out recipes with several gloo ranks, watched from inside: ``python worker.py JOBS.json``.

The imports are done once; the ranks of a job are forks of this process. Each job is a mapping with ``keys`` (the
recipe), ``observe`` (a folder for what was seen, or null), ``processes``, ``kill_after`` (a step of the journal after
which rank 0 kills itself, or null) and ``kill_at`` (an optimizer step, or null). What a job's ranks
print goes to ``<observe>/rank<n>.log``; the exit codes go to ``<observe>/exit.json``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path

from launch import PATIENCE, TRIES, free_port, unreached


def watch(job, rank):
    """Keep the logits before and after every boundary and of the last model."""
    import torch

    from cl_plugins.adapters.partitioned import forward_gathers
    from cl_plugins.run import runner
    from cl_plugins.training import guards

    folder = Path(job["observe"])
    ids, pixels = torch.load(job["inputs"], weights_only=True)
    half = bool(job["keys"].get("bf16"))  # answers are computed in the precision of the training

    def logits(model, gathers=True):
        training = model.training
        model.eval()
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
        with torch.no_grad(), autocast, forward_gathers(model) if gathers else nullcontext():
            value = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits
        model.train(training)
        return value.detach().float().clone()

    seen = {"fresh": [], "before": [], "after": []}
    marks, do = guards.marks, runner.Runner._do
    calls = {"n": 0}

    def watched_marks(model):
        """Called before and after the training; after it, the engine's own hooks are still there to gather."""
        trained = calls["n"] % 2 == 1
        seen["before" if trained else "fresh"].append(logits(model, gathers=not trained))
        calls["n"] += 1
        return marks(model)

    def after_step(self, step, plan):
        do(self, step, plan)
        if step.kind == "consolidate":
            seen["after"].append(logits(self._state.answering(self._state.carry)))
        if rank == 0:
            torch.save(seen, folder / "seen.pt")
            if step.key == job.get("kill_after"):
                os.kill(os.getpid(), signal.SIGKILL)

    guards.marks = watched_marks
    runner.Runner._do = after_step


def killer(job):
    """A callback that kills its own process in the middle of a task."""
    from transformers import TrainerCallback

    class Killer(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == job["kill_at"]:
                os.kill(os.getpid(), signal.SIGKILL)

    return Killer()


def let_bf16_through():
    """Transformers wants a GPU or `use_cpu` for bf16, and `use_cpu` does not go with DeepSpeed; the arithmetic does."""
    from transformers import training_args

    training_args.is_torch_bf16_gpu_available = lambda: True


def rank_main(job, rank, port):
    count = job["processes"]
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    signal.alarm(int(PATIENCE))
    log = open(Path(job["observe"]) / f"rank{rank}.log", "a")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    from llamafactory.train.tuner import run_exp

    if job["keys"].get("bf16") and job["keys"].get("deepspeed"):
        let_bf16_through()
    if job["watched"]:  # the logits that are looked at are evaluations too
        watch(job, rank)
    run_exp(dict(job["keys"]), callbacks=[killer(job)] if job.get("kill_at") else None)


def start(job, tries=TRIES):
    """Run a job; once more if its ranks did not find each other."""
    port, folder = free_port(), Path(job["observe"])
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"rank{rank}.log" for rank in range(job["processes"])]
    written = [log.stat().st_size if log.exists() else 0 for log in logs]
    children = []
    for rank in range(job["processes"]):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                rank_main(job, rank, port)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    said = [log.read_bytes()[size:].decode(errors="replace") for log, size in zip(logs, written, strict=True)]
    if any(codes) and any(map(unreached, said)) and tries > 1:
        return start(job, tries - 1)
    (folder / "exit.json").write_text(json.dumps(codes))


def main():
    import llamafactory.train.sft.workflow
    import llamafactory.train.tuner  # noqa: F401
    import torch

    import cl_plugins.host.trainer  # noqa: F401

    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        if job["keys"].get("deepspeed"):
            import deepspeed  # noqa: F401
        start(job)


if __name__ == "__main__":
    main()
