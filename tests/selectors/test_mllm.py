"""The selector `mllm`: its instruction, its samples, and its choice against the base with the router merged into it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from cl_plugins.adapters.places import logits_at
from cl_plugins.base.errors import CompatibilityError, DataError
from cl_plugins.callbacks.learner import PlainBase
from cl_plugins.contract.low_rank import LowRankUpdate
from cl_plugins.selectors import make_selector
from cl_plugins.selectors.mllm import continued, instruction_ids
from cl_plugins.selectors.router import Learned, put_on
from cl_plugins.streams import Task


PROMPT = {"instruction": torch.tensor([70, 71]), "letters": torch.tensor([90, 91, 92])}


@pytest.fixture(scope="module")
def encode():
    tokenizer = tiny.build_tokenizer()
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def experts(letters):
    return [{"letter": letter, "description": f"expert {letter}"} for letter in letters]


def test_the_instruction_ends_where_the_letters_begin(encode):
    whole, letters = instruction_ids(encode, experts("ABC"))
    assert len(set(letters)) == 3
    for letter, number in zip("ABC", letters, strict=True):
        assert encode(f"Letter: {letter}")[-1] == number
    one, first = instruction_ids(encode, experts("A"))
    assert first == letters[:1]
    assert one[-5:] == whole[-5:]
    assert len(one) < len(whole)


def test_a_letter_of_two_tokens_is_refused(encode):
    with pytest.raises(CompatibilityError, match=r"splits Z.*other letters"):
        instruction_ids(encode, experts("AZ"))


@pytest.mark.parametrize(("given", "free"), [({}, "AB"), ({"two": "A"}, "BA"), ({"one": "C"}, "CA")])
def test_letters_go_to_the_tasks_in_order_but_for_those_that_are_given(given, free):
    selector = make_selector({"kind": "mllm", "letters": given, "descriptions": {"two": "the second"}})
    known = []
    for name in ("one", "two"):
        known.append(selector.expert(SimpleNamespace(task=Task(name=name, title=f"Task {name}")), known))
    assert "".join(expert["letter"] for expert in known) == free
    assert [expert["description"] for expert in known] == ["Task one", "the second"]
    with pytest.raises(CompatibilityError, match="taken by earlier tasks"):
        make_selector({"kind": "mllm", "letters": {"new": free[0]}}).expert(
            SimpleNamespace(task=Task(name="new")), known
        )


def test_a_sample_of_the_router_is_the_prompt_the_instruction_and_the_letter():
    selector = make_selector({"kind": "mllm"})
    sample = {"input_ids": [5, 6, 7, 8], "attention_mask": [1] * 4, "labels": [-100, -100, 7, 8], "images": ["a"]}
    assert selector.sample(PROMPT, 1, sample) == {
        "input_ids": [5, 6, 70, 71, 91], "attention_mask": [1] * 5, "labels": [-100] * 4 + [91], "images": ["a"],
    }  # fmt: skip
    masked = {"input_ids": torch.tensor([5, 6, 7]), "completion_mask": [0, 0, 1], "token_type_ids": [0, 0, 0]}
    found = selector.sample(PROMPT, 0, masked)
    assert {name: value.tolist() for name, value in found.items()} == {
        "input_ids": [5, 6, 70, 71, 90], "attention_mask": [1] * 5, "completion_mask": [0, 0, 0, 0, 1],
    }  # fmt: skip
    with pytest.raises(DataError, match="no prompt"):
        selector.sample(PROMPT, 0, {"input_ids": [5], "labels": [5]})
    with pytest.raises(DataError, match="Tokenise"):
        selector.sample(PROMPT, 0, {"messages": []})


def test_prompts_are_continued_behind_their_last_token():
    ids = torch.tensor([[0, 0, 5, 6], [9, 8, 7, 0]])
    new, attended, last = continued(ids, torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]).bool(), PROMPT["instruction"])
    assert new.tolist() == [[5, 6, 70, 71, 70], [9, 8, 7, 70, 71]]
    assert attended.tolist() == [[True] * 4 + [False], [True] * 5]
    assert last.tolist() == [3, 4]


def random_update(model, names, seed):
    generator = torch.Generator().manual_seed(seed)
    a = {n: torch.randn(3, model.get_submodule(n).in_features, generator=generator) * 0.2 for n in names}
    b = {n: torch.randn(model.get_submodule(n).out_features, 3, generator=generator) * 0.2 for n in names}
    return LowRankUpdate(a, b, 0.5)


@pytest.mark.parametrize("cumulative", [False, True])
def test_the_choice_is_that_of_the_base_with_the_router_merged_into_it(llama, cumulative, monkeypatch):
    plain = AutoModelForCausalLM.from_pretrained(llama).eval()
    names = [n for n, m in plain.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    updates = [random_update(plain, names, seed) for seed in range(4)]
    base = PlainBase(AutoModelForCausalLM.from_pretrained(llama))
    selector = make_selector({"kind": "mllm"})
    seen = []
    of_rows = selector.of_rows
    monkeypatch.setattr(selector, "of_rows", lambda *given: seen.append(of_rows(*given)) or seen[-1])
    tasks = [Learned(name, update) for name, update in zip(("one", "two", "three"), updates, strict=False)]
    model = put_on(base, tasks, selector, dict(PROMPT), cumulative=cumulative, router=updates[3]).eval()

    rows = [[11, 12, 13], [14, 15, 16, 17, 18], [19]]
    length = max(map(len, rows))
    ids = torch.tensor([[3] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        given = model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits[:, -1]

    def merged(chosen):
        with torch.no_grad():
            copy = AutoModelForCausalLM.from_pretrained(llama).eval()
            for update in chosen:
                for name in names:
                    copy.get_submodule(name).weight += update.scaling * update.b[name] @ update.a[name]
        return copy

    router = merged([updates[3]])
    for number, row in enumerate(rows):
        with torch.no_grad():
            letters = router(torch.tensor([row + PROMPT["instruction"].tolist()])).logits[0, -1][PROMPT["letters"]]
            assert (letters - seen[0][number]).abs().max() < 1e-5
            task = int(letters.argmax())
            answer = merged(updates[: task + 1] if cumulative else [updates[task]])(torch.tensor([row])).logits[0, -1]
        assert (answer - given[number]).abs().max() < 1e-4
    assert len(seen) == 1
    assert seen[0].argmax(dim=1).unique().numel() > 1


def test_logits_at_are_those_of_the_whole_pass(llama):
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    ids = torch.randint(10, 60, (4, 7), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([6, 2, 2, 4])
    with torch.no_grad():
        whole = model(ids).logits[torch.arange(4), at]
        assert torch.equal(logits_at(model, {"input_ids": ids}, at), whole)
