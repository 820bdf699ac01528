"""Pictures, texts and options: what is kept, what is changed, what is dropped and why."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prepare_toys import png

from cl_plugins.data.prepare import Drop, Picture, Record, build_options, rng_for
from cl_plugins.data.prepare.checking import finish
from cl_plugins.data.prepare.images import BadPicture, ImageRules, encode, store
from cl_plugins.data.prepare.options import with_options
from cl_plugins.data.prepare.placeholders import escape
from cl_plugins.evaluation.scorers.options import parse_options
from cl_plugins.evaluation.scorers.text import normalise


def decoded(picture, **rules):
    data, _ = encode(picture, ImageRules(**rules))
    return Image.open(io.BytesIO(data))


# --- pictures


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_usual_forms_keep_their_bytes(form):
    data = png(form=form)
    assert encode(Picture.encoded("x", data), ImageRules())[0] == data


@pytest.mark.parametrize("form", ["BMP", "GIF", "TIFF"])
def test_other_forms_become_png(form):
    picture = decoded(Picture.encoded("x", png(form=form)))
    assert picture.format == "PNG"
    assert picture.convert("RGB").getpixel((0, 0)) == (200, 10, 10)


def test_sixteen_bits_are_not_clipped():
    """LLaMA-Factory's ``convert("RGB")`` would turn everything above 255 white."""
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    picture = np.asarray(decoded(Picture.encoded("x", buffer.getvalue())))
    assert picture.dtype == np.uint8
    assert picture[0, 0] == 0
    assert picture[-1, -1] == 255
    assert 120 < picture[4, 0] < 136


@pytest.mark.parametrize("form", ["I;16", "I;16B", "I", "F"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_more_than_eight_bits_is_stretched_whatever_its_mode(form, kind):
    """Twelve bits in sixteen, divided by 256, are nearly black; which mode a PNG has depends on Pillow's version."""
    if kind == "PNG" and form != "I;16":
        pytest.skip("a PNG has one form")
    values = np.linspace(100, 4095, 64).reshape(8, 8)
    array = values.astype({"I;16": "<u2", "I;16B": ">u2", "I": np.int32, "F": np.float32}[form])
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    picture = np.asarray(decoded(Picture.encoded("x", buffer.getvalue())))
    right = np.round((values.astype(int) - 100) * 255 / 3995)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - right).max() <= 1
    assert (picture.min(), picture.max()) == (0, 255)


def test_wide_pictures_of_one_value_or_of_no_numbers():
    def stored(array):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "TIFF")
        return np.asarray(decoded(Picture.encoded("x", buffer.getvalue())))

    assert (stored(np.full((4, 4), 700, np.uint16)) == 0).all()
    with pytest.raises(BadPicture, match="no numbers") as error:
        stored(np.full((4, 4), np.nan, np.float32))
    assert error.value.reason == "picture cannot be decoded"


def test_pixels_and_frames():
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert (np.asarray(decoded(Picture.pixels("x", grey))) == grey).all()
    frame = decoded(Picture.pixels("x", np.zeros((6, 8, 3), np.uint8), lossy=True))
    assert (frame.format, frame.size) == ("JPEG", (8, 6))


@pytest.mark.parametrize(("size", "form"), [((8, 4), "JPEG"), ((4, 8), "PNG"), ((5, 5), "PNG")])
def test_padding_keeps_the_picture_in_the_middle(size, form):
    picture = decoded(Picture.encoded("x", png(size, form=form)), pad_square=True)
    side = max(size)
    assert (picture.size, picture.format) == ((side, side), form)
    middle = picture.convert("RGB").getpixel((side // 2, side // 2))
    assert all(abs(a - b) < 12 for a, b in zip(middle, (200, 10, 10), strict=True))


def bomb(width, height):
    """A PNG that says it is huge and is not."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (Picture.encoded("x", b"no picture"), "picture cannot be decoded"),
        (Picture.encoded("x", png()[:40]), "picture cannot be decoded"),
        (Picture.encoded("x", png((64, 64), form="JPEG")[:-300]), "picture cannot be decoded"),
        (Picture.encoded("x", None), "picture cannot be read"),
        (Picture.encoded("x", float("nan")), "picture cannot be read"),
        (Picture.encoded("x", bomb(10_000, 10_000)), "picture is too large"),  # 100 megapixels
        (Picture.encoded("x", bomb(60_000, 60_000)), "picture is too large"),  # beyond Pillow's own limit
        (Picture.encoded("x", bomb(100, 100)), "picture cannot be decoded"),
        (Picture.pixels("x", np.zeros((2, 60_000_000 // 2), np.uint8)), "picture is too large"),
    ],
)
def test_bad_pictures(picture, reason):
    with pytest.raises(BadPicture) as error:
        encode(picture, ImageRules())
    assert error.value.reason == reason


def test_bad_files(tmp_path):
    for picture, reason in (
        (Picture.file(tmp_path / "gone.png"), "picture is missing"),
        (Picture.file(tmp_path), "picture cannot be read"),
        (Picture.inside(tmp_path, "../x.png"), "picture cannot be read"),
        (Picture.inside(tmp_path, ""), "picture cannot be read"),
    ):
        with pytest.raises(BadPicture) as error:
            encode(picture, ImageRules())
        assert error.value.reason == reason
    (tmp_path / "big.png").write_bytes(b"x" * 100)
    with pytest.raises(BadPicture, match="100 bytes"):
        encode(Picture.file(tmp_path / "big.png"), ImageRules(max_bytes=50))


def test_equal_pictures_are_stored_once(tmp_path):
    names = [
        store(Picture.encoded("x", png(colour=c)), tmp_path, "images/t", ImageRules())
        for c in ((1, 2, 3), (1, 2, 3), (3, 2, 1))
    ]
    assert names[0] == names[1] != names[2]
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 2


# --- texts


def done(record, columns=None):
    return finish(record, columns or {}, lambda picture: picture.name)


PICTURE = Picture.encoded("p.png", png())


def test_a_literal_placeholder_is_escaped_and_the_picture_put_in_front():
    result = done(Record.ask("1", "what does <image> mean in <video>?", "an <image> tag", [PICTURE]))
    human, gpt = (turn["value"] for turn in result.value["conversations"])
    assert human == "<image>\nwhat does < image > mean in < video >?"
    assert gpt == "an < image > tag"
    assert result.escaped == 3


@pytest.mark.parametrize(
    ("questions", "pictures", "expected"),
    [
        (["<image>\nq"], 1, ["<image>\nq"]),
        (["q"], 1, ["<image>\nq"]),
        (["q"], 2, ["<image>\n<image>\nq"]),
        (["q", "r <image>"], 1, ["q", "r <image>"]),
        (["q", "r"], 1, ["<image>\nq", "r"]),
        (["q"], 0, ["q"]),
        (["<image> q <image>"], 1, None),
        (["<image> q"], 0, None),
        (["<image> q", "<image> r"], 1, None),
        (["<image> q"], 1, ["<image>\nq"]),
        (["q\n<image>"], 1, ["<image>\nq"]),
        (["q", "r\n <image> "], 1, ["q", "<image>\nr"]),
        (["compare <image>\nwith\n<image>"], 2, ["compare <image>\nwith\n<image>"]),
        (["what is in <image>"], 1, ["what is in <image>"]),
        (["<image>\n<image>\nq"], 2, ["<image>\n<image>\nq"]),
        (["<image><image>q"], 1, ["<image>\nq"]),
        (["<image>\nq", "r"], 2, ["<image>\n<image>\nq", "r"]),
        (["<image>\nq <image>"], 2, ["<image>\nq <image>"]),
        (["<image>"], 1, ["<image>"]),
    ],
)
def test_placeholders_of_llava_turns(questions, pictures, expected):
    turns = [turn for q in questions for turn in ({"from": "human", "value": q}, {"from": "gpt", "value": "a"})]
    result = done(Record.chat("1", turns, [PICTURE] * pictures))
    if expected is None:
        assert isinstance(result, Drop)
        assert result.reason == "<image> does not match pictures"
    else:
        assert [t["value"] for t in result.value["conversations"][::2]] == expected


@pytest.mark.parametrize(
    ("question", "pictures", "unused", "expected"),
    [
        ("q", 1, 0, "<image>\nq"),
        ("<image>\nq", 1, 0, "<image>\nq"),
        ("q\n<image>", 1, 0, "<image>\nq"),
        ("<image>\n<image>\nq", 1, 0, "<image>\nq"),
        ("compare <image> with <image>", 2, 0, "compare <image> with <image>"),
        ("<image>\n<image>\nq", 1, 1, "<image>\nq"),
        ("<image>\nq", 1, 1, "<image>\nq"),
        ("compare <image> with <image>", 1, 1, "compare <image> with"),
        ("<image> q <image>", 1, 0, None),
    ],
)
def test_what_is_asked_has_the_form_of_what_is_trained_on(question, pictures, unused, expected):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "a"}]
    trained = done(Record.chat("1", turns, [PICTURE] * pictures, unused=unused))
    tested = done(Record.ask("1", question, "a", [PICTURE] * pictures, placeholders=True, unused=unused))
    if expected is None:
        assert isinstance(tested, Drop)
        assert tested == trained
    else:
        assert tested.value["conversations"][0]["value"] == expected
        assert tested.value == trained.value
        assert tested.escaped == 0


@given(st.lists(st.sampled_from(["<image>", "\n", " ", "q", "r."]), max_size=9), st.integers(0, 3))
def test_a_question_has_a_placeholder_per_picture_or_is_dropped(parts, pictures):
    result = done(Record.ask("1", "".join(parts), "a", [PICTURE] * pictures, placeholders=True))
    if not isinstance(result, Drop):
        text = result.value["conversations"][0]["value"]
        assert text.count("<image>") == pictures
        again = done(Record.ask("1", text, "a", [PICTURE] * pictures, placeholders=True))
        assert again.value["conversations"][0]["value"] == text


@given(st.text(max_size=40))
def test_escaping_leaves_no_placeholder(text):
    escaped, count = escape(text + "<image>" + text)
    assert "<image>" not in escaped
    assert count >= 1


@pytest.mark.parametrize(("answer", "written"), [(3, "3"), (2.5, "2.5"), (" yes ", "yes")])
def test_numbers_are_written_out(answer, written):
    assert done(Record.ask("1", "q", answer)).value["conversations"][1]["value"] == written


def test_columns_have_one_type():
    columns = {"options": list, "kind": str}
    first = done(Record.ask("1", "q", "a", options=("x", 2), kind=None), columns).value
    second = done(Record.ask("2", "q", "a"), columns).value
    assert (first["options"], first["kind"]) == (["x", "2"], "")
    assert (second["options"], second["kind"]) == ([], "")
    assert list(first) == list(second)


# --- options


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


@given(words, st.lists(words, max_size=12), st.lists(words, max_size=3), st.integers(2, 6), st.integers(0, 99))
def test_options_hold_the_right_one_once(correct, pool, fixed, count, seed):
    try:
        options, letter = build_options(correct, pool, count, rng_for(seed, "x"), fixed=fixed)
    except ValueError:
        assert len({normalise(text) for text in (correct, *pool, *fixed)}) == 1 or count < 2
        return
    assert options["ABCDEFGHIJ".index(letter)] == correct
    assert len({normalise(text) for text in options}) == len(options)
    assert len(options) <= max(count, len(fixed) + 1)
    again = build_options(correct, sorted(pool, reverse=True), count, rng_for(seed, "x"), fixed=fixed)
    if len({normalise(text) for text in pool}) == len(pool):
        assert again == (options, letter)  # the order of the pool does not matter


def test_options_depend_on_seed_and_record_only():
    pool = [f"word {i}" for i in range(20)]
    drawn = {
        (seed, what): build_options("right", pool, 6, rng_for(seed, what)) for seed in (0, 1) for what in ("a", "b")
    }
    assert len(set(drawn.values())) == 4
    assert build_options("right", pool, 6, rng_for(0, "a")) == drawn[0, "a"]
    # What version 1 draws. If this changes, options.VERSION has to be raised.
    assert drawn[0, "a"] == (("word 3", "right", "word 10", "word 14", "word 4", "word 17"), "B")


def test_the_scorer_reads_back_what_is_written():
    options = ("no visible instrument", "granulocyte, group 1", "x")
    assert parse_options("<image>\n" + with_options("Which?", options)) == options
