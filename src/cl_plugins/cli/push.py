"""``cl-plugins push``: upload a finished model to the Hugging Face hub, after showing what and asking."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


_EPILOG = """\
  cl-plugins push saves/run --repo me/my-model --private
  cl-plugins push adapters --repo me/my-adapters --base llava-hf/llava-1.5-7b-hf

Uploads the files that MANIFEST.json lists: weights or adapters, tokenizer,
model card. Training samples, predictions and paths of this machine are never
uploaded. The command shows the files and asks first; `--yes` answers for a
script. The hub's library has the credentials (`hf auth login`, HF_TOKEN).
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", metavar="MODEL", type=Path, help="a finished run, its final/, or an export")
    parser.add_argument("--repo", metavar="NAME", required=True, help="repository on the hub, as ORGANISATION/NAME")
    parser.add_argument("--base", metavar="NAME", help="name of the base on the hub, if the run used a local folder")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--message", default="Upload with cl_plugins", help="of the commit")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Show what would be uploaded, ask, and upload."""
    from ..run.pushing import check_names, parcel, prepared, push
    from . import output

    found = parcel(args.folder)
    check_names(found, args.repo, args.base)
    about = found.manifest
    total = sum(found.sizes.values())
    output.emit(output.bold(f"{args.repo}") + f"  {'private' if args.private else 'public, if it is new'}")
    output.pairs(
        [
            ("from", str(found.folder)),
            ("model", f"{about.method} on {about.stream}, {' → '.join(about.tasks)} ({about.kind})"),
            ("base", args.base or found.base),
        ]
    )
    output.heading(f"{len(found.sizes)} files", output.size(total))
    output.columns(("", ""), [(output.size(size), name) for name, size in found.sizes.items()], right=(0,))
    output.emit()
    if not args.yes and not _agreed():
        output.emit("Nothing was uploaded.")
        return 1
    with prepared(found, args.base) as folder:
        address = push(folder, args.repo, private=args.private, message=args.message)
    output.emit(f"Uploaded: {address}")
    return 0


def _agreed() -> bool:
    """Whether the user says yes; without a terminal nobody does."""
    if not sys.stdin.isatty():
        from ..base.errors import Problem, RecipeError

        raise RecipeError(Problem("--yes", "is needed where nobody can be asked.", "Add it if the list is right."))
    try:
        return input("Upload these files? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
