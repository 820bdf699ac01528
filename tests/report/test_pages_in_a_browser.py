"""Reports and comparisons as readers see them: on a screen, on a phone, in the dark and on paper."""

from __future__ import annotations

import re

import pytest
from browser import READERS
from report.made_runs import demo_run

from cl_plugins.report import compare, write_report


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report and a comparison of three runs of two methods."""
    root = tmp_path_factory.mktemp("pages")
    runs = [demo_run(root / f"run_{seed}", seed=seed) for seed in (1, 2)]
    runs.append(demo_run(root / "other", seed=1, method="seqlora"))
    write_report(runs[0])
    compare(runs, root / "compared")
    return {"report": runs[0] / "report.html", "comparison": root / "compared" / "compare.html"}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_it_fits_the_window_loads_nothing_and_axe_finds_nothing(chromium, pages, name, reader):
    width, dark = READERS[reader]
    page = chromium.page(pages[name].as_uri(), width=width, dark=dark)
    assert page.overflow <= 0
    assert all(address.startswith("data:") for address in page.loaded)
    assert page.faults() == []
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    bright = sum(map(int, re.findall(r"\d+", ground)[:3])) > 3 * 128
    assert bright is not dark


def test_every_table_of_four_tasks_fits_a_desktop(chromium, pages):
    """A comparison has eleven columns and more: names wrap, and the tables use the window beside the text."""
    page = chromium.page(pages["comparison"].as_uri(), width=1280)
    boxes = page.value("[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])")
    assert boxes
    assert [box for box in boxes if box[0] > box[1]] == []
    assert page.value("[...document.querySelectorAll('.sideways')].every(e => getComputedStyle(e).display === 'none')")


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_on_paper_nothing_is_cut_and_no_page_is_nearly_empty(chromium, pages, name):
    page = chromium.page(
        pages[name].as_uri(), width=718, media="print"
    )  # A4 between margins of 1 cm, at 96 dots an inch
    assert page.overflow <= 0
    cut = "[...document.querySelectorAll('table, pre, img, svg')].filter(e => {"
    cut += "const box = e.getBoundingClientRect(); return box.width && box.right > innerWidth + 1; }).length"
    assert page.value(cut) == 0
    sheets = len(re.findall(rb"/Type\s*/Page\b", page.pdf()))
    height = page.value("document.documentElement.scrollHeight")
    assert 1 <= sheets <= height / 1000 + 2  # A4 shows about 1,000 pixels between its margins
