"""Pieces of pages. Every text is escaped here: names that come from files may be anything."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from ..base.errors import Problem, same_cause_once
from ..report.text import number, visible
from ..report.writing import breakable
from .state import METRICS, RunLine


_LABELS = {"last": "Last", "average": "Average", "bwt": "BWT"}
_HEAD = ("run", "state", "method", "stream", "steps", *_LABELS.values())


def escaped(text: object) -> str:
    """A text as HTML: no tag, no entity and no control character of it stays live."""
    return html.escape(visible(str(text)), quote=True)


def run_list(lines: Sequence[RunLine], folder: str) -> str:
    """The table of all runs.

    Args:
        lines: The runs.
        folder: The folder, for a list without runs.
    """
    if not lines:
        return f'<p class="cl-note">There is no run below {escaped(folder)}: no folder holds a run.json.</p>'
    head = "".join(f'<th scope="col"{_num(index)}>{name}</th>' for index, name in enumerate(_HEAD))
    rows = "".join(f"<tr>{_cells(line)}</tr>" for line in lines)
    return (
        '<p class="cl-sideways">The table scrolls sideways <span aria-hidden="true">→</span></p>'
        '<div class="cl-scroll" role="region" aria-label="Runs" tabindex="0"><table class="cl-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _num(index: int) -> str:
    return ' class="cl-num"' if index >= 4 else ""


def _cells(line: RunLine) -> str:
    steps = f"{line.done} / {line.steps}" if line.steps else ""
    shown = [breakable(line.method), escaped(line.stream), escaped(steps)]
    shown += [escaped(number(line.metrics.get(key))) for key in METRICS]
    cells = "".join(f"<td{_num(index + 2)}>{value}</td>" for index, value in enumerate(shown))
    return f'<th scope="row">{breakable(line.name)}</th><td>{state_badge(line.state)}</td>{cells}'


def state_badge(state: str) -> str:
    """The state of a run, with a colour; the word alone says it too."""
    kind = {"at work": "work", "finished": "good", "failed": "bad", "damaged": "bad"}.get(state, "plain")
    return f'<span class="cl-state cl-{kind}">{escaped(state)}</span>'


def run_head(line: RunLine) -> str:
    """State, progress and metrics of the run that is shown."""
    facts = [("state", state_badge(line.state))]
    if line.at_work is not None:
        who = line.at_work
        text = f"process {who.get('pid', '?')} on {who.get('host', '?')}, since {who.get('started', '?')}"
        facts.append(("at work", escaped(text)))
    if line.steps:
        share = round(100 * line.done / line.steps)
        text = f"{line.done} of {line.steps} steps finished in {line.took}"
        facts.append(("progress", f'<progress max="100" value="{share}">{share} %</progress> {escaped(text)}'))
    if line.now:
        facts.append(("now" if line.state == "at work" else "next", escaped(line.now)))
    shown = [f"{_LABELS[key]} {number(value)}" for key, value in line.metrics.items() if value is not None]
    if shown:
        facts.append(("metrics", escaped(" · ".join(shown))))
    rows = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in facts)
    problem = note(line.problem, "bad") if line.problem else ""
    title = f"{line.method} on {line.stream}" if line.method else line.name
    return f'<h2 class="cl-title">{escaped(title)}</h2>{problem}<table class="cl-pairs"><tbody>{rows}</tbody></table>'


def note(text: str, kind: str = "plain") -> str:
    """A message; line ends stay.

    Args:
        text: The message.
        kind: ``plain``, ``good`` or ``bad``.
    """
    return f'<p class="cl-note cl-note-{escaped(kind)}" role="status">{escaped(text)}</p>'


def problems(found: Iterable[Problem], headline: str) -> str:
    """Problems with place, fault and remedy; what is the same in several places is said once.

    Args:
        found: The problems.
        headline: The sentence above them.
    """
    items = "".join(
        f"<li><code>{escaped(each.where)}</code> {escaped(each.what)}"
        + (f'<br><span class="cl-fix">→ {escaped(each.fix)}</span>' if each.fix else "")
        + "</li>"
        for each in same_cause_once(found)
    )
    return f'{note(headline, "bad")}<ul class="cl-problems">{items}</ul>'


def output(text: str) -> str:
    """The end of what a process has printed; the box is scrolled to its last line.

    Args:
        text: Plain text; nothing is shown of an empty one.
    """
    if not text:
        return ""
    return (
        '<h3 class="cl-label">Output (board.log)</h3><div class="cl-log" role="region" aria-label="Output" tabindex="0">'
        f"<pre>{escaped(text)}</pre></div>"
    )


def framed(page: str, title: str) -> str:
    """A whole page in a frame that can run no script, open no window and reach no other page.

    Args:
        page: The page.
        title: What it is, for screen readers.
    """
    source = html.escape(page, quote=True)
    return f'<iframe class="cl-page" sandbox="" title="{escaped(title)}" srcdoc="{source}"></iframe>'
