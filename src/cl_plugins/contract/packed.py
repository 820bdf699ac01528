"""A carry as one file: a zip archive whose members are stored, listed in ``PACK.json`` and hashed.

A pack comes from another site and is not trusted. Members are never compressed, so that none unpacks to more than its
bytes; their names are known forms; no byte of the file belongs to no member.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..base.errors import Problem, RunStateError
from ..base.files import recover_directory, write_with
from ..base.outside import OutsideError, open_regular
from ..records.carry import BufferRecord, CarryRecord
from ..records.files import FileRecord
from ..records.pack import AGAIN, CARRY, PACK, PackRecord, SiteRecord, is_pack_file
from ..records.record import few, shown
from .tensors import TensorInfo, read_header


MOST_FILES = 200_000
RECORD_LIMIT = 64 * 2**20  # bytes of PACK.json, carry.json and the record of a site
_DIRECTORY_LIMIT = 128 * 2**20  # bytes of the zip archive's own list, which is read whole
_BLOCK = 2**20
_END, _LOCATOR, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
_PER_MEMBER = 30 + 46 + 2 * 32  # headers of a member without its name, with the fields of zip64
_DISTRUST = "Do not use this file."


@dataclass(frozen=True)
class Pack:
    """A pack whose structure was checked; the bytes of tensors are compared by `verify` and `unpack`.

    Attributes:
        path: The file.
        record: Its ``PACK.json``.
        carry: The ``carry.json`` in it.
    """

    path: Path
    record: PackRecord
    carry: CarryRecord

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Read and check the lists of a pack; no tensor is read.

        Raises:
            RunStateError: With everything that is wrong with the file.
        """
        with _zip(path) as archive:
            sizes = _sizes(path, archive)
            record = PackRecord.parse(_small(path, archive, sizes, PACK), f"{path}:{PACK}")
            problems = _table_problems(path, sizes, record.files)
            if problems:
                raise RunStateError(few(problems))
            inner = f"{CARRY}carry.json"
            raw = _listed(path, archive, inner, record.files[inner])
            carry = CarryRecord.parse(raw, f"{path}:{inner}")
            problems = record.carry_problems(carry, str(path))
            if problems:
                raise RunStateError(problems)
            return cls(path, record, carry)

    def verify(self) -> None:
        """Compare every member with its hash, and check the headers of all tensor files.

        Raises:
            RunStateError: With every member that differs.
        """
        self._copy(lambda name: None)
        self.tensors()
        self.sites()
        self.samples()

    def samples(self) -> dict[str, int]:
        """Training samples of the replay buffer in it, by task.

        Raises:
            RunStateError: If the buffer's manifest is damaged, or counts others than ``PACK.json``.
        """
        name = f"{CARRY}replay/manifest.json"
        if name not in self.record.files:
            return {}
        where = f"{self.path}:{name}"
        with _zip(self.path) as archive:
            manifest = BufferRecord.parse(
                _small(self.path, archive, {name: self.record.files[name].bytes}, name), where
            )
        counts = dict(Counter(sample.task for sample in manifest.samples))
        if counts != self.record.samples:
            raise RunStateError(Problem(where, f"counts other samples than {PACK}.", _DISTRUST))
        return counts

    def tensors(self) -> dict[str, tuple[list[TensorInfo], dict[str, str]]]:
        """Name in the carry -> the tensors of a file and the texts of its header, see `read_header`."""
        found = {}
        with _zip(self.path) as archive:
            for name, record in self.record.files.items():
                if name.endswith(".safetensors"):
                    with archive.open(name) as file:
                        found[name.removeprefix(CARRY)] = read_header(file, record.bytes, f"{self.path}:{name}")
        return found

    def sites(self) -> list[SiteRecord]:
        """The rows of the accuracy matrix in it, site by site.

        Raises:
            RunStateError: If one is damaged.
        """
        found = []
        with _zip(self.path) as archive:
            for name, record in sorted(self.record.files.items()):
                if not name.startswith(CARRY):
                    raw = _listed(self.path, archive, name, record)
                    found.append(SiteRecord.parse(raw, f"{self.path}:{name}"))
        return found

    def unpack(self, target: Path) -> None:
        """Unpack into a folder, all or nothing; an older one is replaced.

        Args:
            target: The folder, as `carry_from` takes it.

        Raises:
            RunStateError: If a member differs from its hash.
        """
        recover_directory(target)

        def produce(folder: Path) -> None:
            folder.mkdir(parents=True)

            def place(name: str) -> Path:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                return path

            self._copy(place)
            with _zip(self.path) as archive:
                (folder / PACK).write_bytes(archive.read(PACK))

        write_with(target, produce)

    def _copy(self, place: Callable[[str], Path | None]) -> None:
        """Hash every member, and write those that have a place."""
        problems = []
        with _zip(self.path) as archive:
            for name, record in self.record.files.items():
                target = place(name)
                digest, left = hashlib.sha256(), record.bytes
                with archive.open(name) as source, open(target or os.devnull, "xb" if target else "wb") as file:
                    while block := source.read(min(_BLOCK, left + 1)):
                        left -= len(block)
                        digest.update(block)
                        file.write(block)
                        if left < 0:
                            break
                if left or digest.hexdigest() != record.sha256:
                    problems.append(Problem(f"{self.path}:{name}", f"differs from its hash in {PACK}.", AGAIN))
        if problems:
            raise RunStateError(few(problems))


def write_pack(
    path: Path, about: Mapping[str, object], texts: Mapping[str, str], files: Iterable[tuple[str, Path]]
) -> PackRecord:
    """Write a pack, all or nothing. Times and owners of the files are not kept.

    Args:
        path: The file; must not exist.
        about: The content of ``PACK.json`` without ``files``.
        texts: Name in the pack -> text.
        files: Name in the pack and the file; hashed while it is copied.

    Returns:
        Its ``PACK.json``.

    Raises:
        RunStateError: If the file exists.
    """
    if os.path.lexists(path):
        raise RunStateError(Problem(str(path), "exists already.", "Remove it, or name another file."))
    records: dict[str, FileRecord] = {}

    def produce(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, text in texts.items():
                raw = text.encode()
                archive.writestr(_member(name), raw)
                records[name] = FileRecord(sha256=hashlib.sha256(raw).hexdigest(), bytes=len(raw))
            for name, source in files:
                digest, size = hashlib.sha256(), source.stat().st_size
                info = _member(name)
                info.file_size = size
                with source.open("rb") as file, archive.open(info, "w") as target:
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        target.write(block)
                records[name] = FileRecord(sha256=digest.hexdigest(), bytes=size)
            table = {name: record.plain() for name, record in records.items()}
            archive.writestr(_member(PACK), PackRecord.text({**about, "files": table}))

    write_with(path, produce)
    return Pack.open(path).record


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # dated 1980, so that equal carries give equal files
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3
    return info


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A pack as a zip archive; what the reader of zip archives says about damaged ones becomes a problem."""
    try:
        with open_regular(path) as file:
            _check_end(path, file)
            with zipfile.ZipFile(file) as archive:
                yield archive
    except FileNotFoundError as error:
        raise RunStateError(Problem(str(path), "does not exist.", "Check the path.")) from error
    except OutsideError as error:
        raise RunStateError(Problem(str(path), f"cannot be read ({error}).", "Give a file.")) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        ValueError,
        KeyError,
        RuntimeError,
    ) as error:
        if isinstance(error, RunStateError):
            raise
        what = f"is damaged, or no pack ({shown(str(error) or type(error).__name__, 200)})."
        raise RunStateError(Problem(str(path), what, AGAIN)) from error


def _check_end(path: Path, file: IO[bytes]) -> None:
    """The end of the archive: no comment, and a list of bounded size, which `zipfile` reads as a whole."""

    def refused() -> RunStateError:
        what = "is damaged, or no pack (it does not end as `cl-plugins carry pack` ends a file)."
        return RunStateError(Problem(str(path), what, AGAIN))

    size = os.fstat(file.fileno()).st_size
    if size < _END.size:
        raise refused()
    file.seek(size - _END.size)
    mark, *_, count, length, _, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\5\6" or comment:
        raise refused()
    if length == 0xFFFFFFFF or count == 0xFFFF:
        if size < _END.size + _LOCATOR.size + _END64.size:
            raise refused()
        file.seek(size - _END.size - _LOCATOR.size - _END64.size)
        mark, *_, count, length, _ = _END64.unpack(file.read(_END64.size))
        if mark != b"PK\6\6":
            raise refused()
    if length > _DIRECTORY_LIMIT or count > MOST_FILES:
        raise RunStateError(Problem(str(path), f"lists more than {MOST_FILES} files, or has a huge list.", _DISTRUST))
    file.seek(0)


def _sizes(path: Path, archive: zipfile.ZipFile) -> dict[str, int]:
    """Name -> size of the members, each checked by what the archive says of it.

    Raises:
        RunStateError: Naming every member that is no plain stored file, and bytes that belong to no member.
    """
    problems: list[Problem] = []
    sizes: dict[str, int] = {}
    for member in archive.infolist():
        name = member.orig_filename
        what = _wrong_with(member, sizes)
        if what:
            problems.append(Problem(f"{path}:{shown(name)}", what, _DISTRUST))
        sizes[name] = member.file_size
    if problems:
        raise RunStateError(few(problems))
    total = os.fstat(archive.fp.fileno()).st_size  # type: ignore[union-attr]
    rest = total - sum(sizes.values())
    most = sum(_PER_MEMBER + 2 * len(name.encode()) for name in sizes) + _END.size + _LOCATOR.size + _END64.size
    if rest < 0 or rest > most:
        what = "has members that overlap." if rest < 0 else "has bytes that belong to no member."
        raise RunStateError(Problem(str(path), what, _DISTRUST))
    return sizes


def _wrong_with(member: zipfile.ZipInfo, known: Mapping[str, int]) -> str:
    name = member.orig_filename
    if name != PACK and not is_pack_file(name):
        return "is not the name of a file of a pack."
    if name in known:
        return "occurs twice."
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link, a folder or a device."
    if member.flag_bits & 0x1:
        return "is encrypted."
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        return "is compressed; the files of a pack never are."
    if member.comment or len(member.extra) > 32:
        return "has a comment or additional fields."
    return ""


def _table_problems(path: Path, sizes: Mapping[str, int], files: Mapping[str, FileRecord]) -> list[Problem]:
    """Members that are not listed, listed files that are missing, and other sizes."""
    found = [
        Problem(f"{path}:{name}", f"is not listed in {PACK}.", _DISTRUST)
        for name in sorted(sizes)
        if name not in files and name != PACK
    ]
    for name, record in files.items():
        if name not in sizes:
            found.append(Problem(f"{path}:{name}", "is missing.", AGAIN))
        elif sizes[name] != record.bytes:
            what = f"has {sizes[name]} bytes, but {PACK} says {record.bytes}."
            found.append(Problem(f"{path}:{name}", what, AGAIN))
    return found


def _small(path: Path, archive: zipfile.ZipFile, sizes: Mapping[str, int], name: str) -> bytes:
    """A record in the archive, of bounded size."""
    if name not in sizes:
        raise RunStateError(Problem(str(path), f"is no pack: it has no {name}.", "Give a file of `carry pack`."))
    if sizes[name] > RECORD_LIMIT:
        raise RunStateError(Problem(f"{path}:{name}", f"is larger than {RECORD_LIMIT // 2**20} MiB.", _DISTRUST))
    return archive.read(name)


def _listed(path: Path, archive: zipfile.ZipFile, name: str, record: FileRecord) -> bytes:
    """A record in the archive whose bytes are those that ``PACK.json`` lists."""
    raw = _small(path, archive, {name: record.bytes}, name)
    if hashlib.sha256(raw).hexdigest() != record.sha256:
        raise RunStateError(Problem(f"{path}:{name}", f"differs from its hash in {PACK}.", AGAIN))
    return raw
