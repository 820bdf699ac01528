"""Check that a wheel holds every file of the package: the code, and the data that it reads at run time."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path


SOURCE = Path(__file__).resolve().parent.parent / "src"
PUBLISHED = SOURCE.parent / "benchmarks" / "published"
EXPECTED = (
    "cl_plugins/py.typed",
    "cl_plugins/streams/builtin/medical_cl.yaml",
    *(f"cl_plugins/published/data/{path.name}" for path in sorted(PUBLISHED.glob("*.json"))),
)
SKIPPED = {"__pycache__"}


def missing_from(wheel: Path) -> list[str]:
    """Files of the source tree, and the licence, that the wheel does not hold; sorted."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = (p for p in (SOURCE / "cl_plugins").rglob("*") if p.is_file() and not SKIPPED & set(p.parts))
    wanted = {str(p.relative_to(SOURCE).as_posix()) for p in files} | set(EXPECTED)
    missing = sorted(wanted - inside)
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in inside):
        missing.append("LICENSE")
    return missing


def main() -> int:
    """Check the wheels named on the command line; 1 if a file is missing."""
    failed = 0
    for wheel in map(Path, sys.argv[1:]):
        missing = missing_from(wheel)
        for name in missing:
            sys.stderr.write(f"{wheel.name} lacks {name}\n")
        failed |= bool(missing)
        if not missing:
            sys.stdout.write(f"{wheel.name} is complete, {wheel.stat().st_size / 1e6:.1f} MB\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
