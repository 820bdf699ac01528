"""The frame of the command line: help without heavy imports, exit codes, errors as messages."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cl_plugins.cli import COMMANDS, main


HEAVY = ("torch", "transformers", "llamafactory", "peft", "matplotlib", "datasets", "sacrebleu")

HELP = """
import contextlib, io, sys
from cl_plugins.cli import main
for words in (["--help"], *([name, "--help"] for name in {names!r})):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(words)
    assert code == 0, (words, code)
    assert "usage: cl-plugins" in out.getvalue()
    assert all(len(line) <= 80 for line in out.getvalue().splitlines()), out.getvalue()
print([name for name in {heavy!r} if name in sys.modules])
"""


def test_help_imports_nothing_heavy():
    script = HELP.format(names=list(COMMANDS), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_help_names_every_command(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for name, (_, text) in COMMANDS.items():
        assert name in out
        assert text.split(";")[0].split(",")[0] in out


def test_no_command_is_an_error_with_help(cli):
    code, out, _ = cli()
    assert code == 2
    assert "usage: cl-plugins" in out


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["status"],
        ["status", "somewhere", "--nonsense"],
        ["status", "somewhere", "key=value"],
        ["export", "somewhere", "--to", "gguf", "--out", "x"],
        ["run", "recipe.yaml", "--isolate", "--steps", "0"],
    ],
)
def test_a_wrong_command_line_exits_with_2(cli, words):
    code, out, err = cli(*words)
    assert code == 2
    assert out == ""
    assert "error: " in err


def test_version(cli):
    from cl_plugins import __version__

    assert cli("--version") == (0, f"cl-plugins {__version__}\n", "")


def test_errors_are_messages_without_traceback(cli, tmp_path):
    code, out, err = cli("status", tmp_path)
    assert code == 1
    assert out == ""
    assert "holds no run.json" in err
    assert "→ Give the `output_dir` of the recipe." in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(tmp_path):
    from cl_plugins.base.errors import RunStateError

    with pytest.raises(RunStateError, match=r"holds no run\.json"):
        main(["status", str(tmp_path), "--debug"])


def test_recipe_problems_exit_with_2_and_are_listed_together(cli, fresh):
    recipe = fresh(cl={"method": {"name": "inclorra"}, "evall": {}}, do_eval=True)
    code, out, err = cli("plan", recipe)
    assert code == 2
    assert out == ""
    assert "3 problems" in err
    assert "cl.evall" in err
    assert "Did you mean 'eval'?" in err
    assert "Did you mean 'inclora'?" in err
    assert "do_eval" in err
    assert "Traceback" not in err


def test_ascii_terminals_get_ascii():
    script = "import sys; from cl_plugins.cli import main; code = main(['status', 'no-such-run']); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert b"-> Give the `output_dir`" in done.stderr


def test_a_closed_pipe_is_no_error():
    script = f"{sys.executable} -m cl_plugins.cli list --json | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""


def test_main_returns_what_a_run_asks_for(monkeypatch):
    from cl_plugins.cli import status
    from cl_plugins.run.interrupt import EXIT_RUN_AGAIN, Interrupted

    def stop(args):
        raise Interrupted

    monkeypatch.setattr(status, "run", stop)
    assert main(["status", "somewhere"]) == EXIT_RUN_AGAIN


def test_json_goes_alone_to_standard_output(cli, inclora):
    code, out, _ = cli("status", inclora.root, "--json")
    assert code == 0
    assert json.loads(out)["finished"] is True
