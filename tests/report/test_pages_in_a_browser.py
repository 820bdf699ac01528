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


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_every_table_of_four_tasks_fits_a_desktop(chromium, pages, name):
    """A comparison has eleven columns and more: names wrap, and the tables use the window beside the text."""
    page = chromium.page(pages[name].as_uri(), width=1280)
    boxes = page.value("[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth, e.clientWidth])")
    assert boxes
    assert [box for box in boxes if box[0] > box[1]] == []


HINTS = """[...document.querySelectorAll('.wide')].map(e => {
  const hint = e.querySelector('.sideways'), box = e.querySelector('.scroll');
  const shown = getComputedStyle(hint).visibility === 'visible' && hint.getBoundingClientRect().height > 10;
  return [shown, box.scrollWidth > box.clientWidth + 1, box.getAttribute('aria-label')];
})"""


@pytest.mark.parametrize("width", [390, 700, 1280])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_hint_stands_above_what_scrolls_and_nowhere_else(chromium, pages, name, width):
    page = chromium.page(pages[name].as_uri(), width=width)
    page.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    found = page.value(HINTS)
    assert [entry for entry in found if entry[0] != entry[1]] == []
    assert any(scrolls for _, scrolls, _ in found) is (width < 1280)


def test_no_word_of_a_head_is_broken_and_numbers_stay_whole(chromium, pages):
    script = """[...document.querySelectorAll('%s')].filter(e => {
      const range = document.createRange(), word = [...e.childNodes].find(n => n.nodeType === 3 && /\\S/.test(n.data));
      if (!word || /\\s/.test(word.data.trim())) return false;
      range.selectNodeContents(word);
      return new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1;
    }).map(e => e.textContent)"""
    for width in (390, 1280):
        for name in pages:
            page = chromium.page(pages[name].as_uri(), width=width)
            assert page.value(script % "thead .num") == []
            assert page.value(script % "tbody .num") == []


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_pictures_on_a_phone_are_large_enough_to_read(chromium, pages, name):
    """Their smallest print is of 6.5 points: at 0.75 of its size it is as high as that of a footnote on a screen."""
    page = chromium.page(pages[name].as_uri(), width=390)
    shares = page.value("[...document.querySelectorAll('figure img')].map(e => e.width / (e.naturalWidth / 200 * 96))")
    assert shares
    assert min(shares) > 0.7


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
