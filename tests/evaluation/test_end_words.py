"""Words that end an answer in files of LLaMA-Factory are no part of the answer."""

from __future__ import annotations

import json

import pytest

from cl_plugins.evaluation.answers import read_answers
from cl_plugins.evaluation.end_words import without_end_words
from cl_plugins.evaluation.scorers import get_scorer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B<|im_end|>\n", "B"),
        ("B</s>", "B"),
        ("two words <|eot_id|><|eot_id|>", "two words"),
        ("<|im_end|>", ""),
        (" B\n", " B\n"),
        ("a </s> b", "a </s> b"),
        ("x <b>bold</b>", "x <b>bold</b>"),
    ],
)
def test_only_the_end_is_removed(text, answer):
    assert without_end_words(text) == answer


def test_the_end_words_of_every_template_are_known():
    from llamafactory.data.template import TEMPLATES

    ends = set()
    for template in TEMPLATES.values():
        slots = [slot for slot in template.format_assistant.slots if isinstance(slot, str)]
        ends.add(slots[-1].split("{{content}}")[-1].strip())
        ends |= {word for word in template.stop_words if word.startswith("<|") or word.endswith("|>")}
    left = {end for end in ends if end and without_end_words(f"B{end}\n") != "B"}
    assert left <= {"</answer>", "<|im_start|>"}, left


def test_an_end_word_in_the_labels_alone_costs_no_point(tmp_path):
    answers, test = tmp_path / "generated_predictions.jsonl", tmp_path / "test.json"
    pairs = [("B", "B<|im_end|>\n"), ("A", "C<|im_end|>\n"), ("C<|im_end|>", "C")]
    answers.write_text("".join(json.dumps({"prompt": "?", "predict": p, "label": r}) + "\n" for p, r in pairs))
    test.write_text(json.dumps([{"instruction": "?", "input": "", "output": right} for right in "BCC"]))
    for items in (read_answers(answers), read_answers(answers, test)):
        assert [(item.prediction, item.reference) for item in items] == [("B", "B"), ("A", "C"), ("C", "C")]
        assert get_scorer("exact_match").score(items).score == pytest.approx(200 / 3)
    assert read_answers(answers, keep_thoughts=True)[0].reference == "B<|im_end|>\n"
