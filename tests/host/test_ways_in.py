"""Every way into the host, each in a fresh interpreter: our runner must run, with the recipe as it was written.

The runner itself is replaced by one that writes down what it got: a `sitecustomize.py` on PYTHONPATH puts it into
`sys.modules` of every process, also of those that torchrun starts. Two interpreters at a time; a test waits for its
own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from launch import environment, execute


FAKE_RUNNER = """
import json, os, sys, types

def run_stream(host, recipe, callbacks):
    config = recipe.config
    block = {
        "stream": config.stream.name,
        "tasks": config.stream.task_names,
        "method": config.method,
        "max_new_tokens": config.eval.max_new_tokens,
        "task_overrides": config.block.task_overrides,
    }
    line = json.dumps({"host": host.name, "keys": recipe.host_keys, "cl": block, "callbacks": len(callbacks)})
    with open(os.path.join(os.environ["CL_TEST_OUT"], "ran_%s.jsonl" % os.environ.get("RANK", "0")), "a") as file:
        file.write(line + "\\n")

fake = types.ModuleType("cl_plugins.run.entry")
fake.run_stream = run_stream
sys.modules[fake.__name__] = fake
"""

HEAD = """
import json, os, sys
OUT = os.environ["CL_TEST_OUT"]

def recipe():
    import yaml
    with open(os.path.join(OUT, "recipe.yaml")) as file:
        return yaml.safe_load(file)

def report(**facts):
    with open(os.path.join(OUT, "report.json"), "w") as file:
        json.dump(facts, file)
"""

TUNER_FIRST = """
from llamafactory.train.tuner import run_exp
run_exp(recipe())
"""

# `import torch` happens while `sft` and its `workflow` are being executed.
SFT_FIRST = """
from llamafactory.train.sft import run_sft
import inspect, llamafactory.train.sft as sft, llamafactory.train.sft.workflow as workflow
at_once = hasattr(run_sft, "__wrapped__") and run_sft is sft.run_sft is workflow.run_sft
report(
    at_once=at_once,
    source=inspect.getsource(run_sft).startswith("def run_sft("),
    spec=[type(m.__spec__).__name__ for m in (sft, workflow)],
    loader=[type(m.__loader__).__name__ for m in (sft, workflow)],
)
from llamafactory.train.tuner import run_exp
run_exp(recipe())
"""

HPARAMS_FIRST = """
from llamafactory.hparams import get_train_args
first = get_train_args(recipe())[1]
import importlib, pickle, subprocess
from llamafactory.hparams import parser
importlib.reload(parser)
again = parser.get_train_args(recipe())[1]
from llamafactory.train import tuner, sft
importlib.reload(sft)
importlib.reload(tuner)
reloaded = parser.get_train_args(recipe())[1]
with open(os.path.join(OUT, "data_args.pickle"), "wb") as file:
    pickle.dump(first, file)
report(
    same_class=type(first) is type(again) is type(reloaded),
    kept=first.cl_recipe == again.cl_recipe == reloaded.cl_recipe,
    loader=type(parser.__loader__).__name__,
)
tuner.run_exp(recipe())
"""

TORCH_FIRST = """
import torch
loaded = sorted({"llamafactory", "transformers", "cl_plugins.recipe"} & set(sys.modules))
finders = sum(hasattr(finder, "cl_plugins_finder") for finder in sys.meta_path)
# A pickled instance arrives in a process that has not imported the host (a worker of Ray).
import pickle
from cl_plugins.host import arguments
data_args = arguments.ContinualDataArguments(cl=recipe()["cl"])
report(loaded=loaded, finders=finders, copied=pickle.loads(pickle.dumps(data_args)) == data_args)
from llamafactory.train.tuner import run_exp
run_exp(recipe())
"""

# CL_PLUGINS_AUTOLOAD=0, everything imported, names copied; then the plugin is switched on by hand.
LATE = """
from llamafactory.train.tuner import run_exp
from llamafactory.train.sft import run_sft
from llamafactory.hparams import get_train_args
try:
    run_exp(recipe())
    before = "no error"
except ValueError as error:
    before = str(error)
ran_before = os.path.exists(os.path.join(OUT, "ran_0.jsonl"))
import cl_plugins
cl_plugins.install()
cl_plugins.install()
parsed = get_train_args(recipe())
report(
    before=before,
    ran_before=ran_before,
    copy_replaced=hasattr(run_sft, "__wrapped__") and not hasattr(run_sft.__wrapped__, "__wrapped__"),
    wrapped_once=not hasattr(sys.modules["llamafactory.hparams.parser"]._parse_train_args.__wrapped__, "__wrapped__"),
)
run_exp(recipe())
"""

# The host's private list has another name; TORCH_DEVICE_BACKEND_AUTOLOAD=0, so the plugin is switched on by hand.
MOVED = """
import importlib.abc, importlib.machinery

class Renaming(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data, path, **kwargs):
        return super().source_to_code(data.replace(b"_TRAIN_ARGS", b"_ARGS_FOR_TRAINING"), path, **kwargs)
    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "llamafactory.hparams.parser":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = Renaming(name, spec.origin)
        return spec

sys.meta_path.insert(0, Finder())
import cl_plugins
cl_plugins.install()
from llamafactory.hparams import get_infer_args, get_train_args
from cl_plugins.base.errors import CompatibilityError

def message(function, *args):
    try:
        function(*args)
    except CompatibilityError as error:
        return str(error)
    except Exception as error:
        return "another error: %r" % error
    return "no error"

ordinary = {key: value for key, value in recipe().items() if key != "cl"}
ordinary["dataset"] = "some_data"
sys.argv = ["train", os.path.join(OUT, "recipe.yaml")]
report(
    from_dict=message(get_train_args, recipe()),
    from_yaml=message(get_train_args),
    infer=message(get_infer_args, recipe()),
    ordinary=get_train_args(ordinary)[1].dataset,
)
from llamafactory.train.tuner import run_exp
with open(os.path.join(OUT, "plain.json")) as file:
    run_exp(json.load(file))
"""


@dataclass(frozen=True)
class Way:
    """One way in: a script, or the words of a command, and the environment it is started with."""

    script: str | None = None
    words: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


OVERRIDES = ("cl.method.name=inclora", "cl.eval.max_new_tokens=8", "learning_rate=0.0003")
WAYS = {
    "torchrun": Way(words=("train", "RECIPE", *OVERRIDES), env=(("FORCE_TORCHRUN", "1"), ("NPROC_PER_NODE", "2"))),
    "cli": Way(words=("train", "RECIPE", *OVERRIDES)),
    "tuner_first": Way(TUNER_FIRST),
    "sft_first": Way(SFT_FIRST),
    "hparams_first": Way(HPARAMS_FIRST),
    "torch_first": Way(TORCH_FIRST),
    "late": Way(LATE, env=(("CL_PLUGINS_AUTOLOAD", "0"),)),
    "moved": Way(MOVED, env=(("TORCH_DEVICE_BACKEND_AUTOLOAD", "0"),)),
}


@dataclass(frozen=True)
class Outcome:
    """What a way in left behind."""

    out: Path
    recipe: dict[str, Any]
    code: int
    log: str

    @property
    def report(self) -> dict[str, Any]:
        assert self.code == 0, self.log
        return json.loads((self.out / "report.json").read_text())

    def ran(self, rank: int = 0) -> list[dict[str, Any]]:
        path = self.out / f"ran_{rank}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _start(way: Way, out: Path, recipe: dict[str, Any], plain: dict[str, Any] | None) -> Outcome:
    (out / "site").mkdir(parents=True)
    (out / "plain.json").write_text(json.dumps({**(plain or {}), "output_dir": str(out / "plain")}))
    (out / "site" / "sitecustomize.py").write_text(FAKE_RUNNER)
    recipe = {**recipe, "output_dir": str(out / "run")}
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    python_path = [str(out / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = environment(PYTHONPATH=os.pathsep.join(python_path), CL_TEST_OUT=str(out))
    env = {k: v for k, v in env.items() if k not in ("CL_PLUGINS_AUTOLOAD", "USE_MCA")} | dict(way.env)
    bin_dir = str(Path(sys.executable).parent)
    if way.script is None:
        words = [str(out / "recipe.yaml") if word == "RECIPE" else word for word in way.words]
        command = [str(Path(bin_dir) / "llamafactory-cli"), *words]
    else:
        (out / "way.py").write_text(HEAD + way.script)
        command = [sys.executable, str(out / "way.py")]
    done = execute(command, lambda: env, cwd=out, check=False)
    return Outcome(out, recipe, done.returncode, done.stdout)


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, base_recipe: dict[str, Any]
) -> Iterator[dict[str, Future[Outcome]]]:
    wanted = {item.name.removeprefix("test_") for item in request.session.items if item.module is request.module}
    base = tmp_path_factory.mktemp("ways")
    plain = None
    if "moved" in wanted:  # the only one that really trains
        llama, texts = (request.getfixturevalue(name) for name in ("llama", "text_data"))
        plain = tiny.recipe(llama, texts, base, "seqlora", text_only=True, dataset="one_train", max_steps=1)
        del plain["cl"]
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {
            name: pool.submit(_start, way, base / name, base_recipe, plain)
            for name, way in WAYS.items()
            if name in wanted
        }


@pytest.fixture
def outcome(started: dict[str, Future[Outcome]], request: pytest.FixtureRequest) -> Outcome:
    return started[request.node.name.removeprefix("test_")].result()


def _seen(recipe: dict[str, Any], method: str = "seqlora", length: int = 64, **keys: Any) -> dict[str, Any]:
    """What the runner must be given for a recipe; the callbacks of the host's launcher are left out."""
    block = {
        "stream": "two_sites",
        "tasks": ["path", "rad"],
        "method": method,
        "max_new_tokens": length,
        "task_overrides": {"rad": {"max_steps": 400}},
    }
    keys = {key: value for key, value in recipe.items() if key != "cl"} | keys
    return {"host": "LLaMA-Factory", "keys": keys, "cl": block, "callbacks": 0}


@pytest.mark.slow  # tests/distributed/test_two_processes.py carries out a whole run this way
def test_torchrun(outcome):
    assert outcome.code == 0, outcome.log
    expected = [_seen(outcome.recipe, "inclora", 8, learning_rate=0.0003)]
    assert outcome.ran(0) == expected
    assert outcome.ran(1) == expected


def test_cli(outcome):
    assert outcome.code == 0, outcome.log
    assert outcome.ran() == [_seen(outcome.recipe, "inclora", 8, learning_rate=0.0003)]


def test_tuner_first(outcome):
    assert outcome.code == 0, outcome.log
    assert outcome.ran() == [_seen(outcome.recipe)]


def test_sft_first(outcome):
    assert outcome.report == {
        "at_once": True,
        "source": True,
        "spec": ["ModuleSpec", "ModuleSpec"],
        "loader": ["SourceFileLoader", "SourceFileLoader"],
    }
    assert outcome.ran() == [_seen(outcome.recipe)]


def test_hparams_first(outcome):
    assert outcome.report == {"same_class": True, "kept": True, "loader": "SourceFileLoader"}
    assert outcome.ran() == [_seen(outcome.recipe)]


def test_torch_first(outcome):
    assert outcome.report == {"loaded": [], "finders": 1, "copied": True}
    assert outcome.ran() == [_seen(outcome.recipe)]


def test_late(outcome):
    report = outcome.report
    assert report["before"] == "Some keys are not used by the HfArgumentParser: ['cl']"
    assert report["ran_before"] is False
    assert report["copy_replaced"] is True
    assert report["wrapped_once"] is True
    assert outcome.ran() == [_seen(outcome.recipe)]


def test_moved(outcome):
    report = outcome.report
    for way in ("from_dict", "from_yaml", "infer"):
        assert "llamafactory.hparams.parser._TRAIN_ARGS:" in report[way]
        assert "Supported are 0.9.5 (" in report[way]
    assert report["ordinary"] == ["some_data"]
    assert outcome.ran() == []
    state = json.loads((outcome.out / "plain" / "trainer_state.json").read_text())
    assert state["global_step"] == 1
    assert (outcome.out / "plain" / "adapter_model.safetensors").is_file()
