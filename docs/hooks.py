"""Takes the methods' cards, which lie beside their code, into the site."""

from __future__ import annotations

from pathlib import Path


def on_files(files, config):
    """Called by MkDocs with the files it has found."""
    from mkdocs.structure.files import File

    for card in sorted(Path(config.docs_dir).parent.glob("src/cl_plugins/methods/*/README.md")):
        files.append(
            File.generated(config, f"methods/{card.parent.name}.md", content=card.read_text(encoding="utf-8"))
        )
    return files
