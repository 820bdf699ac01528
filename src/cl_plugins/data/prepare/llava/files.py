"""Finding what a download calls by several names: annotation files, and pictures behind wrong paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..archives import inside
from ..contract import Picture


def first_existing(raw: Path, names: Sequence[str], task: str) -> Path | None:
    """The first of the names that exists below the raw folder.

    The framework takes ``DIR/<task>`` for the raw folder if there is one. Then the names' own first folder is that
    folder, and they are looked for without it.

    Args:
        raw: The raw folder.
        names: Relative paths with forward slashes, the preferred one first.
        task: Name of the task.
    """
    for name in names:
        if (path := raw / name).exists():
            return path
    for name in names:
        head, *rest = PurePosixPath(name).parts
        if raw.name.casefold() in (task.casefold(), head.casefold()) and (path := raw.joinpath(*rest)).exists():
            return path
    return None


def find_picture(roots: Sequence[Path], name: str) -> Picture:
    """A picture by the name that a record gives it.

    The name is looked for below each root as it stands, then without its first folders one after the other: the
    authors' files hold paths such as ``/data/somebody/RS/images/1.png`` or ``./datasets/ArxivQA/images/1.jpg``. The
    last folder is kept, so that ``train/1.png`` never becomes another set's ``1.png``. Nothing outside of the roots is
    opened, and a name with ``..`` never leads to a picture.

    Args:
        roots: Folders, the preferred one first; not empty.
        name: As in the record; backslashes count as slashes.
    """
    parts = [part for part in name.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return Picture.inside(roots[0], name.strip())
    for start in range(max(1, len(parts) - 1)):
        relative = "/".join(parts[start:])
        for root in roots:
            path = inside(root, relative)
            try:
                if path is not None and path.is_file():
                    return Picture(name, path)
            except OSError as error:  # a name that no file can have
                return Picture(name, problem=f"cannot be looked for ({error.strerror})")
    return Picture(name, inside(roots[0], "/".join(parts)) or roots[0] / parts[-1])
