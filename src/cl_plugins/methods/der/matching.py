"""Logits of answer tokens: stored in little room, and compared with those of the model in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from torch import Tensor


ENTRIES = 64  # stored logits per token, and the divisor of the squared distance
_SMALLEST = -65504.0  # of fp16


@dataclass(frozen=True)
class StoredLogits:
    """Logits of some answer tokens as they were when stored.

    Attributes:
        values: (tokens, entries), fp32.
        logsumexp: (tokens,), fp32, over the whole vocabulary.
        indices: (tokens, entries) token ids of the entries, int64; None if all of the vocabulary was stored.
    """

    values: Tensor
    logsumexp: Tensor
    indices: Tensor | None


def logit_matching(
    logits: Tensor,
    values: Tensor,
    *,
    indices: Tensor | None = None,
    logsumexp: Tensor | None = None,
    divisor: float | None = None,
) -> Tensor:
    """Squared distance between logits and stored ones (Buzzega et al., DER, NeurIPS 2020, equation 4), per answer token.

    ``1/n sum_t [ sum_j (z_tj - v_tj)^2 + (logsumexp(z_t) - L_t)^2 ] / divisor`` with j over the stored entries. The
    second term is there if ``logsumexp`` is: it holds the entries that were not stored down. The published form, a mean
    over the vocabulary, is ``divisor=logits.shape[-1]`` with all entries stored; with 32,000 of them, of which a few
    count, it is close to nothing.

    Args:
        logits: (n, vocabulary) of the model in training, at the positions that predict the n answer tokens.
        values: (n, k) stored logits; NaN where fewer were stored.
        indices: (n, k) token ids of the entries; None if ``values`` covers the vocabulary in its order.
        logsumexp: (n,) stored; None leaves the second term out.
        divisor: Default k.

    Returns:
        A scalar in fp32 (fp64 for fp64 logits); 0 for n = 0.
    """
    import torch

    rows = logits.to(torch.promote_types(logits.dtype, torch.float32))
    values = values.detach().to(rows)
    own = rows[:, : values.shape[1]] if indices is None else rows.gather(1, indices.to(rows.device))
    distance = torch.where(values.isnan(), 0.0, own - values).square().sum()
    if logsumexp is not None:
        distance = distance + (rows.logsumexp(dim=-1) - logsumexp.detach().to(rows)).square().sum()
    return distance / ((divisor or values.shape[1]) * max(rows.shape[0], 1))


def pack(logits: Tensor, entries: int | None = ENTRIES) -> dict[str, Tensor]:
    """Logits of one sample's answer tokens in little room, on the CPU.

    Kept as differences from the logsumexp, so that fp16 is finest where the probabilities are large (an entry of
    probability 0.5 is exact to 0.0003, one of 1e-6 to 0.004).

    Args:
        logits: (tokens, vocabulary).
        entries: How many of the largest to keep per token; None for all.

    Returns:
        ``logprobs`` (tokens, entries) fp16, ``logsumexp`` (tokens,) fp32, and ``indices`` (tokens, entries) int32
        unless all were kept: 6 bytes per entry, 400 bytes per token at 64 entries instead of 128,000.
    """
    import torch

    rows = logits.detach().float()
    total = rows.logsumexp(dim=-1)
    found = {"logsumexp": total.cpu().contiguous()}
    if entries is not None:
        rows, indices = rows.topk(min(entries, rows.shape[1]), dim=-1)
        found["indices"] = indices.to(torch.int32).cpu().contiguous()
    found["logprobs"] = (rows - total[:, None]).clamp_min(_SMALLEST).half().cpu().contiguous()
    return found


def unpack(stored: list[dict[str, Tensor]]) -> StoredLogits:
    """The stored logits of several samples, one below the other.

    Args:
        stored: One mapping per sample, as `pack` gave it.
    """
    import torch

    total = torch.cat([entry["logsumexp"] for entry in stored])
    width = max(entry["logprobs"].shape[1] for entry in stored)  # a head that grows had fewer classes earlier

    def wide(what: str, filler: float) -> Tensor:
        parts = [torch.nn.functional.pad(e[what], (0, width - e[what].shape[1]), value=filler) for e in stored]
        return torch.cat(parts)

    values = wide("logprobs", float("nan")).float() + total[:, None]
    whole = any("indices" not in entry for entry in stored)
    return StoredLogits(values, total, None if whole else wide("indices", 0).long())
