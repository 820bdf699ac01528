"""``cl-plugins push``: a finished model or an export on the Hugging Face hub, and nothing but the model."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..base.errors import Problem, RecipeError, RunStateError
from ..records.carry import CarryRecord, ModelManifest
from ..records.files import record_of, table_problems
from ..records.names import is_run_file
from ..records.record import CHECKSUM
from .base_card import README, is_local
from .finish import MANIFEST


_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")
_NEVER = re.compile(r"(?:^|/)(?:replay|predictions|tasks|received)/|\.jsonl$")


@dataclass(frozen=True)
class Parcel:
    """What would be uploaded.

    Attributes:
        folder: The folder.
        manifest: Its ``MANIFEST.json``.
        sizes: Every file with its size in bytes.
    """

    folder: Path
    manifest: ModelManifest
    sizes: dict[str, int]

    @property
    def base(self) -> str:
        """Folder or hub name of the base."""
        return str(self.manifest.base.get("name", ""))


def parcel(place: Path) -> Parcel:
    """The files of a finished model, each compared with its hash. Files that the manifest does not list are left out.

    Args:
        place: ``final/`` of a run, the run's directory, or a folder that ``cl-plugins export`` has written.

    Raises:
        RunStateError: If there is no finished model, a file differs from its hash, or one of the files is no part of a
            model.
    """
    folder = place / "final" if not (place / MANIFEST).exists() and (place / "final" / MANIFEST).exists() else place
    if not (folder / MANIFEST).exists():
        what = "holds no finished model (no MANIFEST.json)."
        raise RunStateError(Problem(str(folder), what, "Give `final/` of a run that has finished, or an export."))
    manifest = ModelManifest.read(folder / MANIFEST)
    files = manifest.files or {}
    problems = table_problems(folder, files, ModelManifest.FIX, MANIFEST)
    problems += [
        Problem(
            str(folder / name), "is no part of a model and is never uploaded.", "Use the folder as it was written."
        )
        for name in files
        if _NEVER.search(name) or not is_run_file(name)
    ]
    if README not in files:
        fix = "Run the recipe again, or export the model with this version of cl-plugins."
        problems.append(Problem(str(folder), f"has no model card ({README}) in its manifest.", fix))
    if manifest.base_folder is not None:
        what = "holds adapters with a base of their own, for vLLM on this machine."
        problems.append(
            Problem(str(folder), what, "Export them without `--vllm` to share them, or push a merged model.")
        )
    if problems:
        raise RunStateError(problems)
    sizes = {name: record.bytes for name, record in files.items()}
    return Parcel(folder, manifest, {**sizes, MANIFEST: (folder / MANIFEST).stat().st_size})


def check_names(found: Parcel, repo: str, base: str | None) -> None:
    """Check the names of a repository and of the base.

    Args:
        found: From `parcel`.
        repo: Name of the repository.
        base: The base's name on the hub, if it was given.

    Raises:
        RecipeError: If a name is none, or the base is a folder of this machine and has no other name.
    """
    problems = []
    if _REPO.fullmatch(repo) is None:
        problems.append(Problem("--repo", f"is {repo!r}.", "Give `NAME` or `ORGANISATION/NAME`."))
    if base is not None and (_REPO.fullmatch(base) is None or is_local(base)):
        problems.append(Problem("--base", f"is {base!r}.", "Give the name of the base on the hub."))
    whole = found.manifest.kind in ("merged", "full")
    if base is None and is_local(found.base) and not whole:
        what = f"the model belongs to the base {found.base}, a folder of this machine, which others cannot open."
        problems.append(Problem("--base", what, "Give the name of the base on the hub: `--base ORGANISATION/NAME`."))
    if problems:
        raise RecipeError(problems)


@contextmanager
def prepared(found: Parcel, base: str | None) -> Iterator[Path]:
    """The folder that is uploaded: a copy with the listed files only, and no path of this machine in it.

    Args:
        found: From `parcel`.
        base: The base's name on the hub; None keeps a hub's name, and of a local folder the last part.

    Yields:
        The folder, gone afterwards.
    """
    name = base or (Path(found.base).name if is_local(found.base) else found.base)
    beside = found.folder.parent if os.access(found.folder.parent, os.W_OK) else None  # links need the same disk
    with TemporaryDirectory(prefix=".cl-plugins-push-", dir=beside) as scratch:
        folder = Path(scratch)
        for each in found.sizes:
            target = folder / each
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(found.folder / each, target)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(found.folder / each, target)
        if name != found.base:
            _rename(folder, found, name, known=base is not None)
        yield folder


def _rename(folder: Path, found: Parcel, name: str, *, known: bool) -> None:
    """Write another name of the base into card, adapters and manifest."""
    old = found.base
    for path in sorted(folder.rglob("*")):
        if path.name == README or path.name == "adapter_config.json":
            text = path.read_text(encoding="utf-8").replace(json.dumps(old)[1:-1], name).replace(old, name)
            if path.name == README and known:
                text = _with_base(text, name, found.manifest.kind)
            _replace(path, text)
        elif path.name == "carry.json":
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop(CHECKSUM, None)
            _replace(path, CarryRecord.text({**content, "base": {**content["base"], "name": name}}, indent=2))
        elif path.name == "config.json":
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.get("_name_or_path") == old:
                _replace(path, json.dumps({**content, "_name_or_path": name}, indent=2) + "\n")
    about: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    about.pop(CHECKSUM, None)
    about["base"] = {**about["base"], "name": name}
    about["files"] = {each: record_of(folder / each).plain() for each in found.manifest.files or {}}
    (folder / MANIFEST).unlink()
    ModelManifest.write(folder / MANIFEST, about)


def _with_base(text: str, name: str, kind: str) -> str:
    """A card whose metadata name the base."""
    from huggingface_hub import ModelCard

    card = ModelCard(text)
    data: Any = card.data
    data.base_model = name
    data.base_model_relation = "adapter" if kind in ("peft", "tasks") else "finetune"
    return str(card)


def _replace(path: Path, text: str) -> None:
    """Write a file anew; the one that it was linked to stays as it is."""
    path.unlink()
    path.write_text(text, encoding="utf-8")


def push(folder: Path, repo: str, *, private: bool, message: str, api: Any = None) -> str:
    """Upload a folder.

    Args:
        folder: From `prepared`.
        repo: Name of the repository; made if it does not exist.
        private: Whether a new repository is private.
        message: Of the commit.
        api: A `huggingface_hub.HfApi`; a new one by default.

    Returns:
        The address of the model.

    Raises:
        RunStateError: If the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = api if api is not None else HfApi()
    try:
        made = api.create_repo(repo, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(
            folder_path=str(folder), repo_id=getattr(made, "repo_id", repo), repo_type="model", commit_message=message
        )
    except (HfHubHTTPError, OSError, ValueError) as error:  # no token, no network, a name that is taken
        fix = "Log in with `hf auth login` or set HF_TOKEN, and check name and connection."
        raise RunStateError(Problem(repo, f"could not be uploaded ({error}).", fix)) from error
    return str(made)
