"""Token ids of test sets with pictures are kept between starts, and never those of anything else."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from running import copy_of

from cl_plugins.base.outside import open_picture
from cl_plugins.host import token_cache
from cl_plugins.host.test_sets import load_test_items
from cl_plugins.host.token_cache import OFF, Encoded, TokenCache
from cl_plugins.streams import Task


COUNT = 6
TASK = Task(name="one", test=("one_test",), scorer="choice_accuracy", options_column="options")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return tiny.build_data(tmp_path_factory.mktemp("pictures"), tasks=("one",), train=4, test=COUNT)


@pytest.fixture(scope="module")
def made(llava, pictures, tmp_path_factory):
    """A session whose tests are in `pictures`; nobody changes it."""
    return session(llava, pictures, tmp_path_factory.mktemp("out"))


@pytest.fixture(autouse=True)
def kept(monkeypatch, tmp_path):
    """The folder of the cache."""
    monkeypatch.setenv("CL_PLUGINS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(OFF, raising=False)
    return tmp_path / "cache" / "tokens"


def session(base, data, out, **keys):
    from cl_plugins.host.session import Session
    from cl_plugins.host.task_args import parse

    recipe = {**tiny.recipe(base, data, out, tasks=("one",)), "dataset": "one_test", **keys}
    recipe.pop("cl")
    return Session(parse(recipe))


def load(made, args=None, *, cache=True, template=None, **more):
    args, template = args or made.args, template or made.template
    cache = TokenCache(args, template, made.tokenizer_module) if cache else None
    return load_test_items(TASK, args, template, made.tokenizer_module, None, cache=cache, **more)


def files(folder):
    return sorted(folder.glob("*")) if folder.is_dir() else []


def plain(items):
    """All of the items, comparable."""

    def ids(value):
        return None if value is None else (value.dtype, value.tolist())

    rows = []
    for item in items:
        about = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        about |= {"tokens": ids(item.tokens), "engine_tokens": ids(item.engine_tokens)}
        rows.append({**about, "media": item.feature["images"]})
    return rows


def no_picture_opens(monkeypatch):
    """Reading a picture is an error from here on."""
    from PIL import Image

    def refuse(*args, **kwargs):
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(Image, "open", refuse)


@pytest.mark.parametrize("for_engine", [False, True])
def test_ids_are_the_same_with_and_without_the_cache(made, kept, monkeypatch, for_engine):
    without = plain(load(made, cache=False, for_engine=for_engine))
    assert not files(kept)
    assert plain(load(made, for_engine=for_engine)) == without
    assert len(files(kept)) == 1
    no_picture_opens(monkeypatch)
    assert plain(load(made, for_engine=for_engine)) == without
    assert len(without) == COUNT
    with pytest.raises(Exception, match="a picture was opened"):
        load(made, cache=False)


def test_pictures_inside_a_data_set_are_kept_too(llava, pictures, kept, tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "bytes"
    folder.mkdir()
    records = json.loads((pictures / "one_test.json").read_text())
    for record in records:
        record["images"] = [{"bytes": (pictures / name).read_bytes(), "path": None} for name in record["images"]]

    def write():
        pq.write_table(pa.Table.from_pylist(records), folder / "one_test.parquet")
        return session(llava, folder, tmp_path / "out")

    columns = {"messages": "messages", "images": "images"}
    entry = {"file_name": "one_test.parquet", "formatting": "sharegpt", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"one_test": entry}))
    inside = write()
    without = plain(load(inside, cache=False))
    assert plain(load(inside)) == without
    with monkeypatch.context() as patch:
        no_picture_opens(patch)
        assert plain(load(inside)) == without
    assert len(files(kept)) == 1
    records[0]["images"], records[1]["images"] = records[1]["images"], records[0]["images"]
    load(write())
    assert len(files(kept)) == 2


def test_a_run_uses_the_cache(made, kept, monkeypatch):
    made.test_items(TASK, {"cutoff_len": 1024, "dataset_dir": made.args.data.dataset_dir}, None)
    (file,) = files(kept)
    assert file.suffix == ".safetensors"
    assert kept.stat().st_mode & 0o077 == 0


def name_of(made, args=None, template=None, module=None, **more):
    """The file of the test set."""
    args = args or made.args
    cache = TokenCache(args, template or made.template, module or made.tokenizer_module)
    found = []
    original = TokenCache.file

    def note(self, *given, **options):
        found.append(original(self, *given, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenCache, "file", note)  # gives None: nothing is kept
        load_test_items(TASK, args, made.template, made.tokenizer_module, None, cache=cache, **more)
    return found[0].name


def with_data(made, **changes):
    return dataclasses.replace(made.args, data=dataclasses.replace(made.args.data, **changes))


def test_every_option_of_the_encoding_is_part_of_the_name(made):
    names = [name_of(made), name_of(made, for_engine=True)]
    for change in ({"cutoff_len": 777}, {"default_system": "Answer."}, {"train_on_prompt": True}):
        names.append(name_of(made, with_data(made, **change)))
    names.append(name_of(made, template=dataclasses.replace(made.template, default_system="Be brief.")))
    slots = dataclasses.replace(made.template.format_user, slots=["<user>{{content}}"])
    names.append(name_of(made, template=dataclasses.replace(made.template, format_user=slots)))
    assert len(set(names)) == len(names)


def test_processor_and_tokenizer_are_part_of_the_name(made):
    before = name_of(made)
    module = {**made.tokenizer_module, "processor": copy.deepcopy(made.tokenizer_module["processor"])}
    assert name_of(made, module=module) == before
    module["processor"].image_max_pixels = 1000  # a limit that the host sets
    names = [before, name_of(made, module=module)]
    module["processor"].image_processor.size = {"height": 40, "width": 40}  # a setting in its files
    names.append(name_of(made, module=module))
    module["tokenizer"] = copy.deepcopy(module["tokenizer"])
    module["tokenizer"].add_tokens(["<another>"])
    names.append(name_of(made, module=module))
    assert len(set(names)) == len(names)


def test_what_does_not_change_ids_is_no_part_of_the_name(made):
    changes = {"max_samples": 3, "preprocessing_batch_size": 7, "overwrite_cache": True, "eval_dataset": ["one_test"]}
    assert name_of(made, with_data(made, **changes)) == name_of(made)
    made.tokenizer_module["tokenizer"](["a", "a b"], padding=True, truncation=True, max_length=4)
    assert name_of(made) == name_of(made)
    made.tokenizer_module["tokenizer"].encode("a")


def test_a_changed_picture_or_record_gives_another_name(llava, pictures, tmp_path):
    data = copy_of(pictures, tmp_path / "data")
    made = session(llava, data, tmp_path / "out")
    names = [name_of(made)]
    records = json.loads((data / "one_test.json").read_text())
    picture = data / records[2]["images"][0]
    state = os.stat(picture)
    content = bytearray(picture.read_bytes())
    with open_picture(picture) as opened:
        turned = opened.convert("RGB").point(lambda value: 255 - value)
    turned.save(picture)
    names.append(name_of(made))
    picture.write_bytes(content)
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert name_of(made) == names[0]
    records[0]["messages"][0]["value"] += " Really?"
    (data / "one_test.json").write_text(json.dumps(records))
    names.append(name_of(session(llava, data, tmp_path / "out")))
    assert len(set(names)) == 3


def test_another_process_finds_the_same_file(made, llava, pictures, tmp_path):
    """Sets have another order in every process; a name that depended on it would never be found again."""
    script = tmp_path / "other.py"
    here = Path(__file__)
    script.write_text(
        f"import sys; sys.path[:0] = [{str(here.parent)!r}, {str(here.parent.parent)!r}]\n"
        f"import test_token_cache as t\nfrom pathlib import Path\n"
        f"print(t.name_of(t.session({str(llava)!r}, Path({str(pictures)!r}), Path({str(tmp_path)!r}))))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] == name_of(made)


def damage(file, how):
    content = bytearray(file.read_bytes())
    if how == "cut":
        content = content[:-7]
    elif how == "another id":
        content[-1] ^= 1
    elif how == "empty":
        content = b""
    else:
        content = b"nonsense"
    file.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "another id", "empty", "nonsense"])
def test_a_damaged_file_is_ignored_and_written_again(made, kept, monkeypatch, how):
    wanted = plain(load(made))
    (file,) = files(kept)
    content = file.read_bytes()
    damage(file, how)
    assert plain(load(made)) == wanted
    assert file.read_bytes() == content
    no_picture_opens(monkeypatch)
    assert plain(load(made)) == wanted


def test_a_file_of_another_number_of_records_is_not_used(made, kept):
    wanted = plain(load(made))
    (file,) = files(kept)
    cache = TokenCache(made.args, made.template, made.tokenizer_module)
    cache.write(file, cache.read(file, COUNT)[:-1])
    assert cache.read(file, COUNT) is None
    assert plain(load(made)) == wanted


def test_it_is_off_where_nobody_wants_it_or_the_disk_does_not_take_it(made, kept, monkeypatch, tmp_path):
    wanted = plain(load(made, cache=False))
    monkeypatch.setenv(OFF, "0")
    assert plain(load(made)) == wanted
    assert not files(kept)
    monkeypatch.delenv(OFF)
    (tmp_path / "taken").write_text("x")
    monkeypatch.setenv("CL_PLUGINS_CACHE", str(tmp_path / "taken"))
    assert plain(load(made)) == wanted


def test_overwrite_cache_encodes_again(made, kept, monkeypatch):
    load(made)
    (file,) = files(kept)
    damage(file, "nonsense")
    again = with_data(made, overwrite_cache=True)
    load(made, again)
    assert files(kept) == [file]
    no_picture_opens(monkeypatch)
    load(made)  # what was written again is whole
    with pytest.raises(Exception, match="a picture was opened"):
        load(made, again)


def test_a_record_that_cannot_be_used_is_reported_at_every_start(llava, pictures, kept, tmp_path):
    from cl_plugins.base.errors import DataError

    data = copy_of(pictures, tmp_path / "data")
    records = json.loads((data / "one_test.json").read_text())
    (data / records[1]["images"][0]).write_bytes(b"no picture" * 1000)
    made = session(llava, data, tmp_path / "out")
    for _ in range(2):
        with pytest.raises(DataError, match="record 1"):
            load(made)
    assert not files(kept)


def test_texts_are_not_kept(llama, text_data, kept, tmp_path):
    made = session(llama, text_data, tmp_path / "out", template="empty")
    assert load(made)
    assert not files(kept)


# --- the files --------------------------------------------------------------------------------------------------


def encoded(*sizes, short=False):
    rng = np.random.default_rng(sum(sizes))

    def ids(size):
        return rng.integers(0, 3, size, dtype=np.int32)

    return [Encoded(ids(size), ids(2), ids(size) if short else None) for size in sizes]


@pytest.fixture
def cache(made):
    return TokenCache(made.args, made.template, made.tokenizer_module)


def same(found, records):
    def lists(one):
        return [None if ids is None else ids.tolist() for ids in (one.prompt, one.answer, one.short)]

    return [lists(one) for one in found] == [lists(one) for one in records]


@pytest.mark.parametrize("records", [encoded(4, 0, 7), encoded(1), encoded(3, 5, short=True), encoded(0, 0)])
def test_files_give_back_what_was_written(cache, tmp_path, records):
    cache.write(tmp_path / "a" / "x.safetensors", records)
    assert same(cache.read(tmp_path / "a" / "x.safetensors", len(records)), records)


def test_a_picture_takes_a_few_bytes(cache, tmp_path):
    picture = [Encoded(np.full(576, 32000, np.int32), np.asarray([1, 2], np.int32)) for _ in range(1000)]
    cache.write(tmp_path / "a" / "x.safetensors", picture)
    assert (tmp_path / "a" / "x.safetensors").stat().st_size < 1000 * 40


def test_the_files_that_were_not_used_for_the_longest_time_go_first(cache, tmp_path, monkeypatch):
    folder = tmp_path / "a"
    names = [folder / f"{name}.safetensors" for name in "abcd"]
    for age, path in zip((40, 30, 20, 10), names, strict=True):
        cache.write(path, encoded(500))
        os.utime(path, (time.time() - age, time.time() - age))
    cache.read(names[0], 1)  # the oldest is used again
    (folder / ".b.safetensors.1.tmp").write_bytes(b"left by a kill")
    os.utime(folder / ".b.safetensors.1.tmp", (1, 1))
    (folder / ".c.safetensors.2.tmp").write_bytes(b"is being written")
    monkeypatch.setattr(token_cache, "LIMIT", int(names[0].stat().st_size * 3.5))
    cache.write(folder / "e.safetensors", encoded(500))
    assert {path.name for path in folder.iterdir()} == {
        "a.safetensors", "d.safetensors", "e.safetensors", ".c.safetensors.2.tmp",
    }  # fmt: skip
    monkeypatch.setattr(token_cache, "LIMIT", 1)
    cache.write(folder / "f.safetensors", encoded(500))
    assert [path.name for path in folder.glob("*.safetensors")] == ["f.safetensors"]


def test_processes_that_write_the_same_file_do_not_disturb_each_other(cache, tmp_path):
    file, records = tmp_path / "a" / "x.safetensors", encoded(50_000, 3, 20_000)
    script = tmp_path / "writer.py"
    script.write_text(
        "import sys; from pathlib import Path; import numpy as np\n"
        "from cl_plugins.host.token_cache import Encoded, TokenCache\n"
        "cache = TokenCache.__new__(TokenCache)\n"
        "rng = np.random.default_rng(70_003)\n"
        "ids = lambda size: rng.integers(0, 3, size, dtype=np.int32)\n"
        "records = [Encoded(ids(size), ids(2)) for size in (50_000, 3, 20_000)]\n"
        "for _ in range(20): cache.write(Path(sys.argv[1]), records)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CL_PLUGINS_AUTOLOAD": "0"}
    writers = [subprocess.Popen([sys.executable, str(script), str(file)], env=environment) for _ in range(3)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        if file.exists():  # from then on it is whole at every moment
            assert same(cache.read(file, 3), records)
            seen += 1
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert seen
    assert [path.name for path in file.parent.iterdir()] == [file.name]
