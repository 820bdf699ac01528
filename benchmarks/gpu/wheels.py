"""The wheels that `benchmarks.gpu` needs on a machine with CUDA and PyTorch but without a network: ``make gpu-wheels``.

    python -m benchmarks.gpu.wheels --out gpu_wheels                  # here, with a network; at most 60 MB
    python -m benchmarks.gpu.wheels --install gpu_wheels              # there, without one; into gpu_wheels/site

The versions are those of the environment that collects, so that the measured packages are the tested ones. What the image has already is
listed in a file (``--have``, as ``pip freeze`` writes it); what only LLaMA-Factory's pages, servers and other hubs need is left out. Of
bitsandbytes the library of one CUDA version is kept.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from benchmarks.real.wheels import download
from cl_plugins.base.errors import DataError, Problem


ROOT = Path(__file__).resolve().parents[2]
IMAGE = Path(__file__).with_name("image.txt")
LIMIT_MB = 60
#: They fit one build of PyTorch, one driver and what else is compiled there: always those of the image.
OF_THE_IMAGE = frozenset({"torch", "torchvision", "torchaudio", "triton", "numpy"})
#: What no training imports: LLaMA-Factory's pages, servers, other hubs, videos and other tokenizers.
UNUSED = frozenset(
    """av einops fastapi fire gradio hf-transfer modelscope protobuf sentencepiece sse-starlette tiktoken torchdata tyro
    uvicorn""".split()
)
#: Rows of the table that would be "not installed": measured where the wheel fits in.
#: PEFT 0.18 imports a class that torchao 0.17 no longer has.
EXTRAS = ("liger-kernel", "bitsandbytes", "torchao==0.15.0")
_PLATFORMS = (*(f"manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17)), "manylinux2014_x86_64", "linux_x86_64")
_UPPER = ("<", "<=", "==", "~=", "===")
_LIBRARY = re.compile(r"libbitsandbytes_(?:cuda|rocm|xpu)\w*\.so$")


@dataclass(frozen=True)
class Wanted:
    """A package that is needed.

    Attributes:
        version: The one that is installed here.
        limits: What the packages that need it say of its version, as in ``<=5.6.0,>=4.55.0``.
    """

    version: str
    limits: tuple[str, ...] = ()


def normal(name: str) -> str:
    """A package's name as PyPI compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(python: str = "3.12") -> dict[str, Wanted]:
    """All packages that a training needs: those of ``pyproject.toml``, and what they need by the metadata of this environment.

    Args:
        python: Version of Python on the other machine.

    Returns:
        Name -> what is wanted.

    Raises:
        DataError: A package that is needed is not installed here.
    """
    from packaging.requirements import Requirement

    machine = {
        "python_version": python, "python_full_version": f"{python}.0", "platform_system": "Linux", "sys_platform": "linux",
        "platform_machine": "x86_64", "os_name": "posix", "extra": "",
    }  # fmt: skip
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    limits: dict[str, list[str]] = {}
    todo, seen = [("", own)], set()
    while todo:
        name, lines = todo.pop()
        for requirement in map(Requirement, lines):
            other = normal(requirement.name)
            applies = requirement.marker is None or requirement.marker.evaluate(machine)
            if not applies or other in OF_THE_IMAGE or (name == "llamafactory" and other in UNUSED):
                continue
            limits.setdefault(other, []).append(str(requirement.specifier))
            if other not in seen:
                seen.add(other)
                todo.append((other, _requires(other)))
    return {name: Wanted(version(name), tuple(filter(None, found))) for name, found in sorted(limits.items())}


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError as error:
        what, fix = (
            "is needed and not installed here.",
            "Collect the wheels in an environment that runs (`make venv`).",
        )
        raise DataError(Problem(name, what, fix)) from error


def listed(path: Path) -> dict[str, str | None]:
    """The packages of an image: name -> version, None where the file gives none.

    Args:
        path: Lines ``name`` or ``name==version``; others are ignored, as are comments.
    """
    found: dict[str, str | None] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, number = line.partition("#")[0].strip().partition("==")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name.strip()):
            found[normal(name.strip())] = number.strip() or None
    return found


def pinned(words: Sequence[str]) -> dict[str, str]:
    """Name -> version of packages given as ``name`` or ``name==version``; an empty text for the newest.

    Args:
        words: The packages.
    """
    split = (word.partition("==") for word in words)
    return {normal(name): number for name, _, number in split}


def lacking(wanted: Mapping[str, Wanted], image: Mapping[str, str | None]) -> dict[str, str]:
    """What an image lacks: name -> version.

    Args:
        wanted: From `needed`.
        image: From `listed`.
    """
    from packaging.specifiers import SpecifierSet

    found = {}
    for name, want in wanted.items():
        specifiers = SpecifierSet(",".join(want.limits))
        if name not in image:
            found[name] = want.version
        elif (there := image[name]) is not None:
            if not specifiers.contains(there, prereleases=True):
                found[name] = want.version
        elif any(specifier.operator in _UPPER for specifier in specifiers):
            found[name] = want.version
    return found


def collect(folder: Path, packages: Mapping[str, str], python: str) -> None:
    """Download a wheel of each package for the other machine, where the folder has none.

    Args:
        folder: Folder of the wheels.
        packages: Name -> version, or an empty text for the newest.
        python: Version of Python on the other machine.

    Raises:
        DataError: A wheel cannot be had.
    """
    options = ["--python-version", python, "--implementation", "cp"]
    options += [word for platform in _PLATFORMS for word in ("--platform", platform)]
    for name, number in packages.items():
        if not _wheels(folder, name, number):
            for old in _wheels(folder, name, ""):
                old.unlink()
            download(f"{name}=={number}" if number else name, folder, *options)


def _wheels(folder: Path, name: str, number: str) -> list[Path]:
    found = [path for path in folder.glob("*.whl") if normal(path.name.split("-")[0]) == name]
    return [path for path in found if not number or path.name.split("-")[1] == number]


def own_wheel(folder: Path) -> None:
    """Build this package's wheel, whose metadata name the methods; the code is taken from the tree.

    Args:
        folder: Folder of the wheels.

    Raises:
        DataError: It cannot be built.
    """
    for old in folder.glob("cl_plugins-*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    if subprocess.run(command, check=False).returncode:
        raise DataError(Problem(str(ROOT), "pip cannot build its wheel.", "Run `make wheel` and see why."))


def slim(wheel: Path, cuda: str) -> None:
    """Take the libraries of other CUDA versions out of a wheel of bitsandbytes.

    Args:
        wheel: The wheel, replaced.
        cuda: Version of CUDA without the dot, ``130``.

    Raises:
        DataError: It has no library of that version.
    """
    with zipfile.ZipFile(wheel) as source:
        names = source.namelist()
        libraries = [name for name in names if _LIBRARY.search(name)]
        kept = [name for name in libraries if name.endswith(f"libbitsandbytes_cuda{cuda}.so")]
        if not kept:
            there = ", ".join(sorted(Path(name).stem.removeprefix("libbitsandbytes_") for name in libraries))
            fix = "Give the CUDA version of the image's PyTorch with `--cuda`."
            raise DataError(Problem(wheel.name, f"has no library for CUDA {cuda} (only: {there}).", fix))
        if kept == libraries:
            return
        dropped = {*libraries} - {*kept}
        record = next(name for name in names if name.endswith(".dist-info/RECORD"))
        part = wheel.with_suffix(".part")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as target:
            rows = []
            for name in names:
                if name in dropped or name == record:
                    continue
                content = source.read(name)
                target.writestr(source.getinfo(name), content, zipfile.ZIP_DEFLATED)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                rows.append((name, f"sha256={digest}", len(content)))
            lines = io.StringIO()
            csv.writer(lines, lineterminator="\n").writerows([*rows, (record, "", "")])
            target.writestr(record, lines.getvalue())
    part.replace(wheel)


def sizes(folder: Path) -> dict[str, float]:
    """Megabytes of every wheel in a folder, the largest first.

    Args:
        folder: Folder of the wheels.
    """
    found = {path.name: path.stat().st_size / 1e6 for path in folder.glob("*.whl")}
    return dict(sorted(found.items(), key=lambda entry: -entry[1]))


def check_size(folder: Path, limit: float = LIMIT_MB) -> float:
    """The sum of the sizes, in megabytes.

    Args:
        folder: Folder of the wheels.
        limit: The largest that is allowed.

    Raises:
        DataError: It is larger; names every wheel with its size.
    """
    found = sizes(folder)
    total = sum(found.values())
    if total > limit:
        each = ", ".join(f"{name} {size:.1f}" for name, size in found.items())
        what = f"holds {total:.1f} MB of wheels, more than {limit:g} MB: {each}."
        raise DataError(Problem(str(folder), what, "Name with `--have` what the image has, or leave out `--extras`."))
    return total


def install(folder: Path) -> Path:
    """Install all wheels of a folder into ``site`` in it, without a network and without looking at their needs.

    Args:
        folder: Folder of the wheels.

    Returns:
        The folder for PYTHONPATH.

    Raises:
        DataError: There is no wheel, or pip fails.
    """
    wheels = sorted(map(str, folder.glob("*.whl")))
    if not wheels:
        raise DataError(Problem(str(folder), "holds no wheel.", "Run `make gpu-wheels` on a machine with a network."))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--upgrade",
    ]
    code = subprocess.run([*command, "--target", str(folder / "site"), *wheels], check=False).returncode
    if code:
        what = f"pip cannot install its wheels (exit code {code})."
        fix = "Collect them for this version of Python: `--python 3.N`."
        raise DataError(Problem(str(folder), what, fix))
    return folder / "site"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 1 if a wheel is missing or the folder is too large."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.wheels", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_wheels"), help="folder of the wheels (default: %(default)s)"
    )
    parser.add_argument("--install", type=Path, metavar="DIR", help="install the wheels of this folder instead")
    parser.add_argument("--have", type=Path, default=IMAGE, help="packages of the image, as pip freeze writes them")
    parser.add_argument("--python", default="3.12", help="version of Python of the image (default: %(default)s)")
    parser.add_argument(
        "--cuda", default="130", help="CUDA version of its PyTorch, without the dot (default: %(default)s)"
    )
    parser.add_argument("--extras", nargs="*", default=list(EXTRAS), help="more packages (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        if options.install:
            install(options.install)
            return 0
        packages = lacking(needed(python=options.python), listed(options.have))
        collect(options.out, {**packages, **pinned(options.extras)}, options.python)
        own_wheel(options.out)
        for wheel in options.out.glob("bitsandbytes-*.whl"):
            slim(wheel, options.cuda)
        total = check_size(options.out)
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{len(sizes(options.out))} wheels, {total:.1f} MB, in {options.out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
