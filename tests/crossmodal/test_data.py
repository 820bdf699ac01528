"""Recipes, data sets and encoders that are looked at before the first training: what is refused, told and compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from encoder_runs import ENCODERS, build, recipe
from PIL import Image
from tiny_encoders import CONFIGS, encoder
from transformers import ViTImageProcessor

from cl_plugins.base.errors import CompatibilityError, DataError, RecipeError
from cl_plugins.crossmodal.encoders import config_problems
from cl_plugins.crossmodal.inputs import CrossModalProcessor, EncoderSpec
from cl_plugins.crossmodal.model import CrossModalClassifier
from cl_plugins.encoders import keys as key_rules
from cl_plugins.encoders.data import RecordRows, RecordSet, from_buffer
from cl_plugins.encoders.host import EncoderHost
from cl_plugins.encoders.session import Session
from cl_plugins.replay.media import take_in
from cl_plugins.run import record
from cl_plugins.run.check import check


SIGNAL = {k: v for k, v in CONFIGS["signal"].items() if k != "model_type"}
MOTION = {"kind": "signal", "config": SIGNAL}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return build(tmp_path / "data", train=2, test=2)


@pytest.fixture
def raw(data, tmp_path):
    return recipe(data, tmp_path / "run")


def problems(raw):
    with pytest.raises(RecipeError) as found:
        check(EncoderHost(), raw)
    return {problem.where: f"{problem.what} {problem.fix}" for problem in found.value.problems}


def rewrite(folder, name, change):
    path = folder / f"{name}.jsonl"
    records = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


# --- keys


def test_fields_that_a_config_does_not_have_are_refused(raw):
    raw["encoders"] = {**ENCODERS, "motion": {"kind": "signal", "config": {**SIGNAL, "num_hiden_layers": 2}}}
    raw["encoders"]["picture"] = {"kind": "vision", "config": {**CONFIGS["vit"], "image_siz": 8}}
    found = problems(raw)
    assert "'num_hidden_layers'" in found["encoders.motion.config.num_hiden_layers"]
    assert "'image_size'" in found["encoders.picture.config.image_siz"]


def test_configs_of_every_family_are_accepted():
    for name, config in CONFIGS.items():
        if name != "dinov2":  # which has no `intermediate_size`
            assert config_problems(config, name) == []
    (found,) = config_problems(CONFIGS["dinov2"], "dinov2")
    assert found.where == "dinov2.intermediate_size"
    clip = {"model_type": "clip", "vision_config": {"hidden_siz": 3}}
    assert [p.where for p in config_problems(clip, "c")] == ["c.vision_config.hidden_siz"]
    assert config_problems({**CONFIGS["bert"], "architectures": ["BertModel"], "_name_or_path": "x"}, "b") == []


@pytest.mark.parametrize(
    ("change", "where"),
    [({"length": 30, "piece": 4}, "piece"), ({"hidden_size": 15}, "num_attention_heads"), ({"length": 0}, "length")],
)
def test_sizes_that_do_not_fit_are_refused(raw, change, where):
    raw["encoders"] = {**ENCODERS, "motion": {"kind": "signal", "config": {**SIGNAL, **change}}}
    assert f"encoders.motion.config.{where}" in problems(raw)


def test_an_encoder_that_cannot_be_made_is_refused(raw):
    raw["encoders"] = {**ENCODERS, "words": {"kind": "text", "config": {**CONFIGS["bert"], "hidden_size": 15}}}
    assert "not a multiple" in problems(raw)["encoders.words.config"]


def test_keys_of_another_kind_are_refused(raw):
    raw["encoders"] = {**ENCODERS, "motion": {**MOTION, "frames": 8, "seconds": 3, "max_length": 7}}
    found = problems(raw)
    assert {key.rpartition(".")[2] for key in found} >= {"frames", "seconds", "max_length"}
    assert "kind vision" in found["encoders.motion.frames"]


@pytest.mark.parametrize("name", ["values", "train", "id"])
def test_names_that_are_taken_are_refused(raw, name):
    raw["encoders"] = {name: MOTION, "words": ENCODERS["words"]}
    assert "no name of a modality" in problems(raw)[f"encoders.{name}"]
    with pytest.raises(CompatibilityError, match=f"encoders.{name}: is no name"):
        CrossModalClassifier.from_encoders({name: encoder("signal"), "words": encoder("bert")}, labels=["a"])


def test_numbers_may_be_texts(tmp_path):
    texts = {"adam_epsilon": "1e-6", "warmup_ratio": "1e-1", "max_grad_norm": "1e0", "max_steps": "3", "seed": "7"}
    found = key_rules.parse({**texts, "output_dir": str(tmp_path), "use_cpu": True}).training
    assert (found.adam_epsilon, found.max_grad_norm, found.max_steps, found.seed) == (1e-6, 1.0, 3, 7)


def test_texts_that_are_no_numbers_are_refused(raw):
    raw |= {"learning_rate": "fast", "max_steps": "1.5"}
    raw["cl"]["task_overrides"] = {"one": {"weight_decay": "none"}}
    found = problems(raw)
    assert "Give a number" in found["learning_rate"]
    assert "Give a whole number" in found["max_steps"]
    assert any(where.endswith("one.weight_decay") for where in found)


# --- data sets


def test_keys_of_an_entry_that_nothing_reads_are_refused(raw, data):
    info = json.loads((data / "dataset_info.json").read_text())
    info["1_train"] |= {"num_samples": 3, "columns": {"words": "note"}, "nonsense": 1}
    (data / "dataset_info.json").write_text(json.dumps(info))
    found = {where.rpartition(".")[2]: text for where, text in problems(raw).items()}
    assert "`max_samples`" in found["num_samples"]
    assert set(found) == {"num_samples", "columns", "nonsense"}
    assert all("file_name" in text for text in found.values())


def test_a_line_of_records_ends_at_a_newline_only(raw, data):
    rewrite(data, "1_train", lambda r: {**r, "words": "one\u2028two\x85three"})
    check(EncoderHost(), raw)
    used = RecordSet("1_train", data, key_rules.specs(raw, []))
    assert {r["words"] for r in used.records()} == {"one\u2028two\x85three"}
    (data / "1_train.jsonl").write_bytes((data / "1_train.jsonl").read_bytes().replace(b"\n", b"\r\n"))
    assert used.samples() == 2


def test_a_modality_that_nobody_has_is_refused(raw, data):
    for name in ("1_train", "1_test", "2_train", "2_test"):
        rewrite(data, name, lambda r: {("Sound" if k == "sound" else k): v for k, v in r.items()})
    found = problems(raw)
    assert list(found) == ["encoders.sound"]
    assert "Did you mean 'Sound'?" in found["encoders.sound"]
    raw["cl"]["only"] = "one"  # another site may have it
    check(EncoderHost(), raw)


def test_a_modality_that_a_task_lacks_is_told(raw, data, caplog):
    rewrite(data, "2_train", lambda r: {k: v for k, v in r.items() if k != "sound"})
    with caplog.at_level("WARNING", logger="cl_plugins"):
        check(EncoderHost(), raw)
    assert [r.getMessage() for r in caplog.records if "modality" in r.getMessage()] == [
        "task 'two': no training record has the modality sound, which is masked there."
    ]


def with_motion(data, raw, header):
    """Tables of a signal for every record; ``header`` gives their first line."""

    def change(r):
        (data / f"{r['id']}.csv").write_text(header(r["id"]) + "1,2\n" * 32)
        return {**r, "motion": f"{r['id']}.csv"}

    for name in ("1_train", "1_test", "2_train", "2_test"):
        rewrite(data, name, change)
    raw["encoders"] = {"motion": MOTION, "words": ENCODERS["words"]}


def test_channels_in_another_order_are_refused(raw, data):
    with_motion(data, raw, lambda name: "gyro,acc\n" if name == "2_test_1" else "acc,gyro\n")
    (found,) = problems(raw).items()
    assert "2_test_1.csv" in found[0]
    assert "gyro, acc" in found[1]
    assert "1_train_0.csv" in found[1]


def test_a_classifier_keeps_the_names_of_its_channels(raw, data, tmp_path):
    with_motion(data, raw, lambda name: "acc,gyro\n")
    check(EncoderHost(), raw)
    made = key_rules.parse({**raw, "output_dir": str(tmp_path / "tasks")})
    session = Session(made, [("one", ["1_train"], dict(raw))])
    session.save_processor(tmp_path)
    (tmp_path / "other.csv").write_text("gyro,acc\n" + "1,2\n" * 32)
    for processor in (session.processor, CrossModalProcessor.from_pretrained(tmp_path, session.base.model.config)):
        processor([{"motion": str(data / "2_test_0.csv")}])
        with pytest.raises(DataError, match="gyro, acc"):
            processor([{"motion": str(tmp_path / "other.csv")}])


# --- content


def test_media_are_compared_by_content(raw, data, tmp_path):
    used = RecordSet("1_train", data, key_rules.specs(raw, []))
    before = used.record(lambda path: "")
    assert used.record(lambda path: "") == before
    file = data / "1_train_0.png"
    size = file.stat().st_size
    Image.new("RGB", (16, 16), (1, 40, 254)).save(file)
    file.write_bytes(file.read_bytes().ljust(size, b"\0")[:size])
    after = used.record(lambda path: "")
    assert {k: v for k, v in before["media"].items() if k != "sha256"} == {
        k: v for k, v in after["media"].items() if k != "sha256"
    }
    assert before["media"]["sha256"] != after["media"]["sha256"]


def identity(media, settings):
    base = {"sha256": "1", **settings}
    cl = {"stream": "s", "method": {"name": "m"}, "eval": {}}
    stream = {"name": "s", "tasks": [{"name": "one", "train": ["a"], "test": ["a"]}]}
    return {"recipe": {"cl": cl}, "stream": stream, "base": base, "data": {"a": {"files": {}, "media": media}}}


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    old = identity({"count": 2, "bytes": 9}, {})
    new = identity({"count": 2, "bytes": 9, "sha256": "5"}, {"settings": {"picture": {"size": 16}}})
    assert not record.changed(old, new)
    assert record.changed(old, identity({"count": 2, "bytes": 8, "sha256": "5"}, {}))
    assert record.changed(new, identity({"count": 2, "bytes": 9, "sha256": "6"}, {"settings": None}))
    assert record.changed(new, identity(new["data"]["a"]["media"], {"settings": {"picture": {"size": 8}}}))


def test_what_prepares_the_inputs_is_part_of_the_base(raw, tmp_path):
    def fingerprint(place):
        made = {**ENCODERS, "picture": {"kind": "vision", "model": str(place)}}
        args = key_rules.parse({**raw, "encoders": made, "output_dir": str(tmp_path / "tasks")})
        return EncoderHost().fingerprint(args)

    place = tmp_path / "vit"
    encoder("vit").save_pretrained(place)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(place)
    first = fingerprint(place)
    shutil.copytree(place, tmp_path / "moved" / "vit")
    assert fingerprint(tmp_path / "moved" / "vit") == first
    ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0, 0, 0]).save_pretrained(place)
    second = fingerprint(place)
    assert second["sha256"] == first["sha256"]
    assert second["settings"] != first["settings"]
    (place / "vocab.txt").write_text("a\nb\n")
    assert fingerprint(place)["settings"] != second["settings"]


# --- replay


class Buffer:
    """A folder that takes in what a task keeps."""

    def __init__(self, folder, records):
        self.path = folder
        self._records = [{**r, "images": [take_in(image, folder, None) for image in r["images"]]} for r in records]

    def entries(self):
        return [(None, each) for each in self._records]

    def medium(self, name):
        return Path(self.path) / name


@pytest.mark.parametrize("suffix", [".tga", ".png", ".tiff"])
def test_the_kind_of_a_modality_decides_how_it_is_stored(tmp_path, suffix):
    Image.new("RGB", (16, 16), (200, 10, 30)).save(tmp_path / f"a{suffix}")
    np.save(tmp_path / "a.npy", np.sin(np.arange(400)).astype(np.float32))
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    specs = {"picture": EncoderSpec("vision"), "sound": EncoderSpec("audio"), "motion": EncoderSpec("signal")}
    files = {"picture": f"a{suffix}", "sound": "a.npy", "motion": "a.csv"}
    full = {"id": "x", "label": "ant", **{k: str(tmp_path / v) for k, v in files.items()}}
    stored = RecordRows([full], ["set"], specs).record(0)
    (tmp_path / "buffer").mkdir()
    (found,) = from_buffer(Buffer(tmp_path / "buffer", json.loads(json.dumps([stored]))))
    assert found["motion"] == [[1, 2], [3, 4]]
    assert len(found["sound"]) == 400
    configs = {"picture": encoder("vit").config}
    read = CrossModalProcessor({"picture": EncoderSpec("vision")}, configs)
    assert (read([found])["picture.pixel_values"] == read([full])["picture.pixel_values"]).all()


def test_a_record_whose_id_is_null_has_none(data):
    name = "1_train"
    rewrite(data, name, lambda entry: {**entry, "id": None})
    specs = {key: EncoderSpec(**value) for key, value in ENCODERS.items()}
    found = RecordSet(name, data, specs).records()
    assert [entry["id"] for entry in found] == [f"{name}/{number}" for number in range(len(found))]
