"""The wheels for machines without a network: which ones, of what size, and how they are installed; no network is used."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu import wheels
from cl_plugins.base.errors import DataError


def test_what_an_image_lacks() -> None:
    wanted = {
        "absent": wheels.Wanted("1.0"),
        "there": wheels.Wanted("1.0", (">=0.5",)),
        "old": wheels.Wanted("2.0", (">=2",)),
        "limited": wheels.Wanted("2.0", ("<3", ">=1")),
        "fits": wheels.Wanted("2.0", ("<3",)),
    }
    image = {"there": None, "old": "1.0", "limited": None, "fits": "2.5"}
    assert wheels.lacking(wanted, image) == {"absent": "1.0", "old": "2.0", "limited": "2.0"}


def test_the_list_of_an_image(tmp_path: Path) -> None:
    (tmp_path / "image.txt").write_text("# about\nA_b==1.0\nc # d\n\n-e .\nf @ file:///f\n", encoding="utf-8")
    assert wheels.listed(tmp_path / "image.txt") == {"a-b": "1.0", "c": None}
    assert {"pandas", "transformers"} <= set(wheels.listed(wheels.IMAGE))


def test_what_is_needed_is_without_pytorch_and_pages() -> None:
    found = wheels.needed()
    assert {"llamafactory", "transformers", "datasets", "trl", "omegaconf", "pydantic-core"} <= set(found)
    assert not {"torch", "triton", "numpy", "gradio", "fastapi", "av"} & set(found)
    assert not [name for name in found if name.startswith("nvidia")]
    assert "<=5.6.0" in ",".join(found["transformers"].limits)


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def test_only_the_library_of_one_cuda_stays(tmp_path: Path) -> None:
    inside = {
        f"bitsandbytes/libbitsandbytes_{kind}.so": os.urandom(1000) for kind in ("cpu", "cuda126", "cuda130", "rocm63")
    }
    path = wheel(tmp_path, "bitsandbytes", {"bitsandbytes/__init__.py": b"here = 1\n", **inside})
    with pytest.raises(DataError, match="no library for CUDA 999"):
        wheels.slim(path, "999")
    wheels.slim(path, "130")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        record = archive.read("bitsandbytes-1.0.dist-info/RECORD").decode()
    assert sorted(name for name in names if name.endswith(".so")) == [
        "bitsandbytes/libbitsandbytes_cpu.so",
        "bitsandbytes/libbitsandbytes_cuda130.so",
    ]
    assert {line.split(",")[0] for line in record.splitlines()} == set(names)
    wheels.slim(path, "130")  # again: nothing to do
    wheels.install(tmp_path)
    assert (tmp_path / "site" / "bitsandbytes" / "__init__.py").is_file()


def test_a_folder_that_is_too_large_lists_its_wheels(tmp_path: Path) -> None:
    wheel(tmp_path, "large", {"a": os.urandom(300_000)})
    wheel(tmp_path, "small", {"a": os.urandom(100_000)})
    with pytest.raises(DataError, match=r"holds 0\.4 MB.*more than 0\.2 MB: large-1\.0-py3-none-any\.whl 0\.3, small"):
        wheels.check_size(tmp_path, 0.2)
    assert wheels.check_size(tmp_path, 0.5) == pytest.approx(0.4, abs=0.01)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no wheel"):
        wheels.install(tmp_path)


def test_another_version_takes_the_place_of_an_old_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(tmp_path, "some_thing", {})
    asked: list[str] = []
    monkeypatch.setattr(wheels, "download", lambda wanted, folder, *options: asked.append(wanted))
    wheels.collect(tmp_path, {"some-thing": "1.0"}, "3.12")
    assert asked == []
    wheels.collect(tmp_path, {"some-thing": "2.0", "new": ""}, "3.12")
    assert asked == ["some-thing==2.0", "new"]
    assert not list(tmp_path.glob("*.whl"))
