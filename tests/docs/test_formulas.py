"""Formulae of the pages: LaTeX that GitHub shows as it is, and that the site turns into MathML without anything from outside."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import yaml


ROOT = Path(__file__).parents[2]
CARDS = sorted((ROOT / "src").glob("cl_plugins/methods/*/README.md"))
MEASURED = sorted(
    (ROOT / "benchmarks" / name / "README.md") for name in ("cross_modal", "eval", "step", "synthetic_conflict")
)
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *CARDS, *MEASURED])
NO_FORMULA = {"multitask", "single_task"}  # their trainings are those of plain LoRA
# What GitHub's Markdown would take as its own inside $...$: an escaped sign, and `_` or `*` that may begin emphasis.
MARKDOWN = re.compile(r"\\[^A-Za-z\s]|[^A-Za-z]_|\*|[<>`]")
SIGNS = re.compile(r"[Σ∂∇‖≤≥∈²³ᵀ₀-₉½θλΔ←]")


def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = hooks()


def formulas(text):
    found = []
    HOOKS.replace_formulas(text, lambda latex, block: found.append((latex, block)) or "")
    return found


ALL = [
    pytest.param(latex, block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, (latex, block) in enumerate(formulas(page.read_text(encoding="utf-8")))
]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_every_card_writes_its_formula_in_latex(card):
    text = card.read_text(encoding="utf-8")
    assert ("**Formula.**" in text) == (card.parent.name not in NO_FORMULA)
    if card.parent.name in NO_FORMULA:
        return
    section = text.partition("**Formula.**")[2].partition("\n**")[0]
    assert formulas(section)
    for span in re.findall(r"`([^`]+)`", section):
        assert not SIGNS.search(span), span


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_is_left_unrendered(page):
    rest = HOOKS.replace_formulas(page.read_text(encoding="utf-8"), lambda latex, block: "")
    rest = "".join(HOOKS.CODE.split(rest)[::2])
    assert "$" not in rest
    assert not re.search(r"\\(frac|sum|mathrm|lambda|theta|alpha|cos|text)\b", rest)


@pytest.mark.parametrize(("latex", "block"), ALL)
def test_markdown_leaves_it_alone(latex, block):
    assert not MARKDOWN.search(latex)
    assert block or "\n" not in latex


@pytest.mark.parametrize(("latex", "block"), ALL)
def test_it_becomes_mathml(latex, block):
    pytest.importorskip("latex2mathml")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="methods.md"))
    sign = "$$" if block else "$"
    markdown = HOOKS.on_page_markdown(f"with {sign}{latex}{sign} in it", page=page)
    assert "$" not in markdown
    html = HOOKS.on_page_content(f"<p>{markdown}</p>", page=page)
    tree = ElementTree.fromstring(html)
    math = tree.find(".//{http://www.w3.org/1998/Math/MathML}math")
    assert math is not None
    assert math.get("display") == ("block" if block else "inline")
    assert "\\" not in "".join(math.itertext())  # a command that is not known is left as text


def test_words_of_code_stay_whole():
    html = HOOKS.on_page_content("<p><code>cl-plugins run a --to x</code> a-b</p>", page=SimpleNamespace(formulas=[]))
    whole = '<span class="whole">{}</span>'
    assert html == f"<p><code>{whole.format('cl-plugins')} run a {whole.format('--to')} x</code> a-b</p>"


def test_long_keys_break_behind_dots_only():
    page = SimpleNamespace(formulas=[])
    cell = "<td><code>cl.stream.tasks[].max_new_tokens</code> a.b</td>"
    broken = "<td><code>cl.<wbr>stream.<wbr>tasks[].<wbr>max_new_tokens</code> a.b</td>"
    assert HOOKS.on_page_content(cell, page=page) == broken
    folder = "<p><code>predictions/&lt;row&gt;/&lt;task&gt;.jsonl</code></p>"
    assert HOOKS.on_page_content(folder, page=page) == folder.replace("/&lt;", "/<wbr>&lt;").replace(".j", ".<wbr>j")
    for left in ("<p><code>cl.eval.scope</code></p>", "<pre><code>cl.eval.probes.name.of.it --to</code></pre>"):
        assert HOOKS.on_page_content(left, page=page) == left


def test_a_mean_and_its_interval_stay_on_one_line():
    page = SimpleNamespace(formulas=[])
    assert HOOKS.on_page_content("<td>21.5 ± 31.1</td>", page=page) == "<td>21.5\u00a0±\u00a031.1</td>"


def test_a_picture_with_dark_colours_is_there_twice():
    page = SimpleNamespace(formulas=[])
    image = '<p><img alt="a" src="../assets/demo_forgetting.png" /></p>'
    light = '<img alt="a" src="../assets/demo_forgetting.png#only-light" />'
    dark = '<img alt="a" src="../assets/demo_forgetting_dark.png#only-dark" />'
    assert HOOKS.on_page_content(image, page=page) == f"<p>{light}{dark}</p>"
    other = image.replace("demo_forgetting", "other")
    assert HOOKS.on_page_content(other, page=page) == other


def test_what_was_measured_is_a_page_of_the_site():
    """On GitHub the links lead to the README next to the results."""
    assert sorted(HOOKS.MEASURED) == [page.parent.name for page in MEASURED]
    for depth, start in ((0, "../"), (1, "../../"), (1, "../../../../")):
        found = HOOKS.to_measured(
            f"[it]({start}benchmarks/step/README.md#a), [other]({start}benchmarks/seen.yaml)", depth
        )
        assert found == f"[it]({'../' * depth}measured/step.md#a), [other]({start}benchmarks/seen.yaml)"


def test_dollars_in_code_are_no_formulae():
    text = "`$HOME` and `$x$`\n\n```bash\necho $A $B\n```\n\nbut $x_1$, and $$y$$"
    assert formulas(text) == [("x_1", False), ("y", True)]


def test_the_site_loads_nothing_from_elsewhere():
    """No fonts of Google; no script or style but the theme's own and those of this folder; no plugin that adds one."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False
    assert set(settings) <= {
        "site_name", "site_description", "docs_dir", "exclude_docs", "theme", "extra_css", "extra_javascript", "extra", "hooks",
        "markdown_extensions", "validation", "nav",
    }  # fmt: skip
    for sheet in settings["extra_css"] + settings["extra_javascript"]:
        text = (ROOT / "docs" / sheet).read_text(encoding="utf-8")
        assert "http" not in text
        assert "@import" not in text
    for page in PAGES:
        assert not re.search(r"!\[[^]]*\]\(http|<(script|img|link|iframe)\b", page.read_text(encoding="utf-8")), page


def test_every_page_is_in_the_navigation_once():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def leaves(value):
        if isinstance(value, str):
            return [value]
        inside = value if isinstance(value, list) else value.values()
        return [leaf for each in inside for leaf in leaves(each)]

    named = leaves(settings["nav"])
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    beside = {f"methods/{card.parent.name}.md" for card in CARDS} | {
        f"measured/{page.parent.name}.md" for page in MEASURED
    }
    assert sorted(named) == sorted(pages | beside)
