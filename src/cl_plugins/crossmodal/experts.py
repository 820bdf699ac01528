"""Mixture-of-experts adapters through which the modalities see each other (reconstructions C1 and C2).

Every expert has its own parameters, so that it can be frozen by itself. A new adapter changes nothing: the last factor of
an expert is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm


class Stream(NamedTuple):
    """The tokens of one modality between two blocks.

    Attributes:
        hidden: (rows, tokens, width).
        mask: (rows, tokens) bool.
        present: (rows,) bool, whether the sample has this modality.
    """

    hidden: Tensor
    mask: Tensor
    present: Tensor


def mean_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that count: (rows, width); 0 where none does.

    Args:
        hidden: (rows, tokens, width).
        mask: (rows, tokens) bool.
    """
    weight = mask.to(hidden.dtype)
    return torch.einsum("btw,bt->bw", hidden, weight) / weight.sum(1, keepdim=True).clamp_min(1)


def _plain_norm(hidden: Tensor) -> Tensor:
    """Layer norm without parameters: parameters shared by experts would change frozen ones."""
    return layer_norm(hidden, hidden.shape[-1:])


class Expert(nn.Module):
    """The parameters of one expert.

    Args:
        widths: Modality -> width of its encoder.
        bottleneck: r.
        additive: Whether it is of the additive form.
    """

    def __init__(self, widths: Mapping[str, int], bottleneck: int, additive: bool) -> None:
        super().__init__()
        inner = ("down", "keys", "values") if additive else ("down",)
        for part in inner:
            draws = {k: torch.randn(width, bottleneck) * width**-0.5 for k, width in widths.items()}
            self.add_module(part, nn.ParameterDict({k: nn.Parameter(draw) for k, draw in draws.items()}))
        self.up = nn.ParameterDict({k: nn.Parameter(torch.zeros(bottleneck, w)) for k, w in widths.items()})


class Gate(nn.Module):
    """Scores of the experts from the mean tokens of all modalities (C2).

    Args:
        widths: Modality -> width.
        experts: E.
        choices: Names of the choices: one for all modalities, or one each.
    """

    def __init__(self, widths: Mapping[str, int], experts: int, choices: Sequence[str]) -> None:
        super().__init__()
        self.weights = nn.ModuleDict(
            {
                choice: nn.ParameterDict(
                    {k: nn.Parameter(torch.randn(width, experts) * width**-0.5) for k, width in widths.items()}
                )
                for choice in choices
            }
        )

    def forward(self, means: Mapping[str, Tensor], choice: str) -> Tensor:
        """Scores (rows, experts)."""
        weights: Any = self.weights[choice]
        return torch.stack([means[k] @ weights[k] for k in sorted(means)]).sum(0)


SHARED = "all"


class Adapter(nn.Module):
    """The adapter behind one block of every encoder.

    Args:
        widths: Modality -> width of its encoder.
        experts: E.
        top: Experts picked per sample.
        bottleneck: r.
        additive: The additive form of an expert in place of the multiplicative one.
        per_modality: A choice of experts for every modality in place of one for all.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        experts: int = 10,
        top: int = 2,
        bottleneck: int = 64,
        additive: bool = False,
        per_modality: bool = False,
    ) -> None:
        super().__init__()
        widths = {name: widths[name] for name in sorted(widths)}
        self.names, self.top, self.additive = tuple(widths), top, additive
        self.choices = self.names if per_modality else (SHARED,)
        self.experts = nn.ModuleList(Expert(widths, bottleneck, additive) for _ in range(experts))
        self.gate = Gate(widths, experts, self.choices)

    def _bank(self, part: str, name: str) -> Tensor:
        """One factor of all experts, (experts, in, out): in the graph whether chosen or not, as DDP requires."""
        return torch.stack([getattr(expert, part)[name] for expert in self.experts])

    def forward(self, streams: Mapping[str, Stream]) -> tuple[dict[str, Tensor], Tensor]:
        """Let every modality see the others.

        Args:
            streams: Modality -> its tokens.

        Returns:
            Modality -> changed tokens of the same shape, and the numbers of the chosen experts (rows, choices, top), int64.
        """
        means = {k: mean_tokens(s.hidden, s.mask) * s.present[:, None].to(s.hidden.dtype) for k, s in streams.items()}
        normed = {k: _plain_norm(s.hidden) for k, s in streams.items()}
        inner = {k: self._inner(normed[k], "down", k) for k in self.names}
        if not self.additive:
            inner = {k: gelu(value) for k, value in inner.items()}
        chosen, deltas = [], {}
        for choice in self.choices:
            scores, picked = self.gate(means, choice).topk(self.top, dim=-1)
            chosen.append(picked)
            weights = scores.softmax(-1)[:, :, None, None]
            for k in self.names if choice == SHARED else (choice,):
                maps = (
                    self._added(k, normed, inner, streams, picked)
                    if self.additive
                    else self._maps(k, inner, streams, picked)
                )
                deltas[k] = (weights * maps).sum(1)
        changed = {
            k: s.hidden + deltas[k] if self.additive else s.hidden * (1 + deltas[k]) for k, s in streams.items()
        }
        return changed, torch.stack(chosen, dim=1)

    def _inner(self, normed: Tensor, part: str, name: str) -> Tensor:
        """A factor of all experts applied to tokens: (rows, experts, tokens, bottleneck)."""
        bank = torch.cat([getattr(expert, part)[name] for expert in self.experts], dim=1)  # one product for all
        return (normed @ bank).unflatten(-1, (len(self.experts), -1)).transpose(1, 2)

    def _up(self, inner: Tensor, picked: Tensor, name: str) -> Tensor:
        """The last factor of the chosen experts: (rows, top, tokens, width)."""
        return inner @ self._bank("up", name)[picked]

    def _maps(self, name: str, inner: Mapping[str, Tensor], streams: Mapping[str, Stream], picked: Tensor) -> Tensor:
        """``m_k = tanh((u_k * c_k) U_k)``, c_k the mean of the other modalities that are there; see C1."""
        others = [j for j in self.names if j != name]
        own = _pick(inner[name], picked)
        there = torch.stack([streams[j].present for j in others]).to(own.dtype)
        total = torch.zeros_like(own[:, :, 0])
        for number, j in enumerate(others):
            mask = streams[j].mask.to(own.dtype)
            mean = torch.einsum("betr,bt->ber", _pick(inner[j], picked), mask) / mask.sum(1)[:, None, None].clamp_min(
                1
            )
            total = total + mean * there[number][:, None, None]
        context = total / there.sum(0)[:, None, None].clamp_min(1)
        return torch.tanh(self._up(own * context[:, :, None], picked, name))

    def _added(
        self,
        name: str,
        normed: Mapping[str, Tensor],
        inner: Mapping[str, Tensor],
        streams: Mapping[str, Stream],
        picked: Tensor,
    ) -> Tensor:
        """Cross-attention of k's tokens to those of all other modalities that are there, through the bottleneck."""
        others = [j for j in self.names if j != name]
        queries = _pick(inner[name], picked)
        keys = torch.cat([_pick(self._inner(normed[j], "keys", j), picked) for j in others], dim=2)
        values = torch.cat([_pick(self._inner(normed[j], "values", j), picked) for j in others], dim=2)
        seen = torch.cat([streams[j].mask & streams[j].present[:, None] for j in others], dim=1)
        scores = queries @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5
        weights = scores.masked_fill(~seen[:, None, None], torch.finfo(scores.dtype).min).softmax(-1)
        anyone = seen.any(1).to(scores.dtype)[:, None, None, None]
        return self._up(weights @ values * anyone, picked, name)


def _pick(values: Tensor, picked: Tensor) -> Tensor:
    """Of (rows, experts, ...) the chosen experts: (rows, top, ...)."""
    rows = torch.arange(len(picked), device=picked.device)[:, None]
    return values[rows, picked]
