"""Pictures, sounds and tables of signals: the right numbers of every form, and errors for what has none."""

from __future__ import annotations

import wave

import numpy as np
import pytest
from PIL import Image

from cl_plugins.crossmodal import media
from cl_plugins.crossmodal.tables import column_names


WAVE = np.sin(np.arange(400) * 0.1).astype(np.float32)


def grey(picture):
    values = np.asarray(picture)
    assert values.ndim == 3
    assert (values == values[..., :1]).all()
    return values[..., 0]


# --- pictures


@pytest.mark.parametrize("high", [1000, 4095, 65535])
def test_grey_pictures_with_more_bits_are_stretched(tmp_path, high):
    values = np.linspace(0, high, 256).reshape(16, 16)
    for name, kind in (("a.png", np.uint16), ("b.tiff", np.uint16), ("c.tiff", np.int32), ("d.tiff", np.float32)):
        Image.fromarray(values.astype(kind)).save(tmp_path / name)
        found = grey(media.frames(str(tmp_path / name), 1)[0])
        assert np.abs(found.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1, name
    assert np.unique(grey(media.frames(Image.fromarray(values.astype(np.float32) / high), 1)[0])).size == 256
    with pytest.raises(ValueError, match="no numbers"):
        media.frames(Image.fromarray(np.full((4, 4), np.nan, np.float32)), 1)


@pytest.mark.parametrize("name", ["a.tiff", "a.gif", "a.png", "a.webp"])
def test_pages_are_taken_as_the_frames_of_a_video(tmp_path, name):
    pages = [Image.fromarray(np.full((16, 16, 3), 40 * page, np.uint8)) for page in range(6)]
    lossless = {"lossless": True} if name.endswith("webp") else {}
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **lossless)
    file = str(tmp_path / name)

    def values(value, count):
        return [int(np.asarray(p).mean()) for p in media.frames(value, count)]

    assert values(file, 3) == values([file], 3) == [40, 120, 200]
    assert values(file, 6) == [0, 40, 80, 120, 160, 200]
    assert values(file, 1) == [0]
    assert values([file, pages[5]], 2) == [0, 200]  # in a list each file is one picture


def test_the_previews_of_a_photo_are_no_pictures_of_their_own(tmp_path):
    pages = [Image.new("RGB", (16, 16), (value, value, value)) for value in (20, 200)]
    pages[0].save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=pages[1:])
    assert {int(np.asarray(p).mean()) for p in media.frames(str(tmp_path / "photo.jpg"), 2)} == {20}


# --- sounds


def save_wav(path, values):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(values.shape[1])
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(values.astype("<i2").tobytes())
    return str(path)


def test_an_array_is_heard_as_a_wav_of_the_same_samples(tmp_path):
    stereo = np.stack([WAVE, np.zeros_like(WAVE)], axis=1)
    whole = (stereo * 32767).astype(np.int16)
    expected = media.sound(save_wav(tmp_path / "a.wav", whole), 8000)
    for number, values in enumerate((whole, whole.T, whole.astype(np.int32) * 2**16)):
        np.save(tmp_path / f"{number}.npy", values)
        assert np.allclose(media.sound(str(tmp_path / f"{number}.npy"), 8000), expected, atol=1e-6)
        assert np.allclose(media.sound(values, 8000), expected, atol=1e-6)
    np.save(tmp_path / "float.npy", stereo)
    assert np.allclose(media.sound(str(tmp_path / "float.npy"), 8000), WAVE / 2)
    assert np.array_equal(media.sound(np.array([0, 128, 255], np.uint8), 8000) * 128, [-128, 0, 127])
    assert np.allclose(media.sound([0, 1, -1], 8000), [0, 1, -1])
    with pytest.raises(ValueError, match="largest value is not known"):
        media.sound([0, 20000], 8000)


def test_what_is_no_sound_is_refused(tmp_path):
    for bad in (np.nan, np.inf):
        broken = np.where(np.arange(400) == 5, bad, WAVE)
        np.save(tmp_path / "bad.npy", broken)
        for value in (str(tmp_path / "bad.npy"), broken.tolist()):
            with pytest.raises(ValueError, match="no finite numbers"):
                media.sound(value, 8000)
    empty = save_wav(tmp_path / "empty.wav", np.zeros((0, 1)))
    for value, rate in ((empty, 8000), (empty, 16000), ([], 8000)):
        with pytest.raises(ValueError, match="no sound in it"):
            media.sound(value, rate)
    with pytest.raises(ValueError, match="no wave"):
        media.sound(np.zeros((2, 3, 4)), 8000)


# --- tables of signals


def table(folder, text, encoding="utf-8"):
    (folder / "a.csv").write_bytes(text.encode(encoding))
    return str(folder / "a.csv")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2\n3,4\n", None),
        ("1;2\r\n3;4\r\n\r\n", None),
        ("1\t2\n3\t4", None),
        ("acc,gyro\n1,2\n3,4\n", ("acc", "gyro")),
        ('"acc","gyro, z"\n"1","2"\n"3", 4\n', ("acc", "gyro, z")),
        ("\ufeff1,2\n3,4\n", None),
        ("\ufeffa,b\n1,2\n3,4\n", ("a", "b")),
        ("1,2,\n3,4,\n", None),
        ("a,b,\n1,2,\n3,4,\n", ("a", "b")),
    ],
)
def test_a_table(tmp_path, text, names):
    file = table(tmp_path, text)
    assert np.array_equal(media.signal_of(file), [[1, 2], [3, 4]])
    assert media.named_signal(file)[1] == column_names(tmp_path / "a.csv") == names


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("acc,gyro,temp\n1,,3\n,2,3\n", r"line 2, column 2 \(gyro\) is empty"),
        ("a,b\n1,2\n,\n3,4\n", "line 3, column 1"),
        ("NA,2\n3,4\n", "line 1, column 1 is 'NA'"),
        ("1,nan\n3,4\n", "line 1, column 2 is 'nan'"),
        ("NA,NA\n3,4\n", "no name of a channel"),
        (",acc\n0,4\n", "line 1, column 1 is empty"),
        ("acc;gyro\n1,5;2,5\n", "write decimals with a point"),
        ("acc\n1,5\n", "line 2 has 2 cells, and line 1 has 1 cell"),
        ("a,b\n1_000,2\n", "'1_000'"),
        ("0,1\n0.5,0.6\n", "counts the columns"),
        ("1,2\n\n3,4\n", "line 2 is empty"),
        ("a,b\n", "no table of finite numbers"),
        ("", "no table of finite numbers"),
    ],
)
def test_what_is_no_table_is_named_by_line_and_column(tmp_path, text, where):
    with pytest.raises(ValueError, match=where):
        media.signal_of(table(tmp_path, text))


def test_channels_with_other_names_are_another_signal(tmp_path):
    file = table(tmp_path, "gyro,acc\n1,2\n3,4\n")
    assert np.array_equal(media.signal(file, 2, 2, ("gyro", "acc")), [[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="columns are gyro, acc, and those of the files before it acc, gyro"):
        media.signal(file, 2, 2, ("acc", "gyro"))
    assert np.array_equal(media.signal([[1, 2], [3, 4]], 2, 2, ("acc", "gyro")), [[1, 2], [3, 4]])
