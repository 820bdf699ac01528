"""What has been seen where: writes the first table of docs/hardware.md out of `benchmarks/seen.yaml` and the results it names.

    python -m benchmarks.seen            # writes the table
    python -m benchmarks.seen --check    # 1 if the page has another one

A row of tests shows the commands that run them, found by their marks. A row of results shows the machine and the versions that the result
file gives. A row "never" disappears when a result shows it.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


ROOT = Path(__file__).resolve().parents[1]
PAGE = Path("docs/hardware.md")
BEGIN, END = "<!-- seen: written by `python -m benchmarks.seen`; do not edit -->", "<!-- /seen -->"
HEAD = ("configuration", "where it has been run", "shown by")
#: Mark -> target of the Makefile, the first that a test has.
TARGETS = {"engines": "test-engines", "kill": "test-kill", "fuzz": "test-fuzz", "slow": "test-slow"}
SHOWN_VERSIONS = {"torch": "PyTorch", "transformers": "Transformers", "llamafactory": "LLaMA-Factory"}


def rows(root: Path = ROOT) -> list[tuple[str, str, str]]:
    """The rows of the table.

    Args:
        root: Root of the repository.

    Raises:
        ValueError: If the data file names a test or a kind of row that does not exist.
    """
    about = yaml.safe_load((root / "benchmarks/seen.yaml").read_text(encoding="utf-8"))
    unknown = set(about) - {"tests", "results", "gpu", "never"}
    if unknown:
        raise ValueError(f"benchmarks/seen.yaml: unknown keys {sorted(unknown)}")
    found = [_tested(root, row) for row in about["tests"]]
    for row in about["results"]:
        found += [_measured(path, root, row["configuration"]) for path in sorted(root.glob(row["files"]))]
    found += gpu_rows(root, about["gpu"])
    for row in about["never"]:
        if "unless" not in row or not any(root.glob(row["unless"])):
            found.append((row["configuration"], "**never**", ""))
    return found


def table(root: Path = ROOT) -> str:
    """The table in Markdown, between its two marks.

    Args:
        root: Root of the repository.
    """
    lines = [HEAD, ("---",) * len(HEAD), *rows(root)]
    return "\n".join([BEGIN, "", *("| " + " | ".join(line) + " |" for line in lines), "", END])


def page(text: str, root: Path = ROOT) -> str:
    """A page with its table written anew.

    Args:
        text: The page.
        root: Root of the repository.

    Raises:
        ValueError: If the page has not the two marks.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{PAGE} has to contain the line {BEGIN!r} and the line {END!r} once")
    return text.partition(BEGIN)[0] + table(root) + text.partition(END)[2]


# --- tests -------------------------------------------------------------------------------------------------------


def _tested(root: Path, row: Mapping[str, Any]) -> tuple[str, str, str]:
    targets = dict.fromkeys(target(root, name) for name in row["tests"])
    files = dict.fromkeys(name.partition("::")[0] for name in row["tests"])
    commands = ", ".join(f"`make {name}`" for name in targets)
    return row["configuration"], f"CPU: {commands}", ", ".join(f"`{name}`" for name in files)


def target(root: Path, name: str) -> str:
    """The target of the Makefile that runs a test.

    Args:
        root: Root of the repository.
        name: ``tests/path.py::test_name``, or with a class in between.

    Raises:
        ValueError: If there is no such test.
    """
    file, *places = name.split("::")
    path = root / file
    if not path.is_file():
        raise ValueError(f"benchmarks/seen.yaml: there is no file {file}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    marked: list[ast.AST] = [node.value for node in tree.body if isinstance(node, ast.Assign) and _is_pytestmark(node)]
    scope: Any = tree
    for place in places:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        scope = next((node for node in scope.body if isinstance(node, kinds) and node.name == place), None)
        if scope is None:
            raise ValueError(f"benchmarks/seen.yaml: {file} has no {place}")
        marked += scope.decorator_list
    if not places or not places[-1].startswith("test_"):
        raise ValueError(f"benchmarks/seen.yaml: {name} is no test")
    marks = {mark for node in marked for mark in _marks(node)}
    return next((made for mark, made in TARGETS.items() if mark in marks), "test")


def _is_pytestmark(node: ast.Assign) -> bool:
    return any(isinstance(goal, ast.Name) and goal.id == "pytestmark" for goal in node.targets)


def _marks(node: ast.AST) -> Iterator[str]:
    """Names behind ``pytest.mark``; those of single parameters of a test do not count."""
    if isinstance(node, ast.Call):
        yield from _marks(node.func)
    elif isinstance(node, (ast.List, ast.Tuple)):
        for entry in node.elts:
            yield from _marks(entry)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "mark":
        yield node.attr


# --- results -----------------------------------------------------------------------------------------------------


def _measured(path: Path, root: Path, configuration: str) -> tuple[str, str, str]:
    content = json.loads(path.read_text(encoding="utf-8"))
    runs = content.get("runs", [])
    if "{" in configuration:
        methods = {run["method"] for run in runs}
        counts = {"methods": len(methods), "runs": len(runs), **content.get("total", {})}
        configuration = configuration.format(**counts).replace(": 1 methods", ": 1 method")
        configuration = configuration.replace(", 1 runs", ", 1 run")
    return configuration, "; ".join(machines(content)), f"`{path.relative_to(root).as_posix()}`"


def machines(content: Mapping[str, Any]) -> list[str]:
    """The machines of a result file, with the versions that it names; each once.

    Args:
        content: A result file of `benchmarks`, whatever form it gives the machine.
    """
    found = []
    for part in content.get("environments") or [content]:
        hardware = {**part, **part["hardware"]} if isinstance(part.get("hardware"), Mapping) else part
        versions = part.get("versions") or {"torch": part["torch"]} if "torch" in part or "versions" in part else {}
        found.append(_machine(hardware, versions))
    return list(dict.fromkeys(found))


def _machine(hardware: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    about = hardware.get("machine") or hardware.get("system") or ""
    if isinstance(about, Mapping):  # of `benchmarks/growth` and `benchmarks/data`
        hardware = {"cpus": about.get("cpu_count")}
        about = str(versions.get("platform") or about.get("system") or "CPU")
    gpus = hardware.get("gpus")
    cores = f"{hardware['cpus']} CPU cores" if hardware.get("cpus") and "CPU cores" not in about else ""
    parts = [*map(str, gpus)] if gpus else [part for part in (str(about), cores) if part]
    if not gpus and not any("CPU cores" in part for part in parts):
        parts = ["CPU", *parts]
    return "; ".join(part for part in (", ".join(parts), _named(versions)) if part)


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{shown} {versions[key]}" for key, shown in SHOWN_VERSIONS.items() if key in versions)


def gpu_rows(root: Path, pattern: str) -> list[tuple[str, str, str]]:
    """A row per card for what `make check-gpu` has seen to train, to answer, to resume, and to fail.

    Args:
        root: Root of the repository.
        pattern: The records.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for path in sorted(root.glob(pattern)):
        record = json.loads(path.read_text(encoding="utf-8"))
        where, found = record["where"], record["measured"]
        if "card" not in where or "absent" in found or "needs" in found or record["kind"] == "base":
            continue
        machine = f"{where['card']}, driver {where['driver']}; {_named(where['versions'])}"
        groups.setdefault((_verdict(record), machine), []).append(record["name"])
    source = f"`{Path(pattern).parent.as_posix()}/table.md`"
    return [
        (f"`make check-gpu`, {verdict}: {'; '.join(names)}", machine, source)
        for (verdict, machine), names in groups.items()
    ]


def _verdict(record: Mapping[str, Any]) -> str:
    from benchmarks.gpu.table import is_equal

    found = record["measured"]
    if "error" in found:
        return "failed"
    if record["kind"] == "resume":
        return (
            "as an uninterrupted run"
            if is_equal(found["distance"], found.get("noise"))
            else "not as an uninterrupted run"
        )
    return "trained" if record["kind"] == "train" else "answered"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; with ``--check`` 1 if the page is another one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seen", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(argv)
    path = ROOT / PAGE
    before = path.read_text(encoding="utf-8")
    after = page(before)
    if options.check:
        return int(after != before)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
