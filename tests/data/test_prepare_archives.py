"""Archives: nothing leaves its folder, no links, no bombs, all or nothing."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from cl_plugins.base.errors import DataError
from cl_plugins.cli import main
from cl_plugins.data.prepare.archives import Limits, _write, inside, picture_names, read_member, unpack


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def make_tar(path, members, kind="w:gz"):
    with tarfile.open(path, kind) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = data
                archive.addfile(info)
    return path


def test_unpacking(tmp_path):
    good = [("a/b.txt", b"1"), ("c.txt", b"22")]
    for number, archive in enumerate(
        [
            make_zip(tmp_path / "x.zip", [("a/", b""), *good]),
            make_tar(tmp_path / "x.tgz", good),
            make_tar(tmp_path / "x.tar", good, "w"),
        ]
    ):
        assert unpack(archive, tmp_path / f"out{number}") == 2
        assert (tmp_path / f"out{number}" / "a" / "b.txt").read_bytes() == b"1"


def test_a_folder_of_the_same_name_is_not_doubled(tmp_path):
    archive = make_zip(tmp_path / "x.zip", [("images/a.png", b"1"), ("images/b/c.png", b"2")])
    assert unpack(archive, tmp_path / "images") == 2
    assert sorted(p.name for p in (tmp_path / "images").rglob("*")) == ["a.png", "b", "c.png"]
    assert unpack(archive, tmp_path / "other") == 2
    assert (tmp_path / "other" / "images" / "a.png").read_bytes() == b"1"
    more = make_tar(tmp_path / "y.tar", [("pictures/a.png", b"1"), ("licence.txt", b"2")])
    unpack(more, tmp_path / "pictures")
    assert (tmp_path / "pictures" / "pictures" / "a.png").is_file()
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_call_left_is_removed(tmp_path):
    left = tmp_path / ".images.0123abcd.tmp"
    left.mkdir()
    (left / "half.png").write_bytes(b"1")
    unpack(make_zip(tmp_path / "x.zip", [("a.png", b"1")]), tmp_path / "images")
    assert not left.exists()
    assert [p.name for p in (tmp_path / "images").iterdir()] == ["a.png"]


def test_the_command(tmp_path, capsys):
    archive = make_tar(tmp_path / "images.tar.gz", [("images/a.png", b"1")])
    words = ["data", "unpack", str(archive), "--out", str(tmp_path / "images")]
    assert main(words) == 0
    assert "images: 1 files from" in capsys.readouterr().out
    assert (tmp_path / "images" / "a.png").read_bytes() == b"1"
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "unpack", str(archive)]) == 2
    assert f"--out {tmp_path / 'images'}" in " ".join(capsys.readouterr().err.split())
    assert main(["data", "unpack", str(tmp_path / "none.zip"), "--out", str(tmp_path / "x")]) == 2
    assert "none.zip is not a file" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "C:/evil", "a\\..\\evil", "..", ""])
def test_names_that_lead_out(tmp_path, name):
    assert inside(tmp_path, name) is None
    if name:
        for archive in (
            make_zip(tmp_path / "x.zip", [("ok", b"1"), (name, b"2")]),
            make_tar(tmp_path / "x.tar", [("ok", b"1"), (name, b"2")]),
        ):
            with pytest.raises(DataError, match="leads out"):
                unpack(archive, tmp_path / "out")
            assert not (tmp_path / "out").exists()
            assert not list(tmp_path.glob(".*"))  # no leftovers
            assert not (tmp_path.parent / "evil").exists()


def test_backslashes_between_folders(tmp_path):
    """Some programs on Windows write them; they lead nowhere else than slashes do."""
    members = [("images\\", b""), ("images\\1.png", b"1"), ("images\\a\\2.png", b"2"), ("images/3.png", b"3")]
    archive = make_zip(tmp_path / "x.zip", members)
    assert unpack(archive, tmp_path / "images") == 3
    assert (tmp_path / "images" / "1.png").read_bytes() == b"1"
    assert (tmp_path / "images" / "a" / "2.png").read_bytes() == b"2"
    assert read_member(archive, "images/a/2.png") == b"2"
    assert ("1", "images/1.png") in list(picture_names(archive))
    assert unpack(make_tar(tmp_path / "x.tar", [("a\\1.png", b"1")]), tmp_path / "tar") == 1
    assert (tmp_path / "tar" / "a" / "1.png").is_file()
    twice = make_zip(tmp_path / "y.zip", [("a\\1.png", b"1"), ("a/1.png", b"2")])
    with pytest.raises(DataError, match="occurs twice"):
        unpack(twice, tmp_path / "out")
    for name in ("..\\evil", "a\\..\\..\\evil", "\\\\host\\evil", "C:\\evil"):
        with pytest.raises(DataError, match="leads out"):
            unpack(make_zip(tmp_path / "z.zip", [(name, b"1")]), tmp_path / "out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar(tmp_path, kind):
    archive = make_tar(tmp_path / "x.tar", [("link", (kind, "/etc/passwd"))])
    with pytest.raises(DataError, match="link or a device"):
        unpack(archive, tmp_path / "out")


def test_links_in_zip(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = make_zip(tmp_path / "x.zip", [(info, b"/etc/passwd")])
    with pytest.raises(DataError, match="link or a device"):
        unpack(archive, tmp_path / "out")
    with pytest.raises(ValueError, match="link or a device"):
        read_member(archive, "link")


def test_bombs(tmp_path):
    zeros = b"\0" * (8 * 2**20)
    archive = make_zip(tmp_path / "x.zip", [("zeros", zeros)])
    with pytest.raises(DataError, match="times its size"):
        unpack(archive, tmp_path / "out")
    with pytest.raises(ValueError, match="times its size"):
        read_member(archive, "zeros")
    many = make_zip(tmp_path / "many.zip", [(f"{i}", b"") for i in range(20)])
    with pytest.raises(DataError, match="20 members"):
        unpack(many, tmp_path / "out", Limits(files=10))
    with pytest.raises(DataError, match="the limit is 100"):
        unpack(make_zip(tmp_path / "y.zip", [("a", b"x" * 200)]), tmp_path / "out", Limits(total=100))
    with pytest.raises(DataError, match="or than the limit"):
        unpack(make_tar(tmp_path / "y.tgz", [("a", zeros), ("b", zeros)]), tmp_path / "out", Limits(total=9 * 2**20))


def test_a_zip_that_lies_about_its_size(tmp_path):
    archive = make_zip(tmp_path / "x.zip", [("a", b"x" * 5000)])
    data = bytearray(archive.read_bytes())
    for at in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[at : at + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="CRC"):
        read_member(archive, "a")


@pytest.mark.parametrize(("size", "budget", "fits"), [(100, 100, True), (99, 200, False), (200, 99, False)])
def test_what_comes_out_of_a_member_is_counted(tmp_path, size, budget, fits):
    """Python's own readers stop at the size that an archive states; ours does not rely on it."""
    left = [budget]
    if fits:
        _write(tmp_path / "x.zip", io.BytesIO(b"x" * 100), tmp_path / "a", size, left)
        assert ((tmp_path / "a").read_bytes(), left) == (b"x" * 100, [0])
        return
    with pytest.raises(DataError, match="more than it declares, or than the limit"):
        _write(tmp_path / "x.zip", io.BytesIO(b"x" * 100), tmp_path / "a", size, left)
    assert (tmp_path / "a").read_bytes() == b""


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_damaged_archives(tmp_path, cut):
    for archive in (
        make_zip(tmp_path / "x.zip", [("a", bytes(range(256)) * 50)]),
        make_tar(tmp_path / "x.tgz", [("a", bytes(range(256)) * 50)]),
    ):
        data = archive.read_bytes()
        archive.write_bytes(data[: int(len(data) * cut)])
        with pytest.raises(DataError, match=r"Download it again"):
            unpack(archive, tmp_path / "out")
    with pytest.raises(DataError, match="exists already"):
        unpack(archive, tmp_path)


def test_a_damaged_member(tmp_path):
    archive = make_zip(tmp_path / "x.zip", [("a.jpg", bytes(range(256)) * 20), ("b.jpg", b"fine")])
    data = bytearray(archive.read_bytes())
    data[60:80] = b"\xff" * 20
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"."):
        read_member(archive, "a.jpg")
    assert read_member(archive, "b.jpg") == b"fine"
    with pytest.raises(KeyError):
        read_member(archive, "c.jpg")
    with pytest.raises(ValueError, match="limit"):
        read_member(archive, "b.jpg", limit=2)


def test_pictures_of_a_mac(tmp_path):
    archive = make_zip(tmp_path / "x.zip", [("d/a.jpg", b""), ("__MACOSX/d/._a.jpg", b""), ("d/note.txt", b"")])
    assert list(picture_names(archive)) == [("a", "d/a.jpg")]
