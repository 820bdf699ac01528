"""The board as a browser sees it, through gradio's own client."""

from __future__ import annotations

import json
import sys

import pytest
from board.made import ALL, make
from report.made_runs import demo_run

from cl_plugins.base.errors import ClPluginsError
from cl_plugins.board.board import Board
from cl_plugins.board.processes import Processes
from cl_plugins.cli import board as command


gradio = pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("board")
    make(root / "saves" / "half", ALL[:3])
    for number in (1, 2):
        demo_run(root / "saves" / f"inclora_{number}", seed=number)
    demo_run(root / "outside")
    (root / "recipes").mkdir()
    for name, place in (("good", "saves/new"), ("outside", "outside"), ("half", "saves/half")):
        (root / "recipes" / f"{name}.yaml").write_text(f"output_dir: {root / place}\ncl: {{stream: demo}}\n")
    return root


@pytest.fixture(scope="module")
def board(folder):
    """A board whose checker finds one problem in every recipe."""
    script = (
        "import json, sys; print(json.dumps({sys.argv[-1]: "
        "{'problems': [{'where': 'cl.method', 'what': 'is missing.', 'fix': 'Add it.'}], 'notes': []}}))"
    )
    processes = Processes([sys.executable, "-c", "raise SystemExit(1)"], [sys.executable, "-c", script])
    return Board(folder / "saves", folder / "recipes", command.output_dir, processes)


def test_only_what_is_below_the_folder_can_be_opened(board):
    assert board.names() == ["half", "inclora_1", "inclora_2"]
    for name in ("../outside", "/etc", "half/../../outside", "nothing", "", None):
        assert board.report(name) == board.log(name) == board.version(name) == ""
        for answer in (board.head(name), board.verify(name), board.stop(name)):
            assert "cl-note" in answer
            assert "<table" not in answer
    assert "nothing called" in board.compare(["half", "../outside"])


def test_only_recipes_below_their_folder_can_be_started_and_only_into_the_folder(board, folder):
    assert board.recipes() == ["good.yaml", "half.yaml", "outside.yaml"]
    for name in ("../recipes/good.yaml", str(folder / "recipes/good.yaml"), "", None):
        assert "Process" not in board.start(name)
    for answer in (board.recipe("outside.yaml"), board.start("outside.yaml"), board.check("outside.yaml")):
        assert "is not below" in answer
    assert not (folder / "outside" / "board.log").exists()


def test_a_recipe_with_problems_is_not_started(board, folder):
    for answer in (board.check("good.yaml"), board.start("good.yaml")):
        assert "cl.method" in answer
        assert "Add it." in answer
    assert not (folder / "saves" / "new").exists()


def test_the_outlook_of_a_recipe_and_the_recipe_of_a_run(board):
    assert "has not begun" in board.recipe("good.yaml")
    assert "3 of 8 steps are finished. A start resumes it." in board.recipe("half.yaml")
    assert board.recipe_of("half") == "half.yaml"
    assert board.recipe_of("inclora_1") is None


def test_reports_and_comparisons_are_those_of_the_commands_and_write_nothing(board, folder):
    before = sorted(folder.rglob("*"))
    report = board.report("inclora_1")
    assert "inclora on demo" in report
    assert "Accuracy matrix" in report
    assert "Methods" in board.compare(["inclora_1", "inclora_2"])
    assert "Choose at least two" in board.compare(["inclora_1"])
    assert "nothing has been measured" in board.report("half")
    assert sorted(folder.rglob("*")) == before


def test_a_comparison_that_cannot_be_made_says_why(board, folder):
    assert "cannot be compared" in board.compare(["half", "inclora_1"])


def test_a_started_run_is_in_the_list_before_it_has_written_anything(folder):
    script = "import json, sys; print(json.dumps({sys.argv[-1]: {'problems': [], 'notes': ['a note']}}))"
    processes = Processes([sys.executable, "-c", "raise SystemExit(3)"], [sys.executable, "-c", script])
    board = Board(folder / "saves", folder / "recipes", command.output_dir, processes)
    answer = board.start("good.yaml")
    assert "works on new" in answer
    assert "a note" in answer
    processes._started[folder / "saves" / "new"].wait(60)
    assert [line.state for line in board.lines() if line.name == "new"] == ["failed"]
    assert "failed with exit code 3" in board.head("new")
    assert "good.yaml" in board.log("new")


def test_the_pages_by_gradios_client(board):
    import httpx
    from gradio_client import Client

    from cl_plugins.board.app import serve

    told = []
    page = serve(board, tell=told.append, wait=False)
    try:
        assert told == [f"board: {page.local_url}"]
        client = Client(page.local_url, verbose=False)
        listing, chosen, head, *_ = client.predict(None, api_name="/load")
        assert "inclora_2" in listing
        assert chosen["value"] == "half"
        assert [value for _, value in chosen["choices"]] == ["half", "inclora_1", "inclora_2"]
        assert "Accuracy matrix" in client.predict("inclora_1", api_name="/draw")
        assert "3 of 8 steps" in head
        assert "is not at work" in client.predict("half", api_name="/stop")
        assert "Methods" in client.predict(["inclora_1", "inclora_2"], api_name="/compare")
        index = httpx.get(page.local_url)
        assert "frame-ancestors 'none'" in index.headers["content-security-policy"]
        assert httpx.get(page.local_url, headers={"host": "evil.example"}).status_code == 403
        assert httpx.get(f"{page.local_url}gradio_api/file={__file__}").status_code == 404
        config = httpx.get(f"{page.local_url}config").json()
        assert not config["analytics_enabled"]
        assert "googleapis" not in json.dumps(config["stylesheets"])
    finally:
        page.close(verbose=False)


def test_a_board_for_others_asks_for_a_password(board, monkeypatch):
    from cl_plugins.board import app

    launched, told = {}, []

    class Page:
        local_url, share_url = "http://0.0.0.0:1/", None

        def queue(self, **given):
            pass

        def launch(self, **given):
            launched.update(given)

    monkeypatch.setattr(app, "build", lambda board: Page())
    app.serve(board, host="0.0.0.0", tell=told.append, wait=False)
    user, password = launched["auth"]
    assert user == "board"
    assert len(password) > 20
    assert password in told[-1]
    assert launched["share"] is False
    monkeypatch.setenv("CL_PLUGINS_BOARD_PASSWORD", "own word")
    app.serve(board, share=True, tell=told.append, wait=False)
    assert launched["auth"] == ("board", "own word")
    assert "own word" not in told[-1]


def test_without_gradio_there_is_one_clear_error(folder, monkeypatch, capsys):
    from cl_plugins.cli import main

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["board", str(folder / "saves")]) == 1
    assert "pip install 'gradio>=5'" in capsys.readouterr().err


def test_folders_that_are_not_there(tmp_path, capsys):
    from cl_plugins.cli import main

    assert main(["board", str(tmp_path / "a"), "--recipes", str(tmp_path / "b"), "--port", "0"]) == 2
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("3 problems", "--port"))


def test_an_error_of_a_recipe_is_shown(board, folder):
    broken = folder / "recipes" / "broken.yaml"
    broken.write_text("cl: {\n")
    try:
        assert "is not valid YAML" in board.recipe("broken.yaml")
        with pytest.raises(ClPluginsError):
            command.output_dir(broken)
    finally:
        broken.unlink()
