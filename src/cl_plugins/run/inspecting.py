"""What a carry holds, told from its lists and headers: nothing is loaded, and no code that it names is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import ClPluginsError, Problem, RunStateError
from ..contract.carry import Carry, carry_directory
from ..contract.host import same_base, same_tokenizer, settings_changes
from ..contract.packed import Pack
from ..contract.tensors import TensorInfo, read_header
from ..methods.registry import METHODS, get_method, make_method
from ..records.pack import PACK, PackRecord, SiteRecord
from ..records.record import shown
from ..replay.store import Buffer
from .site import earlier_sites


@dataclass(frozen=True)
class CarriedFile:
    """One file of a carry.

    Attributes:
        name: Its name in the carry.
        bytes: Its size.
        tensors: Its tensors, where it is a safetensors file.
        texts: What the header contains in addition, but for the format.
    """

    name: str
    bytes: int
    tensors: tuple[TensorInfo, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection:
    """A carry as its receiver sees it.

    Attributes:
        method: Name of the method.
        tasks: Tasks that went into it, in order.
        stream: Name of the stream.
        base: Fingerprint of the base.
        about: The rest of ``PACK.json``: options, keys, tasks of the stream; empty for a carry that was not packed.
        files: The files of the carry.
        samples: Training samples in it, by task.
        reveals: What its statistics could tell about the training data.
        scores: One line for each site whose scores are in it.
    """

    method: str
    tasks: tuple[str, ...]
    stream: str | None
    base: Mapping[str, Any]
    about: dict[str, Any]
    files: tuple[CarriedFile, ...]
    samples: dict[str, int]
    reveals: str
    scores: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all files of the carry."""
        return sum(file.bytes for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {"format": 1, **asdict(self)}


@dataclass(frozen=True)
class Verified:
    """How much was compared.

    Attributes:
        count: Number of files.
        bytes: Their size.
    """

    count: int
    bytes: int


def inspect(place: Path) -> Inspection:
    """Read the lists of a carry and the headers of its files.

    Args:
        place: A packed carry, or the directory of a carry or a run.

    Raises:
        RunStateError: With everything that is wrong with lists, names, sizes and headers.
    """
    if not place.is_dir():
        pack = Pack.open(place)
        about = {k: v for k, v in pack.record.model_dump().items() if k in _ABOUT}
        sizes = {name: record.bytes for name, record in pack.carry.files.items()}
        tables, sites, carry = pack.tensors(), pack.sites(), pack.carry
        samples = pack.samples()
        return _inspection(carry, carry.tasks, about, _files(sizes, tables), samples, sites)
    folder = carry_directory(place)
    opened = Carry.open(folder)
    tables, sizes = {}, {}
    for name, record in opened.files.items():
        path = opened.file(name)
        sizes[name] = int(record["bytes"])
        if name.endswith(".safetensors"):
            with path.open("rb") as file:
                tables[name] = read_header(file, sizes[name], str(path))
    buffer = Buffer.open(opened)
    samples = dict(Counter(sample.task for sample in buffer.samples)) if buffer is not None else {}
    about = {}
    if (folder.parent / PACK).is_file() and folder.name == "carry":
        about = {k: v for k, v in PackRecord.read(folder.parent / PACK).model_dump().items() if k in _ABOUT}
    return _inspection(opened, opened.tasks, about, _files(sizes, tables), samples, earlier_sites(place))


_ABOUT = ("package", "version", "cl_plugins", "options", "stream_tasks", "keys", "left_out")


def _inspection(
    carry: Any, tasks: Any, about: dict[str, Any], files: Any, samples: dict[str, int], sites: list[SiteRecord]
) -> Inspection:
    given = about.get("options")
    return Inspection(
        method=carry.method,
        tasks=tuple(tasks),
        stream=carry.stream,
        base=dict(carry.base),
        about=about,
        files=files,
        samples=samples,
        reveals=reveals(carry.method, given, bool(samples)),
        scores=tuple(_scores(site) for site in sites),
    )


def _files(sizes: Mapping[str, int], tables: Mapping[str, Any]) -> tuple[CarriedFile, ...]:
    found = []
    for name, size in sizes.items():
        tensors, texts = tables.get(name, ([], {}))
        more = {key: text for key, text in texts.items() if (key, text) != ("format", "pt")}
        found.append(CarriedFile(name, size, tuple(tensors), more))
    return tuple(found)


def _scores(site: SiteRecord) -> str:
    rows = ", ".join(f"{row} on {', '.join(cells)}" for row, cells in site.cells.items())
    return rows or "none measured"


def reveals(method: str, options: Mapping[str, Any] | None, samples: bool) -> str:
    """What the statistics of a carry could tell about the training data, by the receiver's own package.

    Args:
        method: Name of the method.
        options: Its options, where they are known.
        samples: Whether training samples are in the carry.
    """
    if method not in METHODS.names():
        return f"not known: the method {shown(repr(method))} is not installed here"
    try:
        text = (
            make_method(method, options).capabilities.reveals if options else get_method(method).capabilities.reveals
        )
    except ClPluginsError:  # an option of another version
        text = get_method(method).capabilities.reveals
    return f"{text}; the samples of the replay buffer are in the carry" if samples else text


def verify(place: Path, base: str | None, fingerprint: Callable[[str], dict[str, Any]]) -> Verified:
    """Compare every file of a carry with its hash, and the base with the recorded one.

    Args:
        place: A packed carry, or the directory of a carry or a run.
        base: Folder or hub name of the base; None compares none.
        fingerprint: Gives the fingerprint of a base, see `Host.fingerprint`.

    Raises:
        RunStateError: With everything that is wrong.
    """
    if place.is_dir():
        carry = Carry.open(carry_directory(place))
        carry.verify()
        recorded, sizes = carry.base, [int(record["bytes"]) for record in carry.files.values()]
        inspect(place)
    else:
        pack = Pack.open(place)
        pack.verify()
        recorded, sizes = pack.record.base, [record.bytes for record in pack.record.files.values()]
    if base is not None:
        try:
            there = fingerprint(base)
        except (OSError, ValueError):  # a name that no hub takes, a folder that cannot be read
            there = {}
        if not there or (not Path(base).exists() and not there.get("commit")):
            what = f"there is no folder {base} that can be read, and no hub gives a model of this name."
            raise RunStateError(Problem("--base", what, "Check the path."))
        if not same_base(recorded, there):
            what = f"belongs to another base ({recorded.get('name')}) than {base}."
            raise RunStateError(Problem(str(place), what, "Name the base that the run was trained on."))
        if not same_tokenizer(recorded, there):
            what = f"belongs to another tokenizer than that of {base}."
            raise RunStateError(Problem(str(place), what, "Use the tokenizer files of the base."))
        if differing := settings_changes(recorded, there):
            what = f"was made with other settings of the base: {'; '.join(differing)}."
            raise RunStateError(Problem(str(place), what, "Use the files of the base unchanged."))
    return Verified(len(sizes), sum(sizes))
