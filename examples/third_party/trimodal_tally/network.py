"""A model that Transformers has not: it adds up what a text's words say, each by itself, and names a class."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class TallyConfig(PreTrainedConfig):
    """Sizes of a `TallyModel`."""

    model_type = "tally"

    def __init__(
        self, vocab_size: int = 64, hidden_size: int = 32, intermediate_size: int = 64, num_hidden_layers: int = 2, num_labels: int = 2,
        **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(num_labels=num_labels, **rest)
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.num_hidden_layers = num_hidden_layers


class TallyBlock(nn.Module):
    """x + down(relu(up(norm(x))))."""

    def __init__(self, config: TallyConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Of each word's state (batch, words, width) the next."""
        added: Tensor = self.down(self.up(self.norm(x)).relu())
        return x + added


class TallyModel(PreTrainedModel):
    """`input_ids` and `attention_mask` (batch, words) -> `logits` (batch, classes)."""

    config_class = TallyConfig

    def __init__(self, config: TallyConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(TallyBlock(config) for _ in range(config.num_hidden_layers))
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **rest: Any) -> SequenceClassifierOutput:
        """`input_ids` int64, `attention_mask` (batch, words) -> `logits` (batch, classes)."""
        states = self.words(input_ids)
        for block in self.blocks:
            states = block(states)
        weights = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        weights = weights.to(states.dtype)[..., None]
        return SequenceClassifierOutput(logits=self.head((states * weights).sum(1) / weights.sum(1).clamp(min=1)))


AutoConfig.register(TallyConfig.model_type, TallyConfig, exist_ok=True)
