"""The board in a real browser: it is read, compared with, started, stopped and started again by clicks."""

from __future__ import annotations

import sys

import pytest
from board.made import ALL, make
from board.test_board_processes import RUN
from browser import READERS
from report.made_runs import demo_run

from cl_plugins.board.board import Board
from cl_plugins.board.processes import Processes


pytest.importorskip("gradio")
pytestmark = pytest.mark.slow

CHECK = "import json, sys; print(json.dumps({sys.argv[-1]: {'problems': [], 'notes': []}}))"
#: What axe-core finds in gradio's own elements, which a page cannot change: rule -> a piece of the element.
OF_GRADIO = {
    "aria-allowed-role": '<input role="listbox"',  # its dropdown
    "aria-hidden-focus": "tab-container",  # the hidden copy of its row of tabs, by which it measures
    "aria-input-field-name": '<ul class="options',  # the open list of its dropdown
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    from cl_plugins.board.app import serve

    root = tmp_path_factory.mktemp("board")
    make(root / "saves" / "half", ALL[:3])
    for number in (1, 2):
        demo_run(root / "saves" / f"inclora_{number}", seed=number)
    (root / "recipes").mkdir()
    half = root / "saves" / "half"
    (root / "recipes" / "half.yaml").write_text(f"output_dir: {half}\ncl: {{stream: demo}}\n")
    at_work = RUN.replace("Path(Path(sys.argv[1]).read_text())", f"Path({str(half)!r})")
    processes = Processes([sys.executable, "-c", at_work], [sys.executable, "-c", CHECK])
    board = Board(root / "saves", root / "recipes", lambda recipe: half, processes)
    page = serve(board, tell=lambda line: None, wait=False)
    yield page.local_url
    page.close(verbose=False)


@pytest.fixture
def opened(chromium, address):
    pages = []

    def open_page(reader="desktop"):
        width, dark = READERS[reader]
        page = chromium.page(address, width=width, dark=dark)
        pages.append(page)
        page.wait_for("document.querySelector('.cl-table') && document.querySelector('iframe.cl-page, .cl-note')")
        return page

    yield open_page
    for page in pages:  # each keeps connections, of which a browser has few to one address
        page.close()


def tab(page, name):
    page.value(
        f"[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText.trim() === '{name}').click()"
    )


def press(page, name):
    # gradio has a second, hidden row of tabs, which may have the same words
    found = f"[...document.querySelectorAll('button.sm')].find(b => b.innerText.trim() === '{name}' && b.offsetParent)"
    page.value(f"{found}.click()")


def choose(page, label, option):
    """Choose from the dropdown of the tab that is shown; `label` is the accessible name of one that takes a single value."""
    box = f"[...document.querySelectorAll('input[aria-label=\"{label}\"], input:not([aria-label])')].find(e => e.offsetParent)"
    page.wait_for(box)
    found = f"[...document.querySelectorAll('[role=option]')].find(e => e.innerText.trim().endsWith('{option}'))"
    for _ in range(20):  # the list is made when the box is entered, which may be before its choices have come
        page.click(box)
        if page.value(f"new Promise(done => setTimeout(() => done(Boolean({found})), 500))"):
            break
        page.value(f"{box}.blur()")
    page.value(f"{found}.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}))")


def own_faults(page):
    """Findings that are not gradio's."""
    found = {rule: [n for n in nodes if OF_GRADIO.get(rule, "\0") not in n] for rule, nodes in page.faults()}
    return {rule: nodes for rule, nodes in found.items() if nodes}


@pytest.mark.parametrize("reader", READERS)
def test_it_fits_the_window_and_axe_finds_nothing_of_ours(opened, reader):
    page = opened(reader)
    assert page.overflow <= 0
    for name in ("Runs", "Compare", "Start"):
        tab(page, name)
        assert own_faults(page) == {}, name


def test_what_has_nothing_to_say_takes_no_room(opened):
    page = opened()
    note = "[...document.querySelectorAll('.cl-note')].find(e => e.innerText.includes('no accuracy matrix yet'))"
    page.wait_for(note)
    stop = "[...document.querySelectorAll('button.sm')].find(b => b.innerText.trim() === 'Stop')"
    between = f"{note}.getBoundingClientRect().top - {stop}.getBoundingClientRect().bottom"
    assert page.value(between) < 60


def test_only_a_run_at_work_can_be_stopped(opened):
    page = opened()
    assert page.value("[...document.querySelectorAll('button.sm')].find(b => b.innerText.trim() === 'Stop').disabled")


def test_runs_are_compared(opened):
    page = opened()
    tab(page, "Compare")
    for name in ("inclora_1", "inclora_2"):
        choose(page, "Runs", name)
    press(page, "Compare")
    page.wait_for("document.querySelector('iframe[title*=omparison]')")


def test_a_run_is_started_stopped_and_started_again(opened):
    page = opened()
    row = "[...document.querySelectorAll('.cl-table tr')].find(r => r.innerText.startsWith('half')).innerText"
    tab(page, "Start")
    choose(page, "Recipe", "half.yaml")
    page.wait_for("document.body.innerText.includes('3 of 8 steps are finished. A start resumes it.')")
    for _ in range(2):
        press(page, "Start or resume")
        page.wait_for("document.body.innerText.includes('works on half')")
        tab(page, "Runs")
        page.wait_for(f"{row}.includes('at work')")
        choose(page, "Run", "half")
        page.wait_for(
            "document.body.innerText.includes('at work\\tprocess') || document.body.innerText.includes('process ')"
        )
        page.wait_for("![...document.querySelectorAll('button.sm')].find(b => b.innerText.trim() === 'Stop').disabled")
        press(page, "Stop")
        page.wait_for("document.body.innerText.includes('SIGTERM was sent to process')")
        page.wait_for(f"{row}.includes('stopped')")
        page.wait_for("document.body.innerText.includes('It was stopped and ended with exit code 75')")
        tab(page, "Start")
