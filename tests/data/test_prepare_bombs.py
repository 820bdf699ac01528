"""Raw files that were made to harm whoever opens them: each try ends in one error, in little memory and time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import re
import resource
import subprocess
import sys
import tarfile
import zlib

import pytest

from cl_plugins.base.errors import DataError
from cl_plugins.data.prepare import Picture, csv_rows, json_records, parquet_rows, plain_pickle
from cl_plugins.data.prepare.archives import unpack
from cl_plugins.data.prepare.images import BadPicture, ImageRules, encode


LIMITED = """
import sys
from pathlib import Path
from cl_plugins.base.errors import DataError
from cl_plugins.data.prepare import json_records, plain_pickle
from cl_plugins.data.prepare.archives import unpack
path = Path(sys.argv[2])
try:
    exec(sys.argv[1])
except DataError as error:
    print(str(error)[:2000])
    sys.exit(3)
"""


def limited(code, path, megabytes=600, seconds=60):
    """Do something with a file, with little memory and processor time; gives the text of the package's own error."""

    def limits():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))

    command = [sys.executable, "-c", LIMITED, code, str(path)]
    made = subprocess.run(command, preexec_fn=limits, capture_output=True, text=True, timeout=400, check=False)
    assert made.returncode == 3, (made.returncode, made.stdout[-2000:], made.stderr[-2000:])
    return made.stdout


# --- archives


def header(kind: bytes, size: int, name: bytes = b"x") -> bytes:
    """A tar header that states a size."""
    info = tarfile.TarInfo(name.decode())
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


ZEROS = 3 * 2**30  # what the headers unfold to


def packed(opener, start, tmp_path, name, zeros=ZEROS):
    path = tmp_path / name
    with opener(path, "wb") as file:
        file.write(start)
        block = b"a" * 2**24
        for _ in range(zeros // len(block)):
            file.write(block)
    return path


@pytest.mark.parametrize(
    "kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
def test_one_long_header(kind, tmp_path):
    """Two megabytes whose name, or list of attributes, is three gigabytes long."""

    def opener(path, mode):
        return gzip.open(path, mode, compresslevel=1)

    path = packed(opener, header(kind, ZEROS), tmp_path, "x.tgz", zeros=2**28)
    said = limited("unpack(path, path.with_name('out'))", path)
    assert "has a header of 3221225" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open, open])
def test_all_ways_of_packing_are_read_and_bounded(opener, tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        names = ("a" * 200 + ".txt", "folder/ü.txt", "x" * 90)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 70_000
            archive.addfile(info, io.BytesIO(os.urandom(70_000)))
    with opener(tmp_path / "good", "wb") as file:
        file.write(content.getvalue())
    assert unpack(tmp_path / "good", tmp_path / "out") == 3
    assert all((tmp_path / "out" / name).stat().st_size == 70_000 for name in names)
    bad = tmp_path / "bad"
    with opener(bad, "wb") as file:
        file.write(header(tarfile.GNUTYPE_LONGNAME, 2**33) + b"\0" * 2**20)
    with pytest.raises(DataError, match="has a header of"):
        unpack(bad, tmp_path / "out2")


def test_headers_without_end(tmp_path):
    """A pax header may be followed by another one, for ever."""
    one = header(tarfile.XHDTYPE, 20) + b"20 comment=aaaaaaaa\n".ljust(512, b"\0")
    path = tmp_path / "x.tgz"
    with gzip.open(path, "wb") as file:
        for _ in range(200):
            file.write(one * 1000)
    said = limited("unpack(path, path.with_name('out'))", path)
    assert "x.tgz" in said


@pytest.mark.slow  # 400,000 headers
def test_many_empty_folders(tmp_path):
    path = tmp_path / "x.tgz"
    with gzip.open(path, "wb") as file:
        for number in range(400):
            file.write(b"".join(header(tarfile.DIRTYPE, 0, f"{number}/{i}".encode()) for i in range(1000)))
    assert "all in little memory" in limited(
        "unpack(path, path.with_name('out')); raise DataError('all in little memory')", path
    )


def test_a_size_that_leads_back(tmp_path):
    """A negative size made the reader go round in circles."""
    raw = bytearray(header(tarfile.REGTYPE, 0))
    raw[124:136] = b"\xff" * 8 + (-(2**20)).to_bytes(4, "big", signed=True)
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw):06o}\0 ".encode()
    path = tmp_path / "x.tar"
    path.write_bytes(header(tarfile.REGTYPE, 0, b"first") + bytes(raw) + b"\0" * 1024)
    assert "x.tar" in limited("unpack(path, path.with_name('out'))", path)


def test_xz_that_asks_for_much_memory(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**29}]
    path = tmp_path / "x.tar.xz"
    path.write_bytes(lzma.compress(b"\0" * 1024, filters=filters))
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(path, tmp_path / "out")


# --- pickles


def nested(depth, width):
    """Lists that hold one another: a few hundred bytes for ``width ** depth`` values."""
    data = b"\x80\x02]q\x00"
    for level in range(1, depth):
        data += b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * width + b"e"
    return data + b"."


PICKLES = {
    "nested": nested(40, 4),
    "a text many times": b"\x80\x02X"
    + (2**20).to_bytes(4, "little")
    + b"a" * 2**20
    + b"q\x00]("
    + b"h\x00" * 10**6
    + b"e.",
    "memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "bytes": b"\x80\x04\x8e" + (2**32).to_bytes(8, "little") + b".",
    "text": b"\x80\x04\x8d" + (2**32).to_bytes(8, "little") + b".",
    "number": b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b".",
    "frame": b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.",
    "digits": b"I" + b"9" * 6000 + b"\n.",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "deep": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_unfold(name, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(PICKLES[name])
    assert "is no plain pickle" in limited("plain_pickle(path)", path)


def test_pickles_that_share_as_honest_ones_do(tmp_path):
    key = "a longer name of a field of every record"
    entries = [{key: f"question {i}", "label": {"yes": 1}, "ids": [i, i + 1]} for i in range(3000)]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(entries, protocol=2))
    assert plain_pickle(tmp_path / "x.pkl") == entries


# --- JSON, tables


@pytest.mark.parametrize(
    "text", ["[" * 10**6, '{"a": ' * 10**5, '[{"id": ' + "9" * 6000 + "}]", "[" + "9" * 10**6 + "]"]
)
def test_json_that_is_deep_or_long(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    assert "is not JSON" in limited("list(json_records(path))", tmp_path / "x.json")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_opened(kind, tmp_path):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for read in (
        lambda: list(json_records(path)),
        lambda: list(csv_rows(path, ["a"])),
        lambda: list(parquet_rows(path, ["a"], 0, 1)),
        lambda: plain_pickle(path),
        lambda: unpack(path, tmp_path / "out"),
    ):
        with pytest.raises(DataError, match=r"not a regular file|is not a file"):
            read()
    with pytest.raises(BadPicture):
        encode(Picture.file(path), ImageRules())


# --- pictures


def test_postscript_under_the_name_of_a_picture(tmp_path, monkeypatch):
    """Pillow looks at what a file holds and would start Ghostscript."""
    from PIL import EpsImagePlugin, Image

    started = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {started}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", EpsImagePlugin.gs_binary)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", EpsImagePlugin.Ghostscript)
    path = tmp_path / "scan.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(BadPicture, match="not a picture in one of the formats"):
        encode(Picture.file(path), ImageRules())
    assert not started.exists()
    code = "import sys; from PIL import Image; Image.open(sys.argv[1]).load()"  # a process without this package
    subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
    assert started.exists()  # so that the test can fail
    started.unlink()
    from cl_plugins.base.outside import without_ghostscript

    without_ghostscript()
    said = re.escape(f"{path} is a PostScript file (EPS), which would need Ghostscript; convert it to PNG")
    with pytest.raises(OSError, match=said), Image.open(path) as picture:
        picture.load()
    assert not started.exists()


def png(width, height):
    """A PNG that states its size and holds nothing of it."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 14_000, 20_000, 100_000])
def test_pictures_that_are_too_large_to_decode(side):
    with pytest.raises(BadPicture) as caught:
        encode(Picture.encoded("x.png", png(side, side)), ImageRules())
    assert caught.value.reason == "picture is too large"
