"""Archives and names from the outside: nothing leaves its folder, and nothing grows without bound."""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ...base.errors import DataError, Problem
from ...base.files import write_with
from ...base.outside import is_regular


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to.

    Attributes:
        files: Number of members.
        total: Bytes of all members.
        member: Bytes of one member.
        ratio: Unpacked over packed size of a member above 1 MB, or of a whole tar file.
    """

    files: int = 2_000_000
    total: int = 400 * 2**30
    member: int = 64 * 2**30
    ratio: int = 200


SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PICTURE_LIMIT = 512 * 2**20  # bytes of one picture inside an archive
_SMALL = 2**20
_BLOCK = 2**20
_HEADER = 2**20  # bytes of a tar header: long names and pax records lie in such
_LZMA_MEMORY = 256 * 2**20  # what xz needs at its highest setting is 65 MiB


def inside(root: Path, name: str) -> Path | None:
    """``root / name`` if that stays below ``root`` by its spelling; None for absolute names, ``..`` and the empty name.

    Links that the user has put into the raw folder are followed: only names from the data are distrusted.
    """
    parts = safe_parts(name)
    return root.joinpath(*parts) if parts else None


def slashed(name: str) -> str:
    """A name with forward slashes: programs on Windows write backslashes between folders."""
    return name.replace("\\", "/")


def safe_parts(name: str) -> tuple[str, ...] | None:
    """The parts of a relative name, or None if it is empty, absolute, holds ``..``, a drive or NUL."""
    if not name or "\0" in name:
        return None
    path = PurePosixPath(slashed(name))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return None
    return tuple(path.parts) or None


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> int:
    """Unpack a zip or tar archive into a folder, all or nothing.

    All names and sizes that the archive states are checked first; while writing, the actual bytes are counted. If
    all of it is in one folder called like the target, that folder becomes the target. What a killed call left is
    removed.

    Args:
        archive: ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2`` or ``.tar.xz``.
        target: The folder; must not exist. It appears when everything is in it.
        limits: What it may grow to.

    Returns:
        Number of files.

    Raises:
        DataError: Not an archive, damaged, a name that leads out of the folder, a link or device, encrypted, or
            beyond the limits. No partial output remains.
    """
    limits = limits or Limits()
    if not is_regular(archive):
        raise DataError(Problem(str(archive), "is not a file.", "Check the path."))
    if target.exists():
        raise DataError(Problem(str(target), "exists already.", "Remove it, or name another folder."))
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    count = 0

    def produce(temporary: Path) -> None:
        nonlocal count
        temporary.mkdir(parents=True)
        count = _unpack(archive, temporary, limits)
        inner = temporary / target.name
        if inner.is_dir() and list(temporary.iterdir()) == [inner]:
            aside = temporary.with_name(f"{temporary.name}.tmp")
            inner.rename(aside)
            temporary.rmdir()
            aside.rename(temporary)

    try:
        write_with(target, produce)
    except (
        *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error),
        *(EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, OSError),
    ) as error:
        if isinstance(error, DataError):
            raise
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            raise  # a full disk is not the archive's fault
        raise DataError(
            Problem(str(archive), f"cannot be unpacked ({error or type(error).__name__}).", "Download it again.")
        ) from error
    return count


def _unpack(archive: Path, folder: Path, limits: Limits) -> int:
    if zipfile.is_zipfile(archive):
        with _zip(archive) as source:
            members = source.infolist()
            _check_zip(archive, members, limits)
            budget = [limits.total]
            for member in members:
                if not member.is_dir():
                    with source.open(member) as file:
                        _write(archive, file, _destination(archive, folder, member.filename), member.file_size, budget)
            return sum(not member.is_dir() for member in members)
    return _unpack_tar(archive, folder, limits)


def _check_zip(archive: Path, members: list[zipfile.ZipInfo], limits: Limits) -> None:
    """Refuse an archive by its own headers."""
    problems = []
    if len(members) > limits.files:
        problems.append(Problem(str(archive), f"holds {len(members)} members; the limit is {limits.files}.", ""))
    total = sum(member.file_size for member in members)
    if total > limits.total:
        problems.append(Problem(str(archive), f"unpacks to {total} bytes; the limit is {limits.total}.", ""))
    for member in members:
        what = _wrong_with(member, limits)
        if what:
            problems.append(Problem(f"{archive}:{member.filename!r}", what, "Do not trust this archive."))
        if len(problems) > 10:
            break
    if problems:
        raise DataError(problems)


def _wrong_with(member: zipfile.ZipInfo, limits: Limits) -> str:
    if safe_parts(member.filename) is None:
        return "leads out of the folder."
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device."
    if member.flag_bits & 1:
        return "is encrypted."
    if member.file_size > limits.member:
        return f"unpacks to {member.file_size} bytes; the limit is {limits.member}."
    if member.file_size > _SMALL and member.file_size > limits.ratio * max(member.compress_size, 1):
        return (
            f"unpacks to {member.file_size // max(member.compress_size, 1)} times its size, as decompression bombs do."
        )
    return ""


def _unpack_tar(archive: Path, folder: Path, limits: Limits) -> int:
    packed = archive.stat().st_size
    budget = [min(limits.total, max(packed * limits.ratio, 64 * _SMALL))]
    count = files = 0
    most = max(packed * limits.ratio, 64 * _SMALL)
    with _unpacked(archive, most) as plain, _open_tar(archive, plain) as source:
        for member in source:
            source.members.clear()  # type: ignore[attr-defined]  # it keeps all that it has read
            plain.in_member()
            count += 1
            if count > limits.files:
                raise DataError(Problem(str(archive), f"holds more than {limits.files} members.", ""))
            where = f"{archive}:{member.name!r}"
            if safe_parts(member.name) is None and member.name not in (".", "./"):
                raise DataError(Problem(where, "leads out of the folder.", "Do not trust this archive."))
            if member.isdir():
                continue
            if not member.isreg():
                raise DataError(Problem(where, "is a link or a device.", "Do not trust this archive."))
            files += 1
            if member.size > limits.member:
                raise DataError(Problem(where, f"unpacks to {member.size} bytes; the limit is {limits.member}.", ""))
            file = source.extractfile(member)
            if file is not None:
                with file:
                    _write(archive, file, _destination(archive, folder, member.name), member.size, budget)
            plain.in_header()
    return files


class _Unpacked:
    """The bytes of a tar archive for `tarfile`, which trusts the sizes that headers state.

    A header is read whole: a long name of four gigabytes takes two megabytes in the archive and four gigabytes in memory.
    Sizes may also be negative, and lead back to where the reader has been, for ever.

    Args:
        archive: The archive, for messages.
        file: Its bytes, unpacked.
        most: So many of them are read.
    """

    def __init__(self, archive: Path, file: IO[bytes], most: int) -> None:
        self._archive, self._file, self._most = archive, file, most
        self._header, self._start = True, 0

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def in_member(self) -> None:
        """From here on a member is read, block by block."""
        self._header = False

    def in_header(self) -> None:
        """From here on a header is read."""
        self._header, self._start = True, self._file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        if not 0 <= size <= max(_HEADER, _BLOCK):
            raise self._refused(f"has a header of {size} bytes")
        if self._header and self._file.tell() - self._start > 16 * _HEADER:
            raise self._refused("has headers without end")
        if self._file.tell() > self._most:
            raise self._refused("unpacks to more than possible for its size, or than the limit")
        return self._file.read(size)

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to a place, never far back."""
        if whence or position < self._file.tell() - tarfile.RECORDSIZE:
            raise self._refused("has a header that points back")
        if position > self._most:
            raise self._refused("unpacks to more than possible for its size, or than the limit")
        if self._header:
            self._start = max(self._start, position)
        return self._file.seek(position)

    def tell(self) -> int:
        """The place."""
        return self._file.tell()

    def _refused(self, what: str) -> DataError:
        return DataError(Problem(str(self._archive), f"{what}.", "Do not trust this archive."))


def _unpacked(archive: Path, most: int) -> _Unpacked:
    """The first ``most`` bytes of a tar archive, whichever way it is packed."""
    with archive.open("rb") as file:
        start = file.read(6)
        opener: Any = open
        if start.startswith(b"\x1f\x8b"):
            opener = gzip.open
        elif start.startswith(b"BZh"):
            opener = bz2.open
        elif start.startswith(b"\xfd7zXZ"):
            opener = lzma.open
            file.seek(0)
            try:  # the archive says how much memory it wants
                lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(file.read(65536), max_length=1)
            except lzma.LZMAError as error:
                raise DataError(Problem(str(archive), f"cannot be unpacked ({error}).", "Pack it again.")) from error
    return _Unpacked(archive, opener(archive, "rb"), most)


def _open_tar(archive: Path, plain: _Unpacked) -> tarfile.TarFile:
    try:
        return tarfile.TarFile.taropen(None, "r", fileobj=plain)  # type: ignore[arg-type]
    except (tarfile.ReadError, gzip.BadGzipFile, lzma.LZMAError) as error:
        what = "is neither a zip nor a tar archive."
        raise DataError(Problem(str(archive), what, "Download it again.")) from error


def _destination(archive: Path, folder: Path, name: str) -> Path:
    path = inside(folder, name)
    if path is None or path.exists():
        what = "leads out of the folder." if path is None else "occurs twice."
        raise DataError(Problem(f"{archive}:{name!r}", what, "Do not trust this archive."))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write(archive: Path, source: IO[bytes], path: Path, size: int, budget: list[int]) -> None:
    """Copy a member, counting its actual bytes."""
    written = 0
    with path.open("xb") as file:
        while block := source.read(_BLOCK):
            written += len(block)
            budget[0] -= len(block)
            if written > size or budget[0] < 0:
                what = "unpacks to more than it declares, or than the limit."
                raise DataError(Problem(f"{archive}:{path.name!r}", what, "Do not trust this archive."))
            file.write(block)


@lru_cache(maxsize=8)
def _open_zip(path: str, changed: int) -> zipfile.ZipFile:
    return _zip(Path(path))


def _zip(path: Path) -> zipfile.ZipFile:
    """A zip file whose members have names with forward slashes, as the format wants them."""
    source = zipfile.ZipFile(path)
    for member in source.infolist():
        if "\\" in member.filename:
            member.filename = slashed(member.filename)  # `orig_filename` is what the reader compares
            source.NameToInfo.setdefault(member.filename, member)
    return source


def open_zip(archive: Path) -> zipfile.ZipFile:
    """A zip file, kept open for the next call in this process.

    Raises:
        DataError: It is missing, damaged or no zip file.
    """
    try:
        return _open_zip(str(archive), archive.stat().st_mtime_ns)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(Problem(str(archive), f"cannot be read ({error}).", "Download it again.")) from error


def read_member(archive: Path, part: str, limit: int = PICTURE_LIMIT) -> bytes:
    """One member of a zip file, in memory.

    Args:
        archive: The zip file.
        part: Name of the member.
        limit: Largest size in bytes, stated or real.

    Raises:
        KeyError: There is no such member.
        ValueError: It is too large, packed beyond belief, damaged or encrypted.
        DataError: The archive itself cannot be read.
    """
    source = open_zip(archive)
    member = source.getinfo(part)
    wrong = _wrong_with(member, Limits(member=limit))
    if wrong:
        raise ValueError(wrong)
    try:
        with source.open(member) as file:
            data = file.read(limit + 1)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    except Exception as error:  # zlib.error, lzma.LZMAError: one class per compression
        if type(error).__module__ in ("zlib", "_lzma", "_bz2"):
            raise ValueError(str(error)) from error
        raise
    if len(data) > limit:
        raise ValueError(f"unpacks to more than {limit} bytes")
    return data


def picture_names(archive: Path) -> Iterator[tuple[str, str]]:
    """(file name without folders and suffix, name in the archive) of every picture in a zip file."""
    for name in open_zip(archive).namelist():
        path = PurePosixPath(name)
        # macOS adds "._x.jpg" members under __MACOSX that are no pictures.
        if path.suffix.lower() in {".jpg", ".jpeg", ".png"} and not path.name.startswith("._"):
            yield path.stem, name
