"""The classifier: a new adapter changes nothing, missing modalities are masked, the order of modalities has no effect."""

from __future__ import annotations

import pytest
import torch
from tiny_encoders import batch_of, classifier, encoder
from torch.nn.functional import gelu, layer_norm

from cl_plugins.base.errors import CompatibilityError
from cl_plugins.crossmodal import losses
from cl_plugins.crossmodal.experts import Adapter, Stream
from cl_plugins.crossmodal.model import CrossModalClassifier


NAMES = ("bert", "signal", "vit")
FORMS = [
    {"adapters": "multiplicative"},
    {"adapters": "additive"},
    {"adapters": "multiplicative", "gate": "per_modality"},
]


def finished(model, batch):
    """What the encoders give at the end, by modality."""
    found, handles = {}, []
    for name in model.config.modalities:
        projection = model.projections[name]
        handles.append(projection.register_forward_pre_hook(lambda m, args, n=name: found.update({n: args[0]})))
    model(**batch)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("names", [("bert", "vit"), NAMES])
def test_new_adapters_leave_the_encoders_outputs_bit_for_bit(form, names):
    new, without = classifier(names, stir=False, **form), classifier(names, stir=False, adapters="none")
    batch = batch_of(names)
    expected, found = finished(without, batch), finished(new, batch)
    assert all(torch.equal(expected[name], found[name]) for name in names)
    stirred = finished(classifier(names, **form), batch)
    assert not any(torch.equal(expected[name], stirred[name]) for name in names)


def naive_adapter(adapter, hidden, present):
    """C1 and C2 as loops over rows, experts and modalities."""
    names, out = sorted(hidden), {k: h.clone() for k, h in hidden.items()}
    for row in range(len(hidden[names[0]])):
        means = {k: hidden[k][row].mean(0) * present[k][row] for k in names}
        for k in names:
            weights = adapter.gate.weights["all" if "all" in adapter.gate.weights else k]
            scores = sum(means[j] @ weights[j] for j in names)
            best = scores.argsort(descending=True)[: adapter.top]
            total = 0
            for gate, number in zip(scores[best].softmax(0), best, strict=True):
                expert = adapter.experts[int(number)]
                u = {j: gelu(layer_norm(hidden[j][row], hidden[j].shape[-1:]) @ expert.down[j]) for j in names}
                others = [u[j].mean(0) for j in names if j != k and present[j][row]]
                c = sum(others) / len(others) if others else torch.zeros_like(u[k][0])
                total = total + gate * torch.tanh((u[k] * c) @ expert.up[k])
            out[k][row] = hidden[k][row] * (1 + total)
    return out


@pytest.mark.parametrize("per_modality", [False, True])
@pytest.mark.parametrize("count", [2, 3])
def test_the_multiplicative_adapter_is_the_formula(per_modality, count):
    torch.manual_seed(0)
    widths = dict(list({"a": 5, "b": 4, "c": 3}.items())[:count])
    adapter = Adapter(widths, experts=5, top=2, bottleneck=3, per_modality=per_modality).double()
    for name, parameter in adapter.named_parameters():
        if ".up." in name:
            torch.nn.init.normal_(parameter)
    hidden = {k: torch.randn(4, 6, w, dtype=torch.double) for k, w in widths.items()}
    present = {k: torch.ones(4, dtype=torch.bool) for k in widths}
    present["b"][1] = False
    streams = {k: Stream(h, torch.ones(4, 6, dtype=torch.bool), present[k]) for k, h in hidden.items()}
    found, chosen = adapter(streams)
    expected = naive_adapter(adapter, hidden, present)
    assert all((found[k] - expected[k]).abs().max() < 1e-9 for k in widths)
    assert chosen.shape == (4, count if per_modality else 1, 2)


def test_the_additive_adapter_is_cross_attention():
    torch.manual_seed(0)
    adapter = Adapter({"a": 5, "b": 4}, experts=3, top=1, bottleneck=2, additive=True).double()
    for expert in adapter.experts:
        torch.nn.init.normal_(expert.up["a"])
    hidden = {"a": torch.randn(2, 3, 5, dtype=torch.double), "b": torch.randn(2, 6, 4, dtype=torch.double)}
    everyone = torch.ones(2, dtype=torch.bool)
    streams = {k: Stream(h, torch.ones(h.shape[:2], dtype=torch.bool), everyone) for k, h in hidden.items()}
    found, chosen = adapter(streams)
    for row in range(2):
        expert = adapter.experts[int(chosen[row, 0, 0])]
        a, b = (layer_norm(hidden[k][row], hidden[k].shape[-1:]) for k in "ab")
        m = ((a @ expert.down["a"]) @ (b @ expert.keys["b"]).T * 2**-0.5).softmax(-1)
        expected = hidden["a"][row] + m @ (b @ expert.values["b"]) @ expert.up["a"]
        assert (found["a"][row] - expected).abs().max() < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_modality_is_masked_and_not_guessed(form):
    model, batch = classifier(NAMES, **form), batch_of(NAMES)
    present = torch.ones(3, 3, dtype=torch.bool)
    present[0, NAMES.index("vit")] = False
    changed = {**batch, "vit.pixel_values": batch["vit.pixel_values"].clone()}
    changed["vit.pixel_values"][0] = 3.0
    first, second = model(**batch, present=present), model(**changed, present=present)
    assert torch.equal(first.logits[0], second.logits[0])
    assert not first.parts[0, 2].any()
    assert not torch.allclose(first.logits[0], model(**batch).logits[0])
    assert torch.allclose(first.logits[1:], model(**batch).logits[1:], atol=1e-6)


def test_a_sample_of_one_modality_is_that_encoder_alone():
    names = ("bert", "vit")
    model, plain = classifier(names), classifier(names, adapters="none")
    present = torch.tensor([[True, False]] * 3)
    batch = batch_of(names)
    expected = finished(plain, batch)["bert"]
    assert torch.equal(finished(model, {**batch, "present": present})["bert"], expected)


@pytest.mark.parametrize("form", FORMS)
def test_the_order_of_modalities_has_no_effect(form):
    batch = batch_of(NAMES)
    one, two = classifier(NAMES, **form), classifier(NAMES, **form)
    encoders = {name: one.encoders[name].encoder for name in reversed(NAMES)}
    options = {
        k: getattr(one.config, k) for k in ("blocks", "experts", "bottleneck", "projection", "adapters", "gate")
    }
    turned = CrossModalClassifier.from_encoders(encoders, labels=["a", "b"], **options)
    turned.load_state_dict(one.state_dict())
    assert torch.equal(turned(**dict(reversed(batch.items()))).logits, one(**batch).logits)
    assert torch.equal(two(**batch).logits, one(**batch).logits)


def whole_loss(model, batch, turn):
    """All terms of the method's loss, of rows some of which lack a modality."""
    names = model.config.modalities
    lacking = {turn.get("a", "a"): 1, turn.get("b", "b"): 2}  # row 1 lacks a, row 2 lacks b
    present = torch.tensor([[lacking.get(name) != row for name in names] for row in range(5)])
    found = model(labels=torch.tensor([0, 1, 1, 0, 1]), present=present, **batch)
    before = torch.randn(5, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    terms = [
        found.loss,
        losses.alignment(found.parts, found.joint, found.present),
        losses.alignment(found.parts, found.joint, found.present, kind="cosine"),
        losses.contrastive(found.parts, found.present),
        losses.preservation(found.joint, before),
        losses.distillation(found.logits, before[:, :2]),
    ]
    return torch.stack(terms).detach()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("turn", [{"a": "b", "b": "a"}, {"a": "c", "b": "a", "c": "b"}])
def test_other_names_of_modalities_only_permute_the_parameters(form, turn):
    """With the names a, b, c and c, a, b for the same encoders: every loss is that of permuted parameters."""
    letters = sorted(turn)
    of = dict(zip(letters, ("vit", "bert", "signal"), strict=False))
    options = {"labels": ["x", "y"], "blocks": 2, "experts": 3, "bottleneck": 4, "projection": 6, **form}
    torch.manual_seed(1)
    one = CrossModalClassifier.from_encoders({k: encoder(n) for k, n in of.items()}, **options).double()
    for parameter in one.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    two = CrossModalClassifier.from_encoders({turn[k]: encoder(n) for k, n in of.items()}, **options).double()
    state = {}
    for key, value in one.state_dict().items():
        parts = [turn.get(part, part) for part in key.split(".")]
        if key == "fusion.first.weight":  # its columns follow the sorted names
            blocks = dict(zip(letters, value.split(6, dim=1), strict=True))
            back = {new: old for old, new in turn.items()}
            value = torch.cat([blocks[back[name]] for name in letters], dim=1)
        state[".".join(parts)] = value
    two.load_state_dict(state)
    batch = batch_of(of.values(), rows=5, double=True)
    at = {n: k for k, n in of.items()}
    first = {f"{at[k.partition('.')[0]]}.{k.partition('.')[2]}": v for k, v in batch.items()}
    second = {f"{turn[at[k.partition('.')[0]]]}.{k.partition('.')[2]}": v for k, v in batch.items()}
    one_loss, two_loss = whole_loss(one, first, {}), whole_loss(two, second, turn)
    assert (one_loss - two_loss).abs().max() < 1e-9
    assert (one_loss > 0).all()
    mixed = whole_loss(two, {name: second[name] for name in second}, {})  # other rows lack other modalities
    assert (one_loss - mixed).abs().max() > 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("names", [("bert", "vit"), NAMES])
def test_encoders_get_no_gradient_and_every_trained_part_gets_one(form, names):
    model = classifier(names, **form)
    model(labels=torch.tensor([0, 1, 0]), **batch_of(names)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("encoders."), name
    assert set(model.trained_names()) == {n for n, p in model.named_parameters() if p.requires_grad}


def test_a_head_that_grows_keeps_its_classes():
    model, batch = classifier(NAMES), batch_of(NAMES)
    before = model(**batch).logits
    model.add_labels(["c", "d"])
    after = model(**batch).logits
    assert torch.allclose(after[:, :2], before, atol=1e-6)
    assert not after[:, 2:].any()
    assert model.config.labels == ["a", "b", "c", "d"]
    with pytest.raises(CompatibilityError, match="contain 'a' already"):
        model.add_labels(["a"])


def test_a_saved_classifier_is_the_same(tmp_path):
    model, batch = classifier(NAMES, gate="per_modality"), batch_of(NAMES)
    model.save_pretrained(tmp_path)
    loaded = CrossModalClassifier.from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.allclose(loaded(**batch).logits, model(**batch).logits, atol=1e-5)
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == set(model.trained_names())


def test_inputs_that_are_missing_are_named():
    with pytest.raises(CompatibilityError, match=r"modality 'vit'.*not among the inputs"):
        classifier(NAMES)(**batch_of(("bert", "signal")))
    with pytest.raises(CompatibilityError, match="adapters need two"):
        classifier(("vit",))
    assert classifier(("vit",), adapters="none")(**batch_of(("vit",))).logits.shape == (3, 2)
