"""Names that come from files stay text on the pages of the board."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from cl_plugins.base.errors import Problem
from cl_plugins.board import html
from cl_plugins.board.state import RunLine


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt;",
    "</iframe><script>alert(1)</script>",
    "\u202eabc\x1b[31m",
    "\ud800",
]


class Shape(HTMLParser):
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.frames = [], "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.frames += [value for name, value in attrs if name == "srcdoc"]

    def handle_data(self, data):
        self.text += data


def pages(name):
    line = RunLine(
        name,
        "at work",
        method=name,
        stream=name,
        done=3,
        steps=9,
        now=name,
        metrics={"last": 1.0, "bwt": None},
        problem=name,
        at_work={"pid": name, "host": name, "started": name},
    )
    return [
        html.run_list([line], name),
        html.run_list([], name),
        html.run_head(line),
        html.note(name),
        html.problems([Problem(name, name, name)], name),
        html.framed("<p>a page</p>", name),
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_pages_keep_their_shape(name):
    for plain, hostile in zip(pages("plain"), pages(name), strict=True):
        assert [tag for tag in Shape(hostile).tags if tag != ("wbr", ())] == Shape(plain).tags  # long names may break
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\ud800-\udfff]", hostile)
        hostile.encode("utf-8")


def test_a_long_name_breaks_between_its_parts():
    line = RunLine("multitask_with_replay_seed0", "finished", method="mr_lora (selector.learning_rate=0.003)")
    page = html.run_list([line], "x")
    assert "multitask_<wbr>with_<wbr>replay_<wbr>seed0" in page
    assert "mr_lora (selector.<wbr>learning_<wbr>rate=0.003)" in page


def test_a_page_in_a_frame_is_the_page_and_may_run_nothing():
    page = '<p title="a&quot;b">x</p></iframe><script>alert(1)</script>'
    shape = Shape(html.framed(page, "t"))
    assert shape.frames == [page]
    assert [tag for tag, _ in shape.tags] == ["iframe"]
    assert 'sandbox=""' in html.framed(page, "t")


def test_the_list_shows_state_steps_and_metrics():
    line = RunLine("a/b", "finished", "inclora", "demo", 5, 5, metrics={"last": 61.256, "average": None, "bwt": -3.0})
    text = Shape(html.run_list([line], "x")).text
    assert all(word in text for word in ("a/b", "finished", "inclora", "demo", "5 / 5", "61.26", "−3.00", "–"))


def test_problems_have_place_fault_and_remedy():
    text = Shape(html.problems([Problem("cl.method", "is wrong.", "Mend it.")], "One problem:")).text
    assert all(word in text for word in ("One problem:", "cl.method", "is wrong.", "Mend it."))
