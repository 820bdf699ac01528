"""`cl-plugins import base`: an original LLaVA checkpoint computes the same in the layout of Transformers."""

from __future__ import annotations

import json
import tempfile

import authors
import pytest
import torch

from cl_plugins.base.errors import DataError
from cl_plugins.cli import main
from cl_plugins.published.checkpoints.llava_base import convert_base


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return authors.make_tower(tmp_path_factory.mktemp("tower") / "clip")


def converted(tmp_path, tower, kind="llama", **more):
    source = authors.make_llava(tmp_path / "source", kind, **more)
    return source, convert_base(source, tower, tmp_path / "out")


def logits(folder, before, after, pixels):
    """Logits of the converted model in fp64, and its number of the picture's token."""
    from transformers import LlavaForConditionalGeneration

    model, loading = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    picture = model.config.image_token_index
    ids = torch.tensor([[*before, *[picture] * 4, *after]])
    with torch.no_grad():
        return model.double().eval()(input_ids=ids, pixel_values=pixels).logits, picture


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_it_computes_what_llavas_code_computes(tmp_path, tower, kind):
    _, about = converted(tmp_path, tower, kind)
    before, after = [1, 20, 31], [42, 53, 64, 75]
    pixels = authors.seen(authors.pictures(), tower).double()
    theirs = authors.their_logits(
        authors.make_language(kind).double(),
        authors.make_projector().double(),
        tower,
        torch.tensor([[*before, authors.PICTURE, *after]]),
        pixels,
    )
    ours, picture = logits(tmp_path / "out", before, after, pixels)
    vocabulary = theirs.shape[-1]
    assert ours.shape[-1] == vocabulary + 1 == about.rows[0]
    assert picture == vocabulary
    assert (ours[..., :vocabulary] - theirs).abs().max() <= 1e-9 * theirs.abs().max()
    assert torch.equal(ours[..., picture], ours[..., 0]), "the new row is that of the unknown token"
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    assert about.tower == "folder"


def test_pictures_are_padded_and_resized_as_in_llavas_code(tmp_path, tower):
    from transformers import AutoProcessor

    converted(tmp_path, tower)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    picture = authors.pictures(size=(40, 18))
    made = processor(text="USER: <image> what?", images=picture, return_tensors="pt")
    truth = authors.seen(picture, tower)
    assert made["pixel_values"].shape == truth.shape
    assert (made["pixel_values"] - truth).abs().max() <= 1e-6
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert made["input_ids"][0].tolist().count(config["image_token_index"]) == 4
    assert processor.tokenizer.pad_token == "<unk>"
    plain = authors.tokenizer()("what colour is this?").input_ids
    assert processor.tokenizer("what colour is this?").input_ids == plain


def sentencepiece_model(folder, size):
    """``tokenizer.model`` alone, as LLaMA's and Mistral's checkpoints have it; a vocabulary of ``size`` pieces."""
    import io

    import sentencepiece
    import tiny

    words, made = iter([" ".join(tiny.WORDS), tiny.SYSTEM, "<0x0A> abcdefghijklmnopqrstuvwxyz"] * 50), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=words, model_writer=made, vocab_size=size, model_type="bpe", byte_fallback=True, unk_id=0, bos_id=1,
        eos_id=2, pad_id=-1, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "tokenizer.model").write_bytes(made.getvalue())
    about = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "add_bos_token": True, "add_eos_token": False}))
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def test_a_tokenizer_of_sentencepiece(tmp_path, tower):
    from transformers import AutoTokenizer

    source = authors.make_llava(tmp_path / "source")
    truth = sentencepiece_model(source, 330)
    convert_base(source, tower, tmp_path / "out")
    made = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("what colour is this picture?", "USER: two squares, one answer. é"):
        assert made(text).input_ids == [1, *truth.encode(text)]
    assert made.convert_tokens_to_ids("<image>") == len(truth)
    assert (made.unk_token_id, made.bos_token_id, made.eos_token_id, made.pad_token_id) == (0, 1, 2, 0)


def test_without_padding_pictures_are_cropped(tmp_path, tower):
    from transformers import AutoProcessor

    converted(tmp_path, tower, image_aspect_ratio="square")
    picture = authors.pictures(size=(40, 18))
    made = AutoProcessor.from_pretrained(tmp_path / "out").image_processor(picture, return_tensors="pt")[
        "pixel_values"
    ]
    assert (made - authors.seen(picture, tower, pad=False)).abs().max() <= 1e-6


def with_own_tower(source, tower):
    """Give a checkpoint weights of a vision tower, as LLaVA saves them; the tower's class embedding differs."""
    from transformers import CLIPVisionModel

    state = CLIPVisionModel.from_pretrained(tower).state_dict()
    own = {f"model.vision_tower.vision_tower.vision_model.{name}": value.clone() for name, value in state.items()}
    own = {n: v + 0.5 if n.endswith("class_embedding") else v for n, v in own.items()}
    file = sorted(source.glob("*.bin"))[0]
    torch.save({**torch.load(file, weights_only=True), **own}, file)
    return own


@pytest.mark.parametrize(
    ("unfrozen", "asked", "used"), [(False, None, "folder"), (True, None, "checkpoint"), (True, "folder", "folder")]
)
def test_whose_weights_the_tower_gets(tmp_path, tower, unfrozen, asked, used):
    from safetensors.torch import load_file

    source = authors.make_llava(tmp_path / "source", shards=1, unfreeze_mm_vision_tower=unfrozen)
    own = with_own_tower(source, tower)
    about = convert_base(source, tower, tmp_path / "out", tower_weights=asked)
    assert about.tower == used
    assert bool(about.notes) == (used == "folder"), "it is said that they differ"
    name = "vision_tower.vision_model.embeddings.class_embedding"
    written = load_file(tmp_path / "out" / "model.safetensors")[name]
    theirs = own["model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"]
    assert torch.equal(written, theirs if used == "checkpoint" else theirs - 0.5) or used == "folder"
    assert torch.equal(written, theirs) == (used == "checkpoint")


def test_large_weights_are_written_in_several_files(tmp_path, tower, monkeypatch):
    from cl_plugins.published.checkpoints import llava_base

    monkeypatch.setattr(llava_base, "_SHARD", 100_000)
    source = authors.make_llava(tmp_path / "source")
    convert_base(source, tower, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    before, after = [1, 20], [42, 53]
    pixels = authors.seen(authors.pictures(), tower).double()
    ours, _ = logits(tmp_path / "out", before, after, pixels)
    language, projector = authors.make_language().double(), authors.make_projector().double()
    ids = torch.tensor([[*before, authors.PICTURE, *after]])
    theirs = authors.their_logits(language, projector, tower, ids, pixels)
    assert (ours[..., : theirs.shape[-1]] - theirs).abs().max() <= 1e-9 * theirs.abs().max()


def test_all_problems_of_the_configuration_at_once(tmp_path, tower):
    source = authors.make_llava(
        tmp_path / "source", model_type="llava_qwen", mm_projector_type="linear", image_aspect_ratio="anyres", mm_use_im_start_end=True,
    )  # fmt: skip
    with pytest.raises(DataError) as error:
        convert_base(source, tower, tmp_path / "out")
    places = {problem.where.rpartition(": ")[2] for problem in error.value.problems}
    assert places == {"model_type", "mm_projector_type", "image_aspect_ratio", "mm_use_im_start_end"}
    assert not (tmp_path / "out").exists()


def test_all_problems_of_the_weights_at_once(tmp_path, tower):
    source = authors.make_llava(tmp_path / "source", shards=1)
    file = source / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    del state["model.layers.1.mlp.up_proj.weight"]
    state["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)
    state["model.norm.weight"] = torch.full_like(state["model.norm.weight"], float("nan"))
    torch.save(state, file)
    with pytest.raises(DataError) as error:
        convert_base(source, tower, tmp_path / "out")
    told = str(error.value)
    assert len(error.value.problems) == 3
    for name, what in (("layers.1.mlp.up_proj", "missing"), ("layers.0.mlp.up_proj", "shape"), ("norm", "finite")):
        assert any(name in p.where and what in p.what for p in error.value.problems), told
    assert list(tmp_path.iterdir()) == [source], "nothing is left behind"


def test_an_unknown_tensor_is_refused(tmp_path, tower):
    source = authors.make_llava(tmp_path / "source", shards=1)
    file = source / "pytorch_model.bin"
    torch.save({**torch.load(file, weights_only=True), "model.image_newline": torch.zeros(4)}, file)
    with pytest.raises(DataError, match="image_newline"):
        convert_base(source, tower, tmp_path / "out")


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch harmed",)


def test_a_pickle_that_asks_for_code_is_refused(tmp_path, tower, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = authors.make_llava(tmp_path / "source", shards=1)
    file = source / "pytorch_model.bin"
    torch.save({**torch.load(file, weights_only=True), "model.evil": Evil()}, file)
    with pytest.raises(DataError, match="holds more than tensors") as error:
        convert_base(source, tower, tmp_path / "out")
    assert "system" in str(error.value)
    assert not (tmp_path / "harmed").exists()


def test_the_name_of_the_tower_in_the_checkpoint_is_not_used(tmp_path, tower):
    converted(tmp_path, tower)
    for path in (tmp_path / "out").glob("*.json"):
        assert "/somewhere/else" not in path.read_text()
        assert tempfile.gettempdir() not in path.read_text(), "no place of this machine"


def test_a_checkpoint_of_transformers_is_refused(llava, tower, tmp_path):
    with pytest.raises(DataError, match="layout of Transformers already"):
        convert_base(llava, tower, tmp_path / "out")


def test_the_command(tmp_path, tower, capsys):
    source = authors.make_llava(tmp_path / "source")
    words = ["import", "base", str(source), "--vision-tower", str(tower), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "weights of the folder" in told
    assert "SHA-256" in (tmp_path / "out" / "README.md").read_text()
    assert main(words) != 0, "nothing is replaced"
