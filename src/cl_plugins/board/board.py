"""What the pages of the board show, as HTML; every name is looked up among what is on disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import ClPluginsError, Problem, RecipeError
from ..report import compare, write_report
from ..run.status import collect
from . import html
from .places import find_recipes, find_runs, inside, name_of
from .processes import Processes, meaning
from .state import RunLine, States, log_tail, version_of


#: Reads a recipe and gives its `output_dir`.
OutputDir = Callable[[Path], Path]
_KEPT = 8  # report pages in memory; one is up to some megabytes


class Board:
    """The board without its web server.

    Args:
        root: The folder whose runs are shown; nothing outside of it is opened.
        recipes: The folder whose recipes can be started; None offers none.
        output_dir: Gives the directory of a recipe's run.
        processes: Starts and stops runs.
    """

    def __init__(self, root: Path, recipes: Path | None, output_dir: OutputDir, processes: Processes) -> None:
        self.root = root
        self._recipes = recipes
        self._output_dir = output_dir
        self._processes = processes
        self._states = States()
        self._pages: dict[tuple[Path, Any], str] = {}
        self._drawing = threading.Lock()  # matplotlib's settings belong to the whole process

    # ------------------------------------------------------------------ runs

    def lines(self) -> list[RunLine]:
        """All runs, and those that the board has started and that have not written anything yet."""
        found = {name: self._states.line(name, path) for name, path in find_runs(self.root).items()}
        for path in self._processes.started():
            name = name_of(self.root, path)
            if name not in found:
                state = "starting" if self._processes.alive(path) else "failed"
                found[name] = RunLine(name, state)
        return list(found.values())

    def names(self) -> list[str]:
        """The names of all runs."""
        return [line.name for line in self.lines()]

    def head(self, name: str | None) -> str:
        """State, progress and metrics of a run, and how the process ended that the board started for it."""
        path = self._run(name)
        if path is None:
            return _unknown(name)
        line = next((line for line in self.lines() if line.name == name), None)
        if line is None:
            return _unknown(name)
        code = self._processes.code(path)
        ended = html.note(meaning(code), "good" if code == 0 else "plain") if code is not None else ""
        return html.run_head(line) + ended

    def log(self, name: str | None) -> str:
        """The end of a run's output, as plain text."""
        path = self._run(name)
        return log_tail(path) if path is not None else ""

    def version(self, name: str | None) -> str:
        """Changes when the report of a run does."""
        path = self._run(name)
        return repr(version_of(path)[2:]) if path is not None else ""

    def report(self, name: str | None) -> str:
        """The report that `cl-plugins report` would write, in a frame; nothing is written."""
        path = self._run(name)
        if path is None:
            return ""
        if not os.path.lexists(path / "matrix.json"):
            return html.note("There is no accuracy matrix yet: nothing has been measured.")
        with self._drawing:
            key = (path, version_of(path))
            if key not in self._pages:
                try:
                    page = _page(lambda write: write_report(path, write), "report.html")
                except (ClPluginsError, OSError, ValueError) as error:
                    return html.problems(_problems(error, str(name)), "The report cannot be made:")
                while len(self._pages) >= _KEPT:
                    self._pages.pop(next(iter(self._pages)))
                self._pages[key] = html.framed(page, f"Report of {name}")
            return self._pages[key]

    def drawn(self, name: str | None) -> bool:
        """Whether the report of a run is in memory, so that it is there at once."""
        path = self._run(name)
        return path is not None and (path, version_of(path)) in self._pages

    def verify(self, name: str | None) -> str:
        """What `cl-plugins status --verify` finds."""
        path = self._run(name)
        if path is None:
            return _unknown(name)
        try:
            damaged: Sequence[Problem] = collect(path, verify=True)["damaged"]
        except (ClPluginsError, OSError, ValueError) as error:
            damaged = _problems(error, str(name))
        if damaged:
            return html.problems(damaged, "Damaged files")
        return html.note("All files are present and have their hashes.", "good")

    def compare(self, names: Sequence[str]) -> str:
        """The page that `cl-plugins compare` would write for some runs, in a frame."""
        runs = find_runs(self.root)
        unknown = [name for name in names if name not in runs]
        if unknown or len(names) < 2:
            return _unknown(unknown[0]) if unknown else html.note("Choose at least two runs.")
        paths = [runs[name] for name in names]
        try:
            with self._drawing:
                page = _page(lambda write: compare(paths, self.root, write=write), "compare.html")
        except (ClPluginsError, OSError, ValueError) as error:
            return html.problems(_problems(error, "compare"), "These runs cannot be compared:")
        return html.framed(page, "Comparison")

    def stop(self, name: str | None) -> str:
        """Ask the process of a run to stop."""
        path = self._run(name)
        if path is None:
            return _unknown(name)
        try:
            pid = self._processes.stop(path)
        except (ClPluginsError, OSError) as error:
            return html.problems(_problems(error, str(name)), "The run was not stopped:")
        return html.note(
            f"SIGTERM was sent to process {pid}. The run saves a checkpoint, completes the files that it is writing, and "
            "ends with exit code 75; start it again, and it resumes.",
            "good",
        )

    # --------------------------------------------------------------- recipes

    def recipes(self) -> list[str]:
        """The names of the recipes that can be started."""
        return list(self._found_recipes())

    def recipe(self, name: str | None) -> str:
        """Where the run of a recipe is, and what a start would do."""
        path = self._found_recipes().get(name or "")
        if path is None:
            return html.note("Choose a recipe.") if not name else _unknown(name)
        try:
            root = self._place(path)
        except RecipeError as error:
            return html.problems(_problems(error, str(name)), "This recipe cannot be started here:")
        return html.note(f"Its run is '{name_of(self.root, root)}': {self._outlook(root)}")

    def check(self, name: str | None) -> str:
        """Every problem of a recipe, found as `cl-plugins validate` finds them."""
        path = self._found_recipes().get(name or "")
        if path is None:
            return _unknown(name)
        try:
            self._place(path)
            found, notes = self._processes.check(path)
        except ClPluginsError as error:
            found, notes = _problems(error, str(name)), []
        return _checked(found, notes) if found else _checked(found, notes) + html.note("The recipe is valid.", "good")

    def start(self, name: str | None) -> str:
        """Check a recipe and start its run, or resume it."""
        path = self._found_recipes().get(name or "")
        if path is None:
            return _unknown(name)
        try:
            root = self._place(path)
            found, notes = self._processes.check(path, quick=True)
            if found:
                return _checked(found, notes)
            pid = self._processes.start(path, root)
        except (ClPluginsError, OSError) as error:
            return html.problems(_problems(error, str(name)), "The run was not started:")
        return _checked([], notes) + html.note(
            f"Process {pid} works on {name_of(self.root, root)}; its output is in board.log in that folder.", "good"
        )

    def recipe_of(self, run: str | None) -> str | None:
        """The name of the recipe whose run has a name, to resume it; None if no recipe here has it."""
        path = self._run(run)
        if path is None:
            return None
        for name, recipe in self._found_recipes().items():
            try:
                if os.path.abspath(self._place(recipe)) == os.path.abspath(path):
                    return name
            except RecipeError:
                continue
        return None

    def _found_recipes(self) -> Mapping[str, Path]:
        return find_recipes(self._recipes) if self._recipes is not None else {}

    def _place(self, recipe: Path) -> Path:
        """The directory of a recipe's run.

        Raises:
            RecipeError: If the recipe cannot be read, or its run would be outside the board's folder.
        """
        place = Path(os.path.abspath(self._output_dir(recipe)))
        if not inside(self.root, place):
            what = f"is {place}, which is not below {self.root}, or is reached through a link."
            fix = f"Choose a folder below {self.root}, or start the board with another folder."
            raise RecipeError(Problem("output_dir", what, fix))
        return place

    def _outlook(self, root: Path) -> str:
        line = self._states.line(name_of(self.root, root), root) if (root / "run.json").exists() else None
        if self._processes.alive(root):
            return "it is at work."
        if line is None:
            return "it has not begun."
        told = f"{line.done} of {line.steps} steps are finished."
        ends = {"at work": "it is at work.", "finished": "it is finished.", "damaged": "it is damaged."}
        return ends.get(line.state, f"{told} A start resumes it.")

    # --------------------------------------------------------------- helpers

    def _run(self, name: str | None) -> Path | None:
        """The directory of a run by its name, as it is on disk now."""
        if not name:
            return None
        found = find_runs(self.root).get(name)
        if found is not None:
            return found
        return next((path for path in self._processes.started() if name_of(self.root, path) == name), None)


def _page(make: Callable[[Callable[[Path, bytes], None]], Any], name: str) -> str:
    """One of the files that a report consists of; none is written."""
    files: dict[str, bytes] = {}

    def write(path: Path, content: bytes) -> None:
        if path.name == name:
            files[path.name] = content

    make(write)
    return files[name].decode("utf-8")


def _problems(error: Exception, where: str) -> list[Problem]:
    """The problems that an error lists."""
    found = list(getattr(error, "problems", ()))
    return found or [Problem(where, str(error) or type(error).__name__, "")]


def _checked(found: Sequence[Problem], notes: Sequence[str]) -> str:
    told = "".join(html.note(note) for note in notes)
    if not found:
        return told
    count = "a problem" if len(found) == 1 else f"{len(found)} problems"
    return html.problems(found, f"The recipe has {count}:") + told


def _unknown(name: str | None) -> str:
    return html.note(f"There is nothing called {name!r} here any more." if name else "Choose a run.")
