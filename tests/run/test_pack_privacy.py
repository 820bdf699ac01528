"""Nothing of the data and of the folders of a site travels in a pack: every text that a site has holds a marker."""

from __future__ import annotations

import json
import os
import zipfile

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from running import go, recipe

from cl_plugins.cli import main
from cl_plugins.contract.packed import Pack
from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.records.told import NUMBERS, told_extra, told_keys, told_options
from cl_plugins.run.packing import pack
from cl_plugins.run.shareable import base_name
from cl_plugins.run.site import site_of


MARK = "zqx"
_SETS = ("train", "test", "probe")


def _data(folder):
    """Data sets whose names, file, columns, ids, questions and answers hold the marker."""
    folder.mkdir(parents=True)
    info = {}
    for name in _SETS:
        records = [
            {"id": f"{MARK}id{name}{i}", f"{MARK}options": [f"{MARK}yes", f"{MARK}no"],
             f"{MARK}column": [{"from": "human", "value": f"{MARK}question {i}?"}, {"from": "gpt", "value": f"{MARK}yes it is"}]}
            for i in range(6)
        ]  # fmt: skip
        (folder / f"{MARK}_{name}.json").write_text(json.dumps(records))
        columns = {"messages": f"{MARK}column"}
        info[f"{MARK}_{name}"] = {"file_name": f"{MARK}_{name}.json", "formatting": "sharegpt", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def _recipe(llama, base, out, scorer, **more):
    (base / "empty").mkdir(exist_ok=True)
    (base / "empty" / "dataset_info.json").write_text("{}")
    about = {"title": f"{MARK} title", "source": f"{MARK} source", "licence": f"{MARK} licence"}
    task = {
        "name": "rad",
        "train": f"{MARK}_train",
        "test": f"{MARK}_test",
        "scorer": scorer,
        "options_column": f"{MARK}options",
        **about,
    }
    place = {"dataset_dir": f"{MARK}_klinik/patienten", "media_dir": f"{MARK}_klinik/patienten"}
    probe = {"name": f"{MARK}probe", "test": f"{MARK}_probe", "overrides": place, **about}
    stream = {
        "name": "hospitals", "title": f"{MARK} title", "notes": [f"{MARK} note"], "paper": f"{MARK} paper",
        "homepage": f"https://{MARK}.example", "tasks": [task, {"name": "cell"}],
    }  # fmt: skip
    keys = recipe(llama, base / "empty", out, tasks=("rad",), max_steps=1, **more)
    keys["cl"] = {
        "method": {"name": "inclora"}, "stream": stream, "only": "rad", "task_overrides": {"rad": place},
        "eval": {"max_new_tokens": 3, "probes": [probe]},
    }  # fmt: skip
    return keys


@pytest.fixture(scope="module", params=["exact_match", "bleu"])
def packed(request, llama, tmp_path_factory):
    """A run in which everything holds the marker, started where its relative folders are, and its pack."""
    base = tmp_path_factory.mktemp(f"{MARK}site")
    _data(base / f"{MARK}_klinik" / "patienten")
    before = os.getcwd()
    os.chdir(base)
    try:
        go(_recipe(llama, base, base / f"{MARK}run", request.param))
        pack(base / f"{MARK}run", base / "site.zip", with_matrix=True)
    finally:
        os.chdir(before)
    return base


def _members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_no_byte_of_a_pack_holds_a_text_of_the_site(packed):
    members = _members(packed / "site.zip")
    assert "sites/01.json" in members
    for name, raw in members.items():
        at = raw.lower().find(MARK.encode())
        assert at < 0, (name, raw[max(0, at - 80) : at + 80])
        assert MARK not in name


def test_numbers_of_a_score_travel(packed):
    score = json.loads(_members(packed / "site.zip")["sites/01.json"])["cells"]["after_rad"]["rad"]
    assert score["extra"]["constant_baseline"] >= 0
    assert all(isinstance(value, int | float) for value in score["extra"].values())
    assert {"score", "n", "interval", "scorer"} <= set(score)


def test_rows_of_the_record_are_those_of_the_pack(packed):
    own, sent = site_of(packed / f"{MARK}run"), Pack.open(packed / "site.zip").sites()[0]
    assert own.model_dump(exclude={"checksum"}) == sent.model_dump(exclude={"checksum"})


def _older(path, target):
    """The pack as an earlier version wrote it: names of data sets, an entry, a reference, folders and a probe."""
    from test_packed_carry import rebuilt

    from cl_plugins.records.record import checksum

    def members(files):
        site = json.loads(files["sites/01.json"])
        for task in site["stream"]["tasks"]:
            for split in ("train", "test"):
                task[split] = [f"{MARK}_{split}"] if task["name"] == "rad" else []
            task |= {"overrides": {"dataset_dir": MARK}, "options_column": MARK, "title": MARK}
        site["data"] = {
            f"rad/{MARK}_{name.removeprefix('rad/')}": {**record, "entry": {"columns": {"messages": MARK}}}
            for name, record in site["data"].items()
        }
        block = site["recipe"]["cl"]
        block["task_overrides"] = {"rad": {"dataset_dir": f"{MARK}/x", "cutoff_len": 64}}
        block["eval"]["probes"] = [{"name": MARK, "test": [MARK], "include_path": MARK}]
        site["options"]["teacher"] = f"{MARK}/weights"
        site["notes"] = [f"{MARK} note"]
        for row in site["cells"].values():
            for score in row.values():
                score["extra"] |= {"constant_answer": f"{MARK} yes", "signature": MARK, "routes": {"rad": 3, MARK: 1}}
        site["checksum"] = checksum(site)
        return {**files, "sites/01.json": json.dumps(site).encode()}

    return rebuilt(path, target, members=members)


def test_what_an_older_pack_tells_is_not_passed_on(packed, tmp_path, llama):
    older = _older(packed / "site.zip", tmp_path / "older.zip")
    assert MARK.encode() in b"".join(_members(older).values())
    site = Pack.open(older).sites()[0]
    assert MARK not in site.model_dump_json(
        exclude={"notes"}
    )  # the notes of methods are told apart when they are passed on
    assert site.recipe.cl.task_overrides == {"rad": {"cutoff_len": 64}}
    assert site.cells["after_rad"]["rad"].extra["routes"] == {"rad": 3}
    tiny.build_data(tmp_path / "data", ("cell",), text_only=True)
    keys = recipe(llama, tmp_path / "data", tmp_path / "b", tasks=("rad", "cell"), max_steps=1)
    stream = {"name": "hospitals", "tasks": [{"name": "rad"}, tiny.stream(("cell",))["tasks"][0]]}
    keys["cl"] |= {"stream": stream, "only": "cell", "carry_from": str(older)}
    go(keys)
    pack(tmp_path / "b", tmp_path / "b.zip", with_matrix=True)
    assert MARK.encode() not in b"".join(_members(tmp_path / "b.zip").values())
    for places in ([tmp_path / "b.zip"], [older, tmp_path / "b.zip"], [packed / f"{MARK}run", older, tmp_path / "b"]):
        out = tmp_path / f"joined{len(places)}"
        assert main(["matrix", "join", *map(str, places), "--out", str(out)]) == 0
        text = "".join(path.read_text() for path in out.rglob("*.json"))
        assert MARK not in text
        assert main(["report", str(out)]) == 0
        assert main(["compare", str(out), str(out), "--out", str(out / "compared")]) in (0, 1)


# --- the rules themselves


_texts = st.text(min_size=1, max_size=12).map(lambda text: f"{MARK}{text}")
_plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), _texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)),
    max_leaves=8,
)
_keys = st.one_of(
    _texts,
    st.sampled_from(["dataset_dir", "include_path", "clip", "labels", "deepspeed", "dataset", "metrics", *NUMBERS]),
)


@given(st.dictionaries(_keys, _plain))
def test_no_text_and_no_unknown_key_is_in_the_remarks_of_a_score(extra):
    told = told_extra(extra)
    assert MARK not in json.dumps(told)
    assert told_extra(told) == told


@given(
    st.dictionaries(
        st.sampled_from(["dataset_dir", "media_dir", "include_path", "clip", "labels", "deepspeed", "dataset"]), _plain
    )
)
def test_no_value_of_a_key_that_is_not_listed_is_in_a_recipe(keys):
    told = told_keys({"overrides": keys, **keys})
    text = json.dumps([value for value in told.values() if not isinstance(value, dict)])
    assert MARK not in text
    assert not set(told) & {"dataset_dir", "media_dir", "include_path"}
    assert told_keys(told) == told


def test_options_keep_choices_and_lose_places():
    given = {
        "consolidate": "auto", "weight": 0.5, "faithful": ["peer"],
        "selector": {"kind": "ridge", "clip": "klinik/clip", "question_after": " Which organ?", "features": ["vision", "text"]},
        "teacher": "a/b", "home": "~/data", "model_file": "x",
    }  # fmt: skip
    told = told_options(given)
    assert told["consolidate"] == "auto"
    assert told["faithful"] == ["peer"]
    assert told["selector"]["question_after"] == " Which organ?"
    assert told["selector"]["features"] == ["vision", "text"]
    assert [told["selector"]["clip"], told["teacher"], told["home"], told["model_file"]] == ["(left out)"] * 4
    assert told_options(told) == told


def test_every_number_of_the_scorers_of_this_package_is_listed():
    items = [Item(str(i), "what?", "[1, 2, 3, 4]", "[1, 2, 3, 4]", ("[1, 2, 3, 4]", "b"), {}) for i in range(3)]
    texts = {"constant_answer", "signature", "strict_twin"}
    for name in (
        "exact_match",
        "starts_with",
        "contains",
        "token_f1",
        "list_f1",
        "bleu",
        "box_accuracy",
        "choice_accuracy",
    ):
        extra = get_scorer(name, task="x").score(items).extra
        assert set(extra) - texts <= set(told_extra(extra)), name


def test_of_a_base_in_a_folder_the_last_part_travels():
    for name in ("klinik/base", "data/klinik/base", "/data/klinik/base", "~/klinik/base"):
        assert base_name({"name": name, "commit": None})["name"] == "base"
    assert base_name({"name": "org/model", "commit": "0" * 40})["name"] == "org/model"
