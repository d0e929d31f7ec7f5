"""The three training workloads of the overhead benchmark: many tensors, few large ones, many tiny ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = {"gpt": 4096, "lstm": 2000}


class Block(nn.Module):
    """A pre-norm transformer block with 12 parameter tensors."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        batch, length, width = inputs.shape
        shape = (batch, length, self.heads, width // self.heads)
        query, key, value = (
            part.view(shape).transpose(1, 2)
            for part in self.query_key_value(self.attention_norm(inputs)).split(width, 2)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = inputs + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        output: torch.Tensor = hidden + self.contract(functional.gelu(self.expand(self.feed_forward_norm(hidden))))
        return output


class Transformer(nn.Module):
    """A GPT of 12 blocks with tied embeddings: 148 tensors, 6.1 M parameters."""

    def __init__(self, width: int = 192, length: int = 64) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY["gpt"], width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, 6) for _ in range(12)])
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.blocks(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        scores: torch.Tensor = self.norm(hidden) @ self.tokens.weight.t()
        return scores


class Recurrent(nn.Module):
    """A two-layer LSTM language model: 10 tensors, 2.1 M parameters."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY["lstm"], width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY["lstm"], bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.lstm(self.tokens(ids))[0])
        return scores


class Deep(nn.Module):
    """An MLP of 50 residual layers: 100 tensors, 0.2 M parameters."""

    def __init__(self, depth: int = 50, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for layer in list(self.layers)[:-1]:
            inputs = inputs + 0.1 * torch.tanh(layer(inputs))
        output: torch.Tensor = self.layers[-1](inputs)
        return output


def make(name: str) -> tuple[nn.Module, Callable[[int], torch.Tensor]]:
    """A model and the function from step number to its loss, both seeded."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    if name == "mlp":
        deep = Deep()
        points = [torch.randn(64, 64, generator=generator) for _ in range(8)]
        return deep, lambda step: functional.mse_loss(deep(points[step % 8]), points[(step + 1) % 8])
    model: nn.Module = Transformer() if name == "gpt" else Recurrent()
    batch, length = (4, 64) if name == "gpt" else (8, 32)
    texts = [torch.randint(0, VOCABULARY[name], (batch, length + 1), generator=generator) for _ in range(8)]

    def loss_at(step: int) -> torch.Tensor:
        text = texts[step % 8]
        scores = model(text[:, :-1])
        return functional.cross_entropy(scores.flatten(0, 1), text[:, 1:].reshape(-1))

    return model, loss_at
