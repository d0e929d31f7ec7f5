"""Machine translation with a GRU encoder and decoder: numbers as words of one language, read backwards in another.

    python -m seismograd.examples.translation --run healthy

Pushed over the edge as translation models were for years: a warm-up that aims eighty times too high, without clipping.
The decoder's hidden state is fed back word after word, and every step overshoots more than the one before:

    python -m seismograd.examples.translation --run pushed --learning-rate 40 --warm-up-steps 400 --clip 0 --steps 400
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from seismograd.examples import workbench

BATCH, LENGTH = 32, 10
# Words of each language; the last one begins a sentence of the target.
WORDS, BEGIN = 40, 40


class Translator(nn.Module):
    """Logits of each target word: int64[batch, length] twice -> float32[batch, WORDS + 1, length]."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(WORDS + 1, 32)
        self.target_embedding = nn.Embedding(WORDS + 1, 32)
        self.encoder = nn.GRU(32, width, batch_first=True)
        self.decoder = nn.GRU(32, width, batch_first=True)
        self.head = nn.Linear(width, WORDS + 1)

    def forward(self, source: Tensor, before: Tensor) -> Tensor:
        """Read the source; then predict each target word from those `before` it."""
        _, state = self.encoder(self.source_embedding(source))
        hidden, _ = self.decoder(self.target_embedding(before), state)
        logits: Tensor = self.head(hidden)
        return logits.transpose(1, 2)


def sentences(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sources, their translations, and the translations one word later, int64[batch, length] each."""
    source = torch.randint(WORDS, (BATCH, LENGTH), generator=generator)
    target = (source.flip(1) * 7 + 3) % WORDS
    before = torch.cat([torch.full((BATCH, 1), BEGIN), target[:, :-1]], dim=1)
    return source, target, before


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    arguments = workbench.settings(__doc__, learning_rate=0.5).parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)

    def loss_of(model: nn.Module, _step: int) -> Tensor:
        source, target, before = sentences(generator)
        return nn.functional.cross_entropy(model(source, before), target)

    return workbench.train(arguments, Translator, loss_of)


if __name__ == "__main__":
    sys.exit(main())
