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
        zero = {k: s.present[:, None].to(s.hidden.dtype) for k, s in streams.items()}
        means = {k: mean_tokens(s.hidden, s.mask) * zero[k] for k, s in streams.items()}
        normed = {k: _plain_norm(s.hidden) for k, s in streams.items()}
        parts = ("down", "keys", "values", "up") if self.additive else ("down", "up")
        banks = {(part, k): self._bank(part, k) for part in parts for k in self.names}
        deltas: dict[str, Tensor] = {}
        chosen = []
        for choice in self.choices:
            scores, picked = self.gate(means, choice).topk(self.top, dim=-1)
            weights = scores.softmax(-1)
            chosen.append(picked)
            own = self.names if choice == SHARED else (choice,)
            for slot in range(self.top):
                expert = picked[:, slot]
                factors = {key: bank[expert] for key, bank in banks.items()}
                maps = (self._added if self.additive else self._maps)(normed, streams, factors, own)
                for k, value in maps.items():
                    part = weights[:, slot, None, None] * value
                    deltas[k] = part if k not in deltas else deltas[k] + part
        changed = {}
        for k, stream in streams.items():
            changed[k] = stream.hidden + deltas[k] if self.additive else stream.hidden * (1 + deltas[k])
        return changed, torch.stack(chosen, dim=1)

    def _maps(
        self,
        normed: Mapping[str, Tensor],
        streams: Mapping[str, Stream],
        factors: Mapping[tuple[str, str], Tensor],
        own: Sequence[str],
    ) -> dict[str, Tensor]:
        """``m_k = tanh((u_k * c_k) U_k)``, c_k the mean of the other modalities that are there; see C1."""
        inner = {k: gelu(torch.bmm(normed[k], factors["down", k])) for k in self.names}
        means = {k: mean_tokens(inner[k], streams[k].mask) for k in self.names}
        found = {}
        for k in own:
            others = [j for j in self.names if j != k]
            there = torch.stack([streams[j].present for j in others]).to(normed[k].dtype)
            total = torch.stack([means[j] * there[i][:, None] for i, j in enumerate(others)]).sum(0)
            context = total / there.sum(0)[:, None].clamp_min(1)
            found[k] = torch.tanh(torch.bmm(inner[k] * context[:, None], factors["up", k]))
        return found

    def _added(
        self,
        normed: Mapping[str, Tensor],
        streams: Mapping[str, Stream],
        factors: Mapping[tuple[str, str], Tensor],
        own: Sequence[str],
    ) -> dict[str, Tensor]:
        """Cross-attention of k's tokens to those of all other modalities that are there, through the bottleneck."""
        found = {}
        for k in own:
            others = [j for j in self.names if j != k]
            queries = torch.bmm(normed[k], factors["down", k])
            keys = torch.cat([torch.bmm(normed[j], factors["keys", j]) for j in others], dim=1)
            values = torch.cat([torch.bmm(normed[j], factors["values", j]) for j in others], dim=1)
            seen = torch.cat([streams[j].mask & streams[j].present[:, None] for j in others], dim=1)
            scores = queries @ keys.transpose(1, 2) * keys.shape[-1] ** -0.5
            weights = scores.masked_fill(~seen[:, None], torch.finfo(scores.dtype).min).softmax(-1)
            anyone = seen.any(1).to(scores.dtype)[:, None, None]
            found[k] = torch.bmm(torch.bmm(weights, values) * anyone, factors["up", k])
        return found
