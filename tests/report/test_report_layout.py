"""The parts that reports are made of: texts, tables for the terminal, and the places of labels."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import DEMO_TASKS, demo_run, make_run

from cl_plugins.report import terminal_table, text, write_report
from cl_plugins.report.style import spread
from cl_plugins.report.tables import Entry, Table, to_markdown, to_terminal


def blocks(shown: str) -> list[list[str]]:
    """The blocks of a table in the terminal, without rules and the line of units: paragraphs whose head ends in a rule."""
    lines = [block.splitlines() for block in shown.split("\n\n")]
    found = []
    for block in lines:
        head = next((number for number, line in enumerate(block[:3]) if is_rule(line)), None)
        if head:
            found.append([line for line in (block[0], *block[head:]) if not is_rule(line)])
    return found


def is_rule(line: str) -> bool:
    return bool(line) and set(line) <= set("─-")


def test_the_terminal_shows_matrix_and_metrics(tmp_path):
    shown = terminal_table(demo_run(tmp_path / "run", notes=["Only a demo."]), width=80)
    lines = shown.splitlines()
    assert lines[0] == "inclora on demo, seed 42: score on each task, 0-100"
    (table,) = blocks(shown)
    assert table[0].split() == ["after", "training", "on", *DEMO_TASKS, "A_k"]
    assert lines[3].split() == ["accuracy", "accuracy", "accuracy", "BLEU", "mixed"]
    assert table[1].split() == ["zero-shot", "‡48.33", "‡33.33", "‡25.83", "4.20"]
    assert table[-1].split() == ["rad", "51.67", "‡46.67", "58.33", "31.40", "47.02"]
    start = table[0].index("path") - 1
    ends = [[match.end() for match in re.finditer(r"\S+", line[start:])] for line in table]
    assert all(each == ends[0][: len(each)] for each in ends)
    assert "‡ Not above the best answer that needs no model (majority, constant or random)." in " ".join(lines)
    assert "unlike scores: accuracy (path, neuro, cell) and BLEU (rad)." in " ".join(lines)
    assert max(map(len, lines)) <= 80
    assert "Last 47.02   Average 68.59   MFT 68.89   BWT −29.16   Forgetting 29.16" in lines
    assert lines[-1] == "Note: Only a demo."


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("ascii", [False, True])
def test_the_terminal_table_keeps_to_the_width(tmp_path, width, ascii):
    tasks = [f"a_rather_long_name_{index}" for index in range(6)] + ["細胞計數"]
    scores = [[50.0 if j <= i else None for j in range(7)] for i in range(7)]
    shown = terminal_table(make_run(tmp_path / "run", tasks, scores, zero_shot=[1.0] * 7), width=width, ascii=ascii)
    table = blocks(shown)
    assert max(text.columns(line) for block in table for line in block) <= width
    assert all(len(block) == 9 for block in table)
    columns = sum(len(block[1].split()) - 1 for block in table)  # the first is the row's name
    assert columns == 7
    assert shown.isascii() == ascii


@pytest.mark.parametrize("zero_shot", [None, 3.0])
def test_many_tasks_are_one_line_each(tmp_path, zero_shot):
    """The matrix of 30 tasks would be hundreds of lines."""
    count = 30
    tasks = [f"task{index}" for index in range(count)]
    scores = [[float(50 + i - 2 * j) if j <= i else None for j in range(count)] for i in range(count)]
    given = None if zero_shot is None else [zero_shot] * count
    out = make_run(tmp_path / "run", tasks, scores, zero_shot=given)
    table = blocks(terminal_table(out, width=80))[0]
    assert [line.split()[0] for line in table[-count:]] == tasks
    before = [] if zero_shot is None else ["3.00"]
    shown = [word.strip("‡") for word in table[-count:][7].split()[2:]]
    assert shown == [*before, "43.00", f"{50 + 29 - 14:.2f}", f"{sum(57 - 2 * j for j in range(8)) / 8:.2f}"]
    write_report(out)
    for name in ("report.md", "report.html"):
        page = (out / name).read_text()
        assert "just trained" in page
        assert "matrix.csv" in page
        assert page.count("43.00") < 10  # as each of nine cells of the matrix, and as intervals


def test_colour_changes_nothing_but_the_style(tmp_path):
    directory = demo_run(tmp_path / "run")
    plain, coloured = terminal_table(directory, 80), terminal_table(directory, 80, colour=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d*m", "", coloured) == plain
    bold = re.findall(r"\x1b\[1m\s*(\d[\d.]*)\x1b\[0m", coloured)
    assert bold == ["98.33", "75.83", "70.00", "31.40"]


def test_the_terminal_says_what_is_missing_and_limited(tmp_path):
    shown = terminal_table(demo_run(tmp_path / "run", scores=[[1.0, None, None, None]], max_items=5), width=80)
    assert "Not complete: measured after 1 of 4 tasks." in shown
    assert "Tests limited by cl.eval.max_items: path 5," in shown


def test_a_column_wider_than_the_terminal_still_has_one_block():
    table = Table(("x", "y", "z"), ((Entry("a"), Entry("1" * 60), Entry("2")),))
    assert [len(block) for block in blocks(to_terminal(table, 30))] == [2, 2]


def test_rows_after_a_rule_are_set_apart():
    rows = tuple((Entry(name), Entry("1")) for name in "ab")
    lines = to_terminal(Table(("x", "y"), rows, rules=frozenset({0})), 40).splitlines()
    assert [is_rule(line) for line in lines] == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("value", "decimals", "shown"),
    [(None, 2, "–"), (0.0, 2, "0.00"), (-0.001, 2, "0.00"), (-1.255, 1, "−1.3"), (99.999, 2, "100.00"), (5, 0, "5")],
)
def test_numbers(value, decimals, shown):
    assert text.number(value, decimals) == shown


@given(st.text(min_size=1, max_size=40), st.integers(2, 30))
def test_shortened_texts_fit(content, width):
    assert text.columns(text.shorten(content, width)) <= max(width, 2)


def test_shortening_keeps_both_ends():
    assert text.shorten("pathology_left", 9) == "path…left"
    assert text.shorten("short", 9) == "short"


@given(st.text(max_size=30))
def test_ascii_is_ascii_and_slugs_are_labels(content):
    assert text.plain_ascii(content).isascii()
    assert re.fullmatch(r"[a-z0-9-]*", text.slug([content]))


@given(st.lists(st.text(alphabet="|*_`<>[]\\~$ab \n", max_size=8), min_size=1, max_size=4))
def test_no_name_breaks_a_markdown_table(names):
    table = Table(
        ("h", *names), ((Entry("r"), *(Entry(name, code=index % 2 == 1) for index, name in enumerate(names))),)
    )
    lines = to_markdown(table).splitlines()
    assert len(lines) == 3
    # Every backslash that is data is escaped itself, so an odd run of them before a bar escapes the bar.
    bars = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in (lines[0], lines[1])]
    assert bars == [len(names) + 2] * 2


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3.14, "3.1 s"), (119.9, "119.9 s"), (214.6, "3 min 35 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds, shown):
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (5 * 2**40, "5.00 TiB")]
)
def test_sizes(count, shown):
    assert text.size(count) == shown


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(0.5, 12))
def test_labels_keep_their_distance_order_and_bounds(wanted, gap):
    places = spread(wanted, gap, -3, 103)
    real = min(gap, 106 / max(1, len(wanted) - 1))
    ordered = [place for _, place in sorted(zip(wanted, places, strict=True))]
    assert all(-3 - 1e-6 <= place <= 103 + 1e-6 for place in places)
    assert all(second - first >= real - 1e-6 for first, second in pairwise(ordered))


def test_labels_with_room_stay_where_they_belong_and_others_move_alike():
    assert spread([10.0, 90.0, 50.0], 5, 0, 100) == [10.0, 90.0, 50.0]
    assert spread([50.0, 50.0, 50.0], 4, 0, 100) == pytest.approx([46, 50, 54])
    assert spread([99.0, 100.0], 5, 0, 100) == pytest.approx([95, 100])


def test_what_several_notes_say_stands_once():
    rule = "No task was given at test; a `route` says which answered."
    notes = [f"A, selector: x. {rule}", "Only a demo.", f"B. {rule}", "Only a demo.", "C. Other.", "No end"]
    assert text.said_once(notes) == (f"A, selector: x; B. {rule}", "Only a demo.", "C. Other.", "No end")
    assert text.said_once([]) == ()
