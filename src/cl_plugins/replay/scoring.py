"""What the trained model says about samples: answer losses and features, and the logits of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..adapters.modes import looking
from ..adapters.rows import answers_of
from ..base.errors import CompatibilityError, Problem


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from ..contract.task import TaskData


CHUNK = 8  # samples per forward; fixed, so that no number depends on how many processes share the work


def answer_tokens(batch: Mapping[str, Any]) -> Tensor:
    """(rows, length), bool: tokens with a label, without padding, which has labels under ``ignore_pad_token_for_loss: false``.

    Args:
        batch: From `TaskData.batches`.
    """
    labels, mask = batch["labels"], batch.get("attention_mask")
    wanted: Tensor = labels != -100
    return wanted & mask.bool() if mask is not None and mask.shape == labels.shape else wanted


def answer_logits(model: Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, list[int]]:
    """Forward a batch and take the logits that predict answer tokens.

    Args:
        model: The model, not wrapped.
        batch: From `TaskData.batches`.

    Returns:
        Logits (tokens, vocabulary) in fp32 with gradient, token ids (tokens,), and the number of tokens of each sample.
    """
    labels, wanted = batch["labels"][:, 1:], answer_tokens(batch)[:, 1:]
    with answers_of(model, batch):
        logits: Tensor = model(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, : labels.shape[1]]
    return logits[wanted].float(), labels[wanted], wanted.sum(dim=1).tolist()


def scores(
    model: Module,
    data: TaskData,
    indices: Sequence[int],
    *,
    features: bool,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
) -> list[Any]:
    """Losses or features of samples, shared among the processes.

    Args:
        model: The trained model.
        data: The training samples.
        indices: Which of them.
        features: Features instead of losses.
        rank: Number of this process.
        world_size: Number of processes.
        gather: Gives the values of all processes to all.

    Returns:
        Per sample the mean loss of its answer tokens (float), or its feature (list of floats): the input of the output
        layer at the token that predicts the answer's first one.
    """
    chunks = [list(indices[i : i + CHUNK]) for i in range(0, len(indices), CHUNK)]
    mine: dict[int, list[Any]] = {}
    with looking(model):
        for number in range(rank, len(chunks), world_size):
            batch = next(iter(data.batches(chunks[number], len(chunks[number]))))
            mine[number] = _features(model, batch) if features else _losses(model, batch)
    found: dict[int, list[Any]] = {}
    for part in gather(mine):
        found.update(part)
    return [value for number in range(len(chunks)) for value in found[number]]


def _losses(model: Module, batch: Mapping[str, Any]) -> list[float]:
    from torch.nn.functional import cross_entropy

    logits, targets, counts = answer_logits(model, batch)
    return [float(part.mean()) for part in cross_entropy(logits, targets, reduction="none").split(counts)]


def _features(model: Any, batch: Mapping[str, Any]) -> list[list[float]]:
    head = model.get_output_embeddings()
    if head is None:
        what = "needs a model that names its output layer (get_output_embeddings), and this one does not."
        raise CompatibilityError(Problem("cl.replay.selection", what, "Use `selection: random`, or one by loss."))
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        with answers_of(model, batch):
            model(**{k: v for k, v in batch.items() if k != "labels"})
    finally:
        handle.remove()
    first = answer_tokens(batch).int().argmax(dim=1) - 1
    hidden = seen[-1]
    return [hidden[i, int(position)].float().tolist() for i, position in enumerate(first.clamp_min(0))]
