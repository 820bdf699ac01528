from __future__ import annotations

import json

import pytest

from cl_plugins.evaluation.answers import read_answers
from cl_plugins.evaluation.items import Item, TaskScore, predictions_to_jsonl, read_predictions
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.thoughts import split_thought


GPT = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")


@pytest.mark.parametrize(
    ("text", "words", "thought", "answer"),
    [
        ("A", None, "", "A"),
        (" A\n", None, "", " A\n"),
        ("<think>\n\n</think>\n\nA", None, "", "A"),
        ("<think>\nbecause\n</think>\n\nA", ("<think>\n", "\n</think>\n\n"), "because", "A"),
        ("\n<think>one</think><think>two</think> A", None, "one\ntwo", "A"),
        ("because\n</think>\n\nA", None, "because", "A"),
        ("<think>\nbecause it is so long that", None, "because it is so long that", ""),
        ("◁think▷why◁/think▷A", ("◁think▷", "◁/think▷"), "why", "A"),
        ("<seed:think>why</seed:think>A", ("<seed:think>", "</seed:think>"), "why", "A"),
        (f"{GPT[0]}why{GPT[1]}A", GPT, "why", "A"),
        ("A < think", None, "", "A < think"),
        ("A", ("", ""), "", "A"),
    ],
)
def test_split_thought(text, words, thought, answer):
    assert split_thought(text, words) == (thought, answer)


def test_thoughts_and_cuts_stand_in_the_predictions_file(tmp_path):
    items = [
        Item("1", "?", "A", "A", thought="because", reference_thought="since"),
        Item("2", "?", "", "A", thought="because", cut=True),
        Item("3", "?", "A", "A"),
    ]
    score = TaskScore("exact_match@2", 0.0, 3, (0, 0), "wilson", (0.0,) * 3, cut=1, dropped=2)
    text = predictions_to_jsonl(items, score)
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    assert read_predictions(path) == items
    assert set(json.loads(text.splitlines()[2])) == {"id", "prompt", "prediction", "reference", "score"}
    assert TaskScore.from_dict(score.to_dict(per_item=True)) == score


TAG = "<think>\n\n</think>\n\n"


def test_the_predictions_of_the_host_for_a_thinking_template_are_joined_and_scored(tmp_path):
    answers, test = tmp_path / "generated_predictions.jsonl", tmp_path / "test.json"
    rows = [
        {"prompt": "Which?", "predict": p, "label": f"{TAG}{right}"} for p, right in ((f"{TAG}B", "B"), ("A", "C"))
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    test.write_text(json.dumps([{"instruction": "Which?", "input": "", "output": right} for right in "BC"]))
    for notes in (None, test):
        assert get_scorer("exact_match").score(read_answers(answers, notes)).items == (100, 0)
    whole = read_answers(answers, keep_thoughts=True)
    assert (whole[0].prediction, whole[0].reference) == (f"{TAG}B", f"{TAG}B")
