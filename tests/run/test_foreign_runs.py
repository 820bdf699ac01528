"""A run, a stream or a recipe of somebody else: opening it runs no code, hangs on nothing and unfolds to nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sealed
import tiny
import transformers
from running import go, recipe

from cl_plugins.base.errors import ClPluginsError, RecipeError, RunStateError
from cl_plugins.cli import main
from cl_plugins.recipe import parse_cl
from cl_plugins.run.reopen import distrusted
from cl_plugins.streams import load_stream


CODE = "open({mark!r}, 'w').close()\nraise RuntimeError('this code must not run')\n"


@pytest.fixture(autouse=True)
def classes_as_they_were():
    """A config with `auto_map` marks Transformers' own classes for the whole process."""
    yield
    for name in ("LlamaForCausalLM", "LlamaConfig"):
        getattr(transformers, name)._auto_class = None


@pytest.fixture(scope="module")
def foreign(llama, text_data, tmp_path_factory):
    """A run on a base with code of its own, whose record asks to run it."""
    folder = tmp_path_factory.mktemp("foreign")
    base = Path(shutil.copytree(llama, folder / "base"))
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (base / "config.json").write_text(json.dumps(config))
    (base / "evil.py").write_text(CODE.format(mark=str(folder / "ran")))
    # Without the key, Transformers takes its own class. The last step would copy the code.
    go(recipe(base, text_data, folder / "run", "seqlora", ("one",), cl={"stop_after": 4}))
    assert not (folder / "ran").exists()
    sealed.edit(folder / "run" / "run.json", lambda record: record["recipe"].update(trust_remote_code=True))
    return folder


@pytest.mark.parametrize("words", [["evaluate"], ["export", "--to", "adapter"]])
def test_the_record_of_a_run_cannot_ask_for_code(foreign, tmp_path, words, capsys):
    command = [words[0], str(foreign / "run"), *words[1:], "--out", str(tmp_path / "out")]
    assert main(command) != 0
    said = capsys.readouterr().err
    assert "--trust-remote-code" in said
    assert "trust_remote_code: true" in " ".join(said.split())
    assert not (foreign / "ran").exists()


def test_the_command_can(foreign, tmp_path, capsys):
    try:
        main(["evaluate", str(foreign / "run"), "--out", str(tmp_path / "out"), "--trust-remote-code"])
    except Exception:  # what the code itself raises
        capsys.readouterr()
    assert (foreign / "ran").exists()
    (foreign / "ran").unlink()


def block(tasks=("one",), **more):
    return parse_cl({"stream": tiny.stream(tasks), "method": {"name": "seqlora"}, **more})


def test_trust_hides_nowhere(tmp_path):
    """The key is dropped at the top level, in the overrides of the block, and in those of the stream."""
    config = block(task_overrides={"one": {"trust_remote_code": True, "max_steps": 3}})
    tasks = [
        dataclasses.replace(t, overrides={"trust_remote_code": True}, defaults={"trust_remote_code": True})
        for t in config.stream.tasks
    ]
    config = dataclasses.replace(config, stream=dataclasses.replace(config.stream, tasks=tuple(tasks)))
    keys, plain = distrusted(tmp_path, {"trust_remote_code": True, "model_name_or_path": "some/hub-name"}, config)
    assert keys["trust_remote_code"] is False
    assert plain.overrides_for("one") == {"max_steps": 3}
    assert plain.stream.tasks[0].defaults == {}


def test_options_of_vllm_that_name_code_are_refused(tmp_path):
    plain = block(eval={"backend": "vllm", "backend_options": {"tensor_parallel_size": 2}})
    assert distrusted(tmp_path, {}, plain)[1].eval.backend_options == {"tensor_parallel_size": 2}
    for key in ("trust_remote_code", "worker_cls", "load_format", "hf_overrides", "logits_processors"):
        config = block(eval={"backend": "vllm", "backend_options": {key: "x"}})
        with pytest.raises(RunStateError, match=rf"{key}.*\n?.*--trust-remote-code"):
            distrusted(tmp_path, {}, config)


@pytest.mark.parametrize("where", ["overrides", "defaults"])
@pytest.mark.parametrize("key", ["trust_remote_code", "model_name_or_path", "deepspeed"])
def test_a_stream_file_cannot_set_what_belongs_to_the_run(where, key, llama, text_data, tmp_path):
    keys = recipe(llama, text_data, tmp_path / "run", "seqlora", ("one",))
    keys["cl"]["stream"]["tasks"][0][where] = {key: True}
    with pytest.raises(RecipeError, match=rf"cl.stream.tasks.one.{key}: must be the same for the whole run"):
        go(keys)


STREAM = "name: s\ntasks:\n  - {name: a, train: x, test: y}\n"
BOMB = "\n".join(
    ["l0: &l0 [x, x, x, x, x, x, x, x, x]"] + [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12)]
)
MERGE = "\n".join(
    ["m0: &m0 {a: 1}"] + [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 12)]
)
LONG = "t: &t " + "x" * 100_000 + "\nnotes: [" + ", ".join(["*t"] * 1000) + "]\n"
BOMBS = {
    "aliases": f"{BOMB}\n{STREAM}notes: *l11\n",
    "merge keys": f"{MERGE}\n{STREAM}",
    "long text": LONG + STREAM,
    "itself": "notes: &a [*a]\n" + STREAM,
    "deep": "notes: " + "[" * 100_000 + "\n" + STREAM,
    "digits": STREAM + "notes: " + "9" * 6000 + "\n",
    "digits in hex": STREAM + "notes: 0x" + "f" * 6000 + "\n",
    "digits in base 60": STREAM + "notes: " + ":".join(["1"] * 3000) + "\n",
    "large": STREAM + "# " + "x" * 2_000_000 + "\n",
}

LIMITED = """
import sys
from cl_plugins.base.errors import ClPluginsError
try:
    exec(sys.argv[1])
except ClPluginsError as error:
    text = str(error)
    print(len(text), text[:600])
    sys.exit(3)
"""


def limited(code, gigabytes=2, seconds=100):
    """Run a few lines with little memory and processor time; gives the text of the package's own error."""

    def limits():
        resource.setrlimit(resource.RLIMIT_AS, (gigabytes * 2**30, gigabytes * 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    made = subprocess.run(
        [sys.executable, "-c", LIMITED, code],
        preexec_fn=limits,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert made.returncode == 3, (made.returncode, made.stdout[-2000:], made.stderr[-2000:])
    length, _, text = made.stdout.partition(" ")
    assert int(length) < 5000
    return text


@pytest.mark.parametrize("name", BOMBS)
def test_a_stream_file_does_not_unfold(name, tmp_path):
    path = tmp_path / "stream.yaml"
    path.write_text(BOMBS[name])
    said = limited(f"from cl_plugins.streams import load_stream\nload_stream({str(path)!r})")
    assert "stream.yaml" in said


@pytest.mark.parametrize("name", ["aliases", "deep", "digits in hex", "large"])
def test_a_recipe_does_not_unfold(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(BOMBS[name])
    said = limited(f"from cl_plugins.cli.recipes import read_recipe\nread_recipe({str(path)!r})")
    assert "recipe.yaml" in said


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("reader", ["streams import load_stream as read", "cli.recipes import read_recipe as read"])
def test_what_is_no_file_is_not_waited_for(kind, reader, tmp_path):
    path = tmp_path / "it.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    said = limited(f"from cl_plugins.{reader}\nread({str(path)!r})")
    assert "not a regular file" in said


def test_a_huge_number_inside_a_recipe_is_named():
    for value in (10**6000, -(10**6000)):
        with pytest.raises(RecipeError, match=r"a number of 1993\d bits"):
            parse_cl({"stream": tiny.stream(("one",)), "method": {"name": "seqlora"}, "keep": value})
        with pytest.raises(RecipeError, match=r"a number of 1993\d bits"):
            parse_cl({"stream": tiny.stream(("one",)), "method": {"name": "seqlora"}, "replay": {"ratio": value}})


def test_a_builtin_stream_is_read_as_ever():
    assert load_stream("medical_cl").task_names


@pytest.mark.parametrize("what", ["picture", "folder of a data set", "description"])
def test_pipes_among_the_data(what, llama, text_data, tmp_path):
    """The check of a recipe names them; the host would wait for them."""
    data = Path(shutil.copytree(text_data, tmp_path / "data"))
    info = json.loads((data / "dataset_info.json").read_text())
    name = info["one_train"]["file_name"]
    if what == "picture":
        records = json.loads((data / name).read_text())
        os.mkfifo(data / "p.png")
        (data / name).write_text(json.dumps([{**r, "images": ["p.png"]} for r in records]))
        info["one_train"].setdefault("columns", {})["images"] = "images"
        (data / "dataset_info.json").write_text(json.dumps(info))
    elif what == "folder of a data set":
        (data / "folder").mkdir()
        shutil.copy(data / name, data / "folder" / "a.json")
        os.mkfifo(data / "folder" / "b.json")
        info["one_train"]["file_name"] = "folder"
        (data / "dataset_info.json").write_text(json.dumps(info))
    else:
        (data / "dataset_info.json").unlink()
        os.mkfifo(data / "dataset_info.json")
    with pytest.raises(ClPluginsError, match=r"do not exist|not a regular file|no regular file"):
        go(recipe(llama, data, tmp_path / "run", "seqlora", ("one",)))


LONG_ENOUGH = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


def stopping():
    from transformers import TrainerCallback

    class Stops(TrainerCallback):
        """Asks for an end after the third step, as a signal does."""

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise KeyboardInterrupt

    return Stops()


@pytest.mark.parametrize(
    ("change", "adopted"),
    [({}, True), ({"logging_steps": 3}, True), ({"learning_rate": 3e-3}, False), ({"seed": 8}, False)],
)
def test_a_checkpoint_is_only_gone_on_from_under_its_own_recipe(
    llama, text_data, tmp_path, change, adopted, monkeypatch
):
    """Without `run.json` nothing else says whose checkpoint it is."""
    out = tmp_path / "run"
    keys = recipe(llama, text_data, out, "seqlora", ("one",), **LONG_ENOUGH)
    with pytest.raises(KeyboardInterrupt):
        go(keys, callbacks=[stopping()])
    assert (out / "tasks" / "01_one" / "checkpoint-2").is_dir()
    for name in ("run.json", "journal.jsonl"):
        (out / name).unlink(missing_ok=True)
    from cl_plugins.run import train

    notes = []
    for level in ("info", "warning"):
        monkeypatch.setattr(train.logger, level, lambda words, *args: notes.append(words % args))
    go({**keys, **change})
    said = "\n".join(notes)
    assert ("resuming from" in said) == adopted
    assert ("checkpoint-2 is set aside: it belongs to another recipe" in said) == (not adopted)
