"""Names from a run that somebody else made: whatever they are, a report has the shape that it has with plain names."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from made_runs import make_run

from cl_plugins.report import comparison_page, groups, run_report, style, text
from cl_plugins.report.run_data import read_run


TASKS = ("one", "two")
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "x</pre></details><script>",
    "````\n<script>alert(1)</script>\n````",
    "```\n# heading\n",
    "\n\n# heading\n\n<b>",
    "| a | b |\n|---|---|\n",
    "[click](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "&lt;script&gt;",
    "&#60;script&#62;",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "2) item",
    "> quotation",
    "===",
    "---",
    "`code` and `` more ``",
    "**bold** _it_ ~~gone~~ $x_{1}$",
    "a\\",
    "a\\\\|b",
    "<!-- -->",
    "<![CDATA[",
    "</title><script>",
    '" onmouseover="alert(1)',
    "\\input{/etc/passwd}",
    "\\write18{id}",
    "}\\end{table}\\input{x}",
    "[2em]",
    "*",
    "% comment",
    "a & b \\\\ c",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202egnp.exe",
    "=cmd|' /C calc'!A0",
    "\x00\x08\x7f",
    "\r\n\r\n<b>",
    "{{ 7 * 7 }}{% for x in y %}",
)
names = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from([*HOSTILE, "`", "<", "|", "\n", "\\", "&", "a", " "]), min_size=1, max_size=5).map(
        "".join
    ),
    st.text(min_size=1, max_size=30),
)
SHAPE = {
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ul",
    "ol",
    "li",
    "pre",
    "hr",
}
SHAPE |= {"blockquote", "img"}
PLAIN = {"strong", "code", "p", "em", "br"}  # of a name in bold, for example


class Tags(HTMLParser):
    """The tags of a page with the names of their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.odd: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_comment(self, data):
        self.odd.append(data)

    unknown_decl = handle_pi = handle_comment


def rendered(markdown: str) -> Tags:
    from markdown_it import MarkdownIt

    return Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run with plain names."""
    scores = [[80.0, None], [60.0, 70.0]]
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", list(TASKS), scores, [10.0, 20.0], notes=["a note"])
    return read_run(folder)


def named(run, name: str):
    """The run with one name everywhere that a file could put it."""
    changed = {old: f"{name}{number}" for number, old in enumerate(run.tasks)}
    row_names = {"zero_shot": "zero_shot"}
    rows = tuple(
        dataclasses.replace(
            row,
            name=row_names.get(row.name, name),
            label=name,
            cells=tuple(dataclasses.replace(cell, interval_method=name) for cell in row.cells),
        )
        for row in run.rows
    )
    metrics = {
        key: dataclasses.replace(metric, reason=name, divisor=name, formula=name)
        for key, metric in run.metrics.items()
    }
    recipe = {"run_name": name, "model_name_or_path": name, "cl": {"stream": name}}
    return dataclasses.replace(
        run,
        stream=name,
        method=name,
        tasks=tuple(changed.values()),
        scorers={changed[old]: name for old in run.tasks},
        n={changed[old]: 5 for old in run.tasks},
        rows=rows,
        metrics=metrics,
        info={
            **run.info,
            "recipe": recipe,
            "notes": [name],
            "versions": {"cl-plugins": name, "torch": name},
            "hardware": {"cpu": name},
            "base": {"name": name},
            "data": {},
        },
        remarks=(name,),
    )


def files_of(run, monkeypatch) -> dict[str, str]:
    """The files of a report, without pictures."""
    from cl_plugins.report import comparison_picture, matrix_picture, stream_picture

    found: dict[str, str] = {}
    nothing = style.Picture(b"", b"", b"")

    def write(path: Path, content: bytes) -> None:
        if path.suffix not in (".png", ".pdf"):
            found[path.name] = content.decode()

    with monkeypatch.context() as patch:
        patch.setattr(run_report, "read_run", lambda path: run)
        patch.setattr(groups, "read_run", lambda path: run)
        patch.setattr(groups, "_short_names", lambda paths: [run.method for _ in paths])
        patch.setattr(matrix_picture, "matrix_picture", lambda run: nothing)
        patch.setattr(stream_picture, "stream_picture", lambda run: nothing)
        patch.setattr(comparison_picture, "compare_picture", lambda comparison: nothing)
        run_report.write_report(Path("a"), write)
        comparison_page.compare([Path("a"), Path("b")], Path("out"), write=write)
    return found


@pytest.fixture(scope="module")
def plain_files(plain):
    with pytest.MonkeyPatch.context() as patch:
        return files_of(named(plain, "plain"), patch)


@given(name=names)
@example(name="".join(HOSTILE))
@example(name=" ")
@example(name=" [2em]")
@example(name="\ud800")
@settings(
    max_examples=40,
    deadline=None,
    phases=(
        Phase.explicit,
        Phase.generate,
    ),  # a report takes too long to be made a thousand times for a smaller example
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_report_keeps_its_shape(name, plain, plain_files, monkeypatch):
    ours = plain_files
    theirs = files_of(named(plain, name), monkeypatch)
    assert ours.keys() == theirs.keys() >= {"report.md", "report.html", "matrix.tex", "compare.md", "compare.html"}
    for file in ("report.html", "compare.html"):
        expected, found = Tags(ours[file]), Tags(theirs[file])
        inside = {("code", ()), ("wbr", ())}  # what a note has between back-ticks, and where a long name may break
        assert [tag for tag in found.tags if tag not in inside] == [tag for tag in expected.tags if tag not in inside]
        assert found.odd == expected.odd
    for file in ("report.md", "compare.md"):
        expected, found = rendered(ours[file]), rendered(theirs[file])
        assert {tag for tag, _ in found.tags} <= SHAPE | PLAIN, file
        assert [tag for tag in found.tags if tag[0] in SHAPE] == [tag for tag in expected.tags if tag[0] in SHAPE]
        assert found.odd == []
    for file in ("matrix.tex", "compare.tex"):
        assert tex_shape(theirs[file]) == tex_shape(ours[file]), file
    for file, content in theirs.items():
        if not file.endswith((".csv", ".json")):
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", content), file


#: Commands that stand for one character.
SIGNS = (
    "textbackslash",
    "textasciitilde",
    "textasciicircum",
    "textless",
    "textgreater",
    "dots",
    "pm",
    "dagger",
    "ddagger",
    "S",
)


def tex_shape(source: str) -> tuple[list[int], Counter[str]]:
    """Cells per line, and the commands that are no sign."""
    lines = source.splitlines()
    cells = [len(re.findall(r"(?<!\\)&", line)) for line in lines]
    assert all(not re.match(r"\s*[\[*]", line) for line in lines)
    depth = 0
    for token in re.findall(r"\\[A-Za-z]+|\\.|[{}]", source):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0
    commands = Counter(word for word in re.findall(r"\\([A-Za-z]+)", source) if word not in SIGNS)
    del commands["texttt"]  # what a note has between back-ticks
    del commands["footnotesize"]  # the size of the letters follows the width of the table, and so the length of a name
    return cells, commands


@given(name=names)
@settings(max_examples=100, deadline=None)
def test_one_name_in_a_line_of_markdown(name):
    for before in ("", "# ", "> ", "- "):
        tags = [tag for tag, _ in rendered(f"{before}{text.markdown(name)}\n").tags]
        wanted = {"# ": ["h1"], "> ": ["blockquote"], "- ": ["ul", "li"], "": []}[before]
        assert [tag for tag in tags if tag != "p"] == wanted
    cell = rendered(f"| a | b |\n| --- | --- |\n| {text.markdown_inside(name)} | {text.code(name)} |\n")
    assert [tag for tag, _ in cell.tags].count("td") == 2
    assert {tag for tag, _ in cell.tags} <= {"table", "thead", "tbody", "tr", "th", "td", "code"}


@given(code=names)
@settings(max_examples=100, deadline=None)
def test_code_stays_in_its_fence(code):
    tags = rendered(f"before\n\n{text.fenced(code, 'yaml')}\n\nafter\n").tags
    assert [tag for tag, _ in tags] == ["p", "pre", "code", "p"]


def test_names_are_read_as_they_are(plain):
    for name in HOSTILE:
        page = rendered(text.markdown(name))
        assert not [tag for tag, _ in page.tags if tag != "p"]


def test_tables_for_programs_hold_the_names_and_no_formulas(plain, monkeypatch):
    for name in HOSTILE:
        run = named(plain, name)
        rows = list(csv.reader(io.StringIO(files_of(run, monkeypatch)["matrix.csv"])))
        names = [f"'{task}" if task[0] in "=+-@\t\r" else task for task in run.tasks]
        assert rows[0][1:] == [task.replace("\r\n", "\n") for task in names] or rows[0][1:] == names


def test_numbers_stay_numbers_in_tables():
    from cl_plugins.report.writing import csv_bytes

    rows = [[-1.5, "-1.5", "+2", None, "", "-", "=1+1", "@x", "\tx", "a=b", 3]]
    assert csv_bytes(rows).decode() == "-1.5,-1.5,+2,,,'-,'=1+1,'@x,'\tx,a=b,3\n"


@pytest.mark.usefixtures("pictures_drawn")
def test_pictures_are_drawn_with_such_names(tmp_path):
    """One run through all of it, from files: a refusal, or a report."""
    from cl_plugins.base.errors import ClPluginsError

    try:
        folder = make_run(
            tmp_path / "run",
            ["a$b", "<b>"],
            [[80.0, None], [60.0, 70.0]],
            stream="$\\frac{",
            method="`x`",
            intervals=False,
        )
        run_report.write_report(folder)
    except ClPluginsError:
        return
    assert (folder / "matrix.png").stat().st_size > 1000
