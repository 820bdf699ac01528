"""A small transformer for sensor signals: pieces of the signal are its tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ..base.errors import Problem


class SignalConfig(PretrainedConfig):
    """Config of `SignalEncoder`.

    Args:
        channels: Channels of the signal, e.g. 6 for accelerometer and gyroscope.
        length: Samples in time; inputs are brought to this length.
        piece: Samples in time per token; divides ``length``.
        hidden_size: Width.
        num_hidden_layers: Layers.
        num_attention_heads: Heads.
        intermediate_size: Width of the feed-forward part; default 4 times ``hidden_size``.
        **kwargs: As for every config.
    """

    model_type = "cl_signal"

    def __init__(
        self,
        channels: int = 1,
        length: int = 128,
        piece: int = 8,
        hidden_size: int = 64,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        intermediate_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.channels, self.length, self.piece, self.hidden_size = channels, length, piece, hidden_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.intermediate_size = intermediate_size or 4 * hidden_size
        super().__init__(**kwargs)

    def value_problems(self, where: str) -> list[Problem]:
        """Sizes that no encoder can have.

        Args:
            where: YAML path for the messages.
        """
        sizes = "channels length piece hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
        found = [
            Problem(f"{where}.{name}", f"is {getattr(self, name)!r}.", "Give a whole number, at least 1.")
            for name in sizes
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1
        ]
        for whole, part in (("length", "piece"), ("hidden_size", "num_attention_heads")) if not found else ():
            if getattr(self, whole) % getattr(self, part):
                what = f"is {getattr(self, part)}, which does not divide {whole} ({getattr(self, whole)})."
                found.append(Problem(f"{where}.{part}", what, f"Choose a divisor of {whole}."))
        return found


class SignalLayer(nn.Module):
    """One pre-norm layer. PyTorch's own rounds differently where no gradient is needed.

    Args:
        config: The encoder's config.
    """

    def __init__(self, config: SignalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixing, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.second = (
            nn.Linear(width, config.intermediate_size),
            nn.Linear(config.intermediate_size, width),
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(rows, tokens, width), both."""
        rows, tokens, width = hidden_states.shape
        parts = self.mixing(self.before(hidden_states)).view(rows, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(rows, tokens, width)
        hidden_states = hidden_states + self.out(mixed)
        output: Tensor = hidden_states + self.second(gelu(self.first(self.after(hidden_states))))
        return output


class SignalEncoder(PreTrainedModel):
    """Pre-norm transformer over pieces of a signal.

    Args:
        config: Its config.
    """

    config_class = SignalConfig
    base_model_prefix = "signal"
    main_input_name = "values"

    def __init__(self, config: SignalConfig) -> None:
        super().__init__(config)
        self.embed = nn.Linear(config.piece * config.channels, config.hidden_size)
        self.positions = nn.Parameter(torch.zeros(1, config.length // config.piece, config.hidden_size))
        self.layers = nn.ModuleList(SignalLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights and no bias."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, SignalEncoder):
            nn.init.normal_(module.positions, std=0.02)

    def forward(self, values: Tensor, **kwargs: Any) -> BaseModelOutput:
        """Encode signals.

        Args:
            values: (batch, length, channels), floats.
            **kwargs: Not used.
        """
        batch, length, channels = values.shape
        pieces = values.reshape(batch, length // self.config.piece, self.config.piece * channels)
        hidden = self.embed(pieces) + self.positions
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutput(last_hidden_state=self.norm(hidden))
