"""`cl-plugins import run`: experts of CoIN and MCITlib (MoELoRA, CL-MoE, HiDe-LLaVA, DISCO)."""

from __future__ import annotations

import authors
import pytest
import torch


EACH, COUNT, TOTAL = 2, 3, 6
ALPHA = 2 * TOTAL
SCALING = ALPHA / TOTAL


def experts(seed=10):
    return [authors.factors(EACH, seed + i) for i in range(COUNT)]


def save(folder, seed, projector, **more):
    return authors.save_experts(
        folder, experts(seed), authors.routers(COUNT, seed), ALPHA, authors.projector_state(projector), **more
    )


def ours(root, task, llava, scratch, after=None):
    with authors.answering(root, task, scratch, after) as model, torch.no_grad():
        return model(**authors.inputs(llava)).logits


def mixture(llava, seed, projector):
    model = authors.load(llava)
    terms = authors.mixture_terms(experts(seed), authors.routers(COUNT, seed), SCALING)
    with (
        authors.with_terms(model, terms),
        authors.with_projector(model, authors.projector_state(projector)),
        torch.no_grad(),
    ):
        return model(**authors.inputs(llava)).logits


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ({"name": "moelora", "experts": COUNT}, "MOE_LORA_CoIN"),
        ({"name": "clmoe", "experts": COUNT, "faithful": "peer"}, "MOE_LORA_CLMoE"),
    ],
)
def test_a_mixture_by_token(make, llava, tmp_path, method, kind):
    theirs = {"one": save(tmp_path / "a", 10, 50, kind=kind), "two": save(tmp_path / "b", 20, 51, kind=kind)}
    code, root = make(method, theirs, lora_rank=TOTAL, lora_alpha=ALPHA)
    assert code == 0
    assert authors.close(ours(root, "two", llava, tmp_path), mixture(llava, 20, 51))
    assert authors.close(ours(root, "one", llava, tmp_path, "one"), mixture(llava, 10, 50))


def test_experts_under_both_of_their_names(make, llava, tmp_path):
    """PEFT without a state dictionary saves ``loraA.0.weight`` and ``loraA.0.mlp.weight``, which are one tensor."""
    folder = save(tmp_path / "a", 10, 50)
    file = folder / "adapter_model.bin"
    state = torch.load(file, weights_only=True)
    state |= {name.replace(".weight", ".mlp.weight"): v for name, v in state.items() if ".lora_A.loraA." in name}
    torch.save(state, file)
    code, root = make(
        {"name": "moelora", "experts": COUNT}, {"one": folder}, ("one",), lora_rank=TOTAL, lora_alpha=ALPHA
    )
    assert code == 0
    assert authors.close(ours(root, "one", llava, tmp_path), mixture(llava, 10, 50))


@pytest.mark.parametrize(
    ("method", "keys", "said"),
    [
        ({"name": "moelora", "experts": 2}, {}, "Set `cl.method.experts: 3`"),
        ({"name": "moelora", "experts": 3}, {"lora_rank": 12, "lora_alpha": 24}, "Set `lora_rank: 6`"),
        ("seqlora", {}, "has several experts for each layer"),
        ({"name": "clmoe", "experts": 3}, {}, "keeps what it has measured"),
    ],
)
def test_a_recipe_that_does_not_fit(make, tmp_path, capsys, method, keys, said):
    folder = save(tmp_path / "a", 10, 50)
    code, root = make(method, {"one": folder}, ("one",), **{"lora_rank": TOTAL, "lora_alpha": ALPHA, **keys})
    assert code != 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert not root.exists()


# --- an expert for each task, weighted per question

TASKS = ("one", "two")
ASKED = "what colour is this picture?"
SELECTOR = {"kind": "anchors", "question_after": "USER:", "question_before": " ASSISTANT"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return authors.make_clip(tmp_path_factory.mktemp("models") / "clip")


def anchors(seed, kinds=("image", "text"), names=("{}_anchors.{}", "{}_anchors.{}")):
    """Anchors of ten tasks, as the authors' code has them, with counters."""
    generator = torch.Generator().manual_seed(seed)
    widths = {"image": 12, "text": 24}
    found = {}
    for kind, name in zip(kinds, names, strict=True):
        for i in range(10):
            found["base_model.model." + name.format(kind, i)] = torch.randn(1, widths[kind], generator=generator)
            found[f"base_model.model.{kind}_boundary.{i}"] = torch.ones(1)
    return found


def asked(llava):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(llava)
    picture = authors.pictures(size=(16, 16))
    made = processor(text=f"USER: <image>{ASKED} ASSISTANT:", images=picture, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask", "pixel_values")}


def similarities(folder, inputs, given, kinds, name):
    """Cosines of CLIP's features of the question with the anchors of both tasks."""
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        image = model.get_image_features(pixel_values=inputs["pixel_values"])
        text = model.text_model(
            **AutoTokenizer.from_pretrained(folder)(ASKED, return_tensors="pt", return_token_type_ids=False)
        )
    own = {"image": image if hasattr(image, "dim") else image.pooler_output, "text": text.pooler_output}
    found = []
    for i in range(len(TASKS)):
        cosines = [
            torch.cosine_similarity(own[kind], given["base_model.model." + name.format(kind, i)]).item()
            for kind in kinds
        ]
        found.append(sum(cosines) / len(cosines))
    return torch.tensor(found, dtype=torch.float64)


def product_of_sums(made, name):
    a, b = sum(each[name][0] for each in made), sum(each[name][1] for each in made)
    return authors.plain_term({name: (a, b)}, name, SCALING)


def weighted_sum(made, name, weights):
    def compute(x):
        return sum(
            w.to(x.dtype) * authors.plain_term(each, name, SCALING)(x) for w, each in zip(weights, made, strict=True)
        )

    return compute


@pytest.mark.parametrize("method", ["hide", "disco"])
def test_an_expert_for_each_task(make, llava, tmp_path, clip, method):
    hide = method == "hide"
    kinds = ("image", "text") if hide else ("text",)
    name = "{}_anchors.{}" if hide else "global_{}_feature.{}"
    given = anchors(5, ("image", "text"), (name, name))
    made = [authors.factors(EACH, 30), authors.factors(EACH, 31)]
    theirs = {}
    for i, task in enumerate(TASKS):
        trained = made[: i + 1] + [authors.factors(EACH, 90)] * (1 - i)  # the second expert is not trained yet
        whole = {**authors.projector_state(50 + i), **given}
        theirs[task] = authors.save_experts(
            tmp_path / task,
            trained,
            authors.routers(2, 1),
            SCALING * 2 * EACH,
            whole,
            kind="MOE_LORA_HiDe",
            cur_task=i,
        )
    features = ["clip_image", "clip_text_pooled"] if hide else ["clip_text_pooled"]
    selector = {**SELECTOR, "features": features, "clip": str(clip)}
    more = {"experts": 2, "faithful": "peer"}
    keys = {"lora_rank": EACH, "lora_alpha": int(SCALING * EACH)}
    code, root = make({"name": method, "selector": selector, **more}, theirs, **keys)
    assert code == 0
    inputs = asked(llava)
    weights = torch.softmax(similarities(clip, inputs, given, kinds, name) / (0.1 if hide else 0.05), dim=0)
    model = authors.load(llava)
    last = f"layers.{authors.LAYERS - 1}."
    terms = {
        layer: weighted_sum(made, layer, weights)
        if layer.startswith(last) or not hide
        else product_of_sums(made, layer)
        for layer in authors.MODULES
    }
    with authors.with_terms(model, terms), authors.with_projector(model, authors.projector_state(51)), torch.no_grad():
        truth = model(**inputs).logits
    with authors.answering(root, "two", tmp_path) as found, torch.no_grad():
        assert authors.close(found(**inputs).logits, truth)
    with authors.answering(root, "one", tmp_path, "one") as found, torch.no_grad():
        first = found(**inputs).logits
    assert not authors.close(first, truth)


def test_the_last_checkpoint_has_the_experts_of_all_tasks(make, llava, tmp_path, clip, capsys):
    given = {**authors.projector_state(51), **anchors(5)}
    made = [authors.factors(EACH, 30), authors.factors(EACH, 31)]
    folder = authors.save_experts(tmp_path / "two", made, authors.routers(2, 1), SCALING * 2 * EACH, given)
    selector = {**SELECTOR, "features": ["clip_image", "clip_text_pooled"], "clip": str(clip)}
    method = {"name": "hide", "selector": selector, "experts": 2, "faithful": "peer"}
    keys = {"lora_rank": EACH, "lora_alpha": int(SCALING * EACH)}
    code, root = make(method, {"two": folder}, **keys)
    assert code == 0
    assert "the models after one" in capsys.readouterr().out
    inputs = asked(llava)
    with authors.answering(root, "two", tmp_path) as found, torch.no_grad():
        assert found(**inputs).logits.isfinite().all()


def test_anchors_of_other_features_are_refused(make, tmp_path, capsys):
    given = {**authors.projector_state(51), **anchors(5)}
    made = [authors.factors(EACH, 30), authors.factors(EACH, 31)]
    folder = authors.save_experts(tmp_path / "two", made, authors.routers(2, 1), SCALING * 2 * EACH, given)
    code, _ = make("hide", {"two": folder}, lora_rank=EACH, lora_alpha=int(SCALING * EACH))
    assert code != 0
    assert "its anchors are of clip_image, clip_text_pooled" in " ".join(capsys.readouterr().err.split())
