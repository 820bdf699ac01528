"""The board in the browser: the only place that imports gradio, which LLaMA-Factory brings."""

from __future__ import annotations

import inspect
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import CompatibilityError, Problem
from . import html
from .board import Board
from .guard import LOCAL, Guard
from .state import RunLine


USER = "board"
SECONDS = 4.0  # between two looks at the disk
CHECKING = "The recipe is being checked."
_ACCENT = "#0b62a8"  # white text on it has a contrast of 6 : 1; gradio's own orange has 2.8 : 1
_CSS = Path(__file__).with_name("board.css")


def import_gradio() -> Any:
    """The module gradio, without its telemetry.

    Raises:
        CompatibilityError: If it is not installed, or too old.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        what = f"cannot be imported ({error})."
        fix = "Install it: `pip install 'gradio>=5'` (LLaMA-Factory's extra `gradio` has it too)."
        raise CompatibilityError(Problem("gradio", what, fix)) from error
    if not hasattr(gradio, "Timer"):
        what = f"version {gradio.__version__} is too old for the board."
        raise CompatibilityError(Problem("gradio", what, "Install a newer one: `pip install 'gradio>=5'`."))
    return gradio


def build(board: Board, seconds: float = SECONDS) -> Any:
    """The pages of a board.

    Args:
        board: What they show.
        seconds: Between two looks at the disk.

    Returns:
        A `gradio.Blocks`.
    """
    gr = import_gradio()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of gradio 5, about what gradio 6 does otherwise
        looks = {} if _launch_takes_looks(gr) else _looks(gr)
        with gr.Blocks(title="cl-plugins board", analytics_enabled=False, fill_width=True, **looks) as page:
            gr.HTML(f'<h1 class="cl-title">Runs below {html.escaped(board.root)}</h1>')
            with gr.Tabs():
                with gr.Tab("Runs"):
                    _runs_tab(gr, page, board, seconds)
                with gr.Tab("Compare"):
                    _compare_tab(gr, page, board)
                with gr.Tab("Start"):
                    _start_tab(gr, page, board)
    return page


def _looks(gr: Any) -> dict[str, Any]:
    """Theme and style; the fonts are those of the system, none comes from elsewhere."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(color_accent=_ACCENT)
    for button, fill, hover in (("primary", _ACCENT, "#094f87"), ("cancel", "#b42318", "#8f1c13")):
        fills = {f"button_{button}_background_fill{dark}": fill for dark in ("", "_dark")}
        hovers = {f"button_{button}_background_fill_hover{dark}": hover for dark in ("", "_dark")}
        theme.set(**fills, **hovers)
    return {"theme": theme, "css": _CSS.read_text(encoding="utf-8")}


def _launch_takes_looks(gr: Any) -> bool:
    return "theme" in inspect.signature(gr.Blocks.launch).parameters


def _runs_tab(gr: Any, page: Any, board: Board, seconds: float) -> None:
    """The list of the runs, and the one that was chosen. Names are looked up by the board, whatever a page sends."""
    listing = gr.HTML()
    chosen = gr.Dropdown([], label="Run", interactive=True, allow_custom_value=True)
    known, shown = gr.State([]), gr.State("")
    head = gr.HTML()
    with gr.Row():
        stop = gr.Button("Stop", variant="stop", size="sm", interactive=False)  # until a run at work is chosen
        resume = gr.Button("Start or resume", variant="primary", size="sm")
        verify = gr.Button("Verify the files", size="sm")
    message = gr.HTML()
    log = gr.HTML()
    report = gr.HTML()

    def refresh(name: str | None, names: list[str]) -> tuple[Any, ...]:
        lines = board.lines()
        found = [line.name for line in lines]
        there = name in found
        name = name if there else first(lines)
        return (
            html.run_list(lines, str(board.root)),
            gr.skip()
            if found == names
            else gr.update(choices=found)
            if there
            else gr.update(choices=found, value=name),
            found,
            board.head(name) if name else "",
            html.output(board.log(name)),
            gr.update(interactive=any(line.at_work is not None for line in lines if line.name == name)),
        )

    def draw(name: str | None, version: str) -> Iterator[tuple[Any, str]]:
        now = f"{name} {board.version(name)}"
        if now == version:
            yield gr.skip(), now
            return
        if not version.startswith(f"{name} ") and not board.drawn(name):
            yield html.note("The report is being drawn."), ""
        yield board.report(name), now

    seen = [listing, chosen, known, head, log, stop]
    # Pictures take seconds to draw, and the list must not wait for them.
    _on(page.load, refresh, [chosen, known], seen, "load", "hidden")
    timer = gr.Timer(seconds)
    _on(timer.tick, refresh, [chosen, known], seen, "refresh", "hidden")
    _on(timer.tick, draw, [chosen, shown], [report, shown], "redraw", "hidden")
    _on(chosen.input, refresh, [chosen, known], seen, "choose", "hidden")
    _on(chosen.change, draw, [chosen, shown], [report, shown], "draw", "hidden")
    _on(chosen.input, lambda: "", [], [message], "clear", "hidden")
    _on(stop.click, board.stop, [chosen], [message], "stop", "hidden")
    _on(verify.click, _told(board.verify, "The files are being read."), [chosen], [message], "verify", "hidden")

    def again(name: str | None) -> str:
        recipe = board.recipe_of(name)
        if recipe is None:
            return html.note("No recipe below the folder of `--recipes` has this run: start it from a terminal.")
        return board.start(recipe)

    _on(resume.click, _told(again, CHECKING), [chosen], [message], "resume", "hidden")


def first(lines: Sequence[RunLine]) -> str | None:
    """The run that is shown before one was chosen: one at work, else the first one.

    Args:
        lines: All runs.
    """
    names = [line.name for line in lines if line.state == "at work"] or [line.name for line in lines]
    return names[0] if names else None


def _compare_tab(gr: Any, page: Any, board: Board) -> None:
    """Several runs in one table and picture."""
    runs = gr.Dropdown([], label="Runs", multiselect=True, interactive=True, allow_custom_value=True)
    with gr.Row():
        show = gr.Button("Compare", variant="primary", size="sm")
        again = gr.Button("Look for runs again", size="sm")
    result = gr.HTML()

    def look(chosen: list[str] | None) -> Any:
        found = board.names()
        return gr.update(choices=found, value=[name for name in chosen or [] if name in found])

    _on(page.load, look, [runs], [runs], "load_runs")
    _on(again.click, look, [runs], [runs], "find_runs")
    compare = _told(lambda names: board.compare(names or []), "The comparison is being drawn.")
    _on(show.click, compare, [runs], [result], "compare", "hidden")


def _start_tab(gr: Any, page: Any, board: Board) -> None:
    """Recipes: check and start."""
    recipe = gr.Dropdown([], label="Recipe", interactive=True, allow_custom_value=True)
    place = gr.HTML()
    with gr.Row():
        check = gr.Button("Check", size="sm")
        start = gr.Button("Start or resume", variant="primary", size="sm")
        again = gr.Button("Look for recipes again", size="sm")
    message = gr.HTML()

    def look(name: str | None) -> Any:
        found = board.recipes()
        return gr.update(choices=found, value=name if name in found else None)

    _on(page.load, look, [recipe], [recipe], "load_recipes")
    _on(again.click, look, [recipe], [recipe], "find_recipes")
    _on(recipe.input, board.recipe, [recipe], [place], "recipe")
    _on(recipe.input, lambda: "", [], [message], "clear_start", "hidden")
    _on(check.click, _told(board.check, CHECKING), [recipe], [message], "check", "hidden")
    _on(start.click, _told(board.start, CHECKING), [recipe], [message], "start", "hidden")


def _told(function: Callable[[Any], str], meanwhile: str) -> Callable[[Any], Iterator[str]]:
    """What takes seconds, with a word to whoever waits for it."""

    def told(chosen: Any) -> Iterator[str]:
        yield html.note(meanwhile)
        yield function(chosen)

    return told


def _on(
    event: Any,
    function: Callable[..., Any],
    inputs: list[Any],
    outputs: list[Any],
    name: str,
    show_progress: str = "full",
) -> None:
    event(function, inputs, outputs, api_name=name, show_progress=show_progress)


def serve(
    board: Board,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    tell: Callable[[str], Any] = print,
    wait: bool = True,
) -> Any:
    """Serve a board until it is interrupted.

    Args:
        board: The board.
        host: The address to listen at. Any other than this machine's own needs a password.
        port: The port; a free one from 7860 on by default.
        share: Whether to make it public by gradio's tunnel; needs a password.
        tell: Told the address, and user and password.
        wait: Whether to wait until Ctrl-C.

    Returns:
        The running `gradio.Blocks`, if it does not wait.

    Raises:
        CompatibilityError: If gradio is missing.
    """
    from starlette.middleware import Middleware

    gr, page = import_gradio(), build(board)
    board.lines()  # imports what reads runs, so that the first page need not wait for it
    public = share or host not in ("127.0.0.1", "localhost", "::1")
    password = os.environ.get("CL_PLUGINS_BOARD_PASSWORD") or secrets.token_urlsafe(16)
    page.queue(default_concurrency_limit=4)
    page.launch(
        server_name=host,
        server_port=port,
        share=share,
        auth=(USER, password) if public else None,
        app_kwargs={"middleware": [Middleware(Guard, hosts=() if public else LOCAL)]},
        allowed_paths=[],
        blocked_paths=[os.path.abspath(os.sep)],
        mcp_server=False,
        ssr_mode=False,
        quiet=True,
        inbrowser=False,
        prevent_thread_lock=True,
        **(_looks(gr) if _launch_takes_looks(gr) else {}),
    )
    tell(f"board: {page.local_url}")
    if page.share_url:
        tell(f"public: {page.share_url}")
    if public:
        shown = "that of CL_PLUGINS_BOARD_PASSWORD" if os.environ.get("CL_PLUGINS_BOARD_PASSWORD") else password
        tell(f"user: {USER}, password: {shown}")
    if not wait:
        return page
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)
    return None
