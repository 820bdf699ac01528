"""Adds the method cards and what was measured, which are next to their code, to the site; formulae and pictures fit the page.

MathML is what browsers render themselves, so a page needs neither scripts nor fonts from elsewhere. A picture is shown in dark
colours on a dark page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


#: What is code in Markdown: fenced blocks and spans. A dollar sign in it is none of a formula.
CODE = re.compile(r"(^ *```.*?^ *```|`[^`]+`)", re.MULTILINE | re.DOTALL)
#: ``$$...$$``, or ``$...$`` without a space inside the signs, as GitHub takes it.
FORMULA = re.compile(r"\$\$(?P<block>[^$]+)\$\$|(?<![\\$\w])\$(?P<inline>(?!\s)[^$]+?(?<!\s))\$(?![$\w])")
#: Folders of `benchmarks/` whose README is a page of the site.
MEASURED = ("cross_modal", "eval", "step", "synthetic_conflict")
#: Pages whose widest table needs the place of the table of contents.
WIDE = ("demo.md", "real.md", "refused.md")
#: Pictures of the pages; of one that is called `NAME.png`, `NAME_dark.png` is for a dark page.
ASSETS = Path(__file__).parent / "assets"
_PICTURE = re.compile(r'(<img [^>]*src="[^"]*?assets/)(\w+)\.png("[^>]*>)')
_PLACE = "FORMULA{}OF"  # a word that Markdown leaves as it is


def replace_formulas(markdown: str, by: Callable[[str, bool], str]) -> str:
    """Replace the formulae of a page.

    Args:
        markdown: The page.
        by: Gets the LaTeX of a formula and whether it is a block; returns what stands in its place.
    """

    def one(match: re.Match[str]) -> str:
        block = match["block"]
        return by((block or match["inline"]).strip(), block is not None)

    parts = CODE.split(markdown)
    parts[::2] = [FORMULA.sub(one, part) for part in parts[::2]]
    return "".join(parts)


def on_files(files, config):
    """Called by MkDocs with the files it has found."""
    from mkdocs.structure.files import File

    for card in sorted(Path(config.docs_dir).parent.glob("src/cl_plugins/methods/*/README.md")):
        content = re.sub(r"\]\(\.\./(\w+)/README\.md", r"](\1.md", card.read_text(encoding="utf-8"))
        content = re.sub(r"\]\((?:\.\./){4}docs/", "](../", content)
        files.append(File.generated(config, f"methods/{card.parent.name}.md", content=content))
    for name in MEASURED:
        page = Path(config.docs_dir).parent / "benchmarks" / name / "README.md"
        content = page.read_text(encoding="utf-8").replace("](../../docs/", "](../")
        files.append(File.generated(config, f"measured/{name}.md", content=content))
    return files


def to_measured(markdown: str, depth: int) -> str:
    """Links to the READMEs of benchmarks lead to their pages of the site.

    Args:
        markdown: A page.
        depth: In how many folders below that of the documentation it is.
    """
    return re.sub(
        rf"\]\((?:\.\./)+benchmarks/({'|'.join(MEASURED)})/README\.md", rf"]({'../' * depth}measured/\1.md", markdown
    )


def on_page_markdown(markdown, page, **_):
    """Called by MkDocs with the text of a page: formulae become MathML, kept aside until Markdown is done."""
    from latex2mathml.converter import convert

    page.formulas = []
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]

    def keep(latex: str, block: bool) -> str:
        formula = convert(latex, display="block" if block else "inline")
        page.formulas.append(f'<span class="formula" tabindex="0">{formula}</span>' if block else formula)
        return _PLACE.format(len(page.formulas) - 1)

    markdown = to_measured(markdown, page.file.src_uri.count("/"))
    return replace_formulas(markdown, keep)


def on_page_content(html, page, **_):
    """Called by MkDocs with the HTML of a page."""
    html = _PICTURE.sub(_both, html)
    for number, formula in enumerate(page.formulas):
        html = html.replace(_PLACE.format(number), formula)
    html = re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", html)
    parts = re.split(r"(<pre.*?</pre>)", html, flags=re.DOTALL)
    parts[::2] = [re.sub(r"(?<=<code>)[^<]+(?=</code>)", _breaks, part) for part in parts[::2]]
    return "".join(parts)


def _both(picture: re.Match[str]) -> str:
    """A picture in light and, where it is there, in dark colours; the theme shows one of them."""
    before, name, after = picture.groups()
    if not (ASSETS / f"{name}_dark.png").is_file():
        return picture[0]
    return f"{before}{name}.png#only-light{after}{before}{name}_dark.png#only-dark{after}"


_LONG = 24  # characters of a code span that may break


def _breaks(code: re.Match[str]) -> str:
    """Where a code span may break: a long one behind dots and slashes, as in `cl.eval.scope`, and none at hyphens.

    `cl-plugins` and `--to` are one word for the style sheet.
    """
    text = code[0]
    if len(text) > _LONG:
        text = re.sub(r"(?<=[\w\];])\.(?=[A-Za-z_]{3})", ".<wbr>", text)
        text = re.sub(r"(?<=[\w;])/(?=[\w&])", "/<wbr>", text)
    return re.sub(r"[^\s<>]*-[^\s<>]*", r'<span class="whole">\g<0></span>', text)
