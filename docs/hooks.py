"""Adds the method cards, which are next to their code, to the site."""

from __future__ import annotations

import re
from pathlib import Path


def on_files(files, config):
    """Called by MkDocs with the files it has found."""
    from mkdocs.structure.files import File

    for card in sorted(Path(config.docs_dir).parent.glob("src/cl_plugins/methods/*/README.md")):
        content = re.sub(r"\]\(\.\./(\w+)/README\.md", r"](\1.md", card.read_text(encoding="utf-8"))
        content = re.sub(r"\]\((?:\.\./){4}docs/", "](../", content)
        files.append(File.generated(config, f"methods/{card.parent.name}.md", content=content))
    return files
