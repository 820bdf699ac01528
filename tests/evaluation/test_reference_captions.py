"""MCITlib's caption score beside the evaluation that it is made from: pycocoevalcap's own `COCOEvalCap`."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from cl_plugins.evaluation.items import Item
from cl_plugins.evaluation.scorers import get_scorer
from cl_plugins.evaluation.scorers.reference.captions import METRICS


pytestmark = [
    pytest.mark.slow,  # METEOR alone reads its paraphrases for ten seconds and more, each time that it starts
    pytest.mark.skipif(shutil.which("java") is None, reason="METEOR and the tokeniser need Java"),
]

CAPTIONS = [
    ("a dog runs on the grass", ["A dog runs on grass.", "The brown dog is running; it's fast", "a dog"]),
    ("two men; talking\nloudly", ["Two men are talking.", "men in a room"]),
    ("", ["A red car."]),
]


class Nothing:
    """In SPICE's place: it is no part of the mean, and would download its models."""

    def method(self):
        return "SPICE"

    def compute_score(self, gts, res):
        return 0.0, [0.0] * len(gts)


def test_the_seven_metrics_are_those_of_the_peers_evaluation(monkeypatch, capfd):
    peer = pytest.importorskip("pycocoevalcap.eval")
    monkeypatch.setattr(peer, "Spice", Nothing)
    numbers = range(1, len(CAPTIONS) + 1)
    references = {n: [{"caption": text} for text in texts] for n, (_, texts) in zip(numbers, CAPTIONS, strict=True)}
    answers = {n: [{"caption": text}] for n, (text, _) in zip(numbers, CAPTIONS, strict=True)}
    whole = SimpleNamespace(getImgIds=lambda: list(numbers), imgToAnns=references)
    evaluation = peer.COCOEvalCap(whole, SimpleNamespace(imgToAnns=answers))
    evaluation.evaluate()
    capfd.readouterr()

    items = [Item(str(n), "", text, texts[0], None, {"answers": texts}) for n, (text, texts) in enumerate(CAPTIONS)]
    score = get_scorer("peer:ucit:flickr30k").score(items)

    assert capfd.readouterr().out == "", "standard output belongs to --format json"
    expected = {name: 100 * float(evaluation.eval[name]) for name in METRICS}
    metrics = score.extra["metrics"]
    assert {name: metrics[name] for name in METRICS} == pytest.approx(expected, abs=1e-9)
    assert metrics["Bleu_1"] > metrics["Bleu_4"] > 0
    assert min(metrics["METEOR"], metrics["CIDEr"]) > 0
    assert score.score == metrics["average"] == pytest.approx(sum(expected.values()) / 7)
    assert list(score.items) == pytest.approx([100 * evaluation.imgToEval[n]["ROUGE_L"] for n in numbers])
    assert score.items[-1] == 0
