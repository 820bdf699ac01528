"""Where two greedy answers part: how close the two best tokens are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


#: Two tokens tie if their logits differ by at most this share of the largest logit: rounding in fp32, not another answer.
TIE = 1e-4


def gaps(keys: dict[str, Any], numbers: Sequence[int], texts: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The gap between the two best logits at the first token at which two answers to one item differ.

    Every item is answered once more, alone and without padding, by the model's own ``generate``.

    Args:
        keys: The host's keys of our side; the data set is called ``bench``.
        numbers: Numbers of the items in the data set.
        texts: The two answers to each.

    Returns:
        Per item ``{"item", "host", "ours", "token", "gap", "relative_gap", "tie"}``; the gap is null if neither answer is
        found again.
    """
    import torch

    from cl_plugins.generation.generate import answering
    from cl_plugins.host.session import Session
    from cl_plugins.host.task_args import parse
    from cl_plugins.host.test_sets import load_test_items
    from cl_plugins.streams import Task

    args = parse({**keys, "dataset": "bench", "output_dir": str(Path(keys["output_dir"]) / "ties")})
    session = Session(args)
    task = Task(name="bench", test=("bench",), scorer="exact_match")
    items = load_test_items(task, args, session.template, session.tokenizer_module, None)
    model = session.base.model
    collator = session.collator(model, training=False)
    found = []
    with answering(model, session.tokenizer), torch.no_grad():
        for number, (theirs, own) in zip(numbers, texts, strict=True):
            inputs = {k: v for k, v in dict(collator([items[number].feature])).items() if k != "labels"}
            output = model.generate(
                **inputs, do_sample=False, max_new_tokens=24, eos_token_id=session.eos_token_ids(),
                pad_token_id=session.tokenizer.pad_token_id, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
            ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
            found.append(
                {"item": number, "host": theirs, "ours": own, **_first_gap(session, ids, output.logits, theirs, own)}
            )
    return found


def _first_gap(session: Any, ids: list[int], logits: Sequence[Any], theirs: str, own: str) -> dict[str, Any]:
    for position in range(len(ids)):
        written = session.tokenizer.decode(ids[: position + 1], skip_special_tokens=True)
        if theirs.startswith(written) and own.startswith(written) and position + 1 < len(ids):
            continue
        best = logits[position][0].float().topk(2).values
        gap = float(best[0] - best[1])
        relative = gap / float(logits[position].abs().max())
        return {"token": position, "gap": gap, "relative_gap": relative, "tie": relative <= TIE}
    return {"token": None, "gap": None, "relative_gap": None, "tie": False}
