"""Speech-like sequences with an LSTM: which sound is heard in every frame of an utterance.

    python -m seismograd.examples.speech --run healthy

Pushed over the edge by its data, as it happens with recordings: from step 120 on the gain of the microphone creeps up
by 4 % a step, and nobody normalises the features:

    python -m seismograd.examples.speech --run pushed --gain 1.04 --clip 0 --steps 400
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn

from seismograd.examples import workbench

BATCH, FRAMES, FEATURES, SOUNDS = 16, 60, 13, 12
# Frames that a sound lasts.
LASTING = 6
# From this step on the gain creeps.
CREEPS_FROM = 120


class FrameTagger(nn.Module):
    """Logits of the sound of each frame: float32[batch, frames, FEATURES] -> float32[batch, SOUNDS, frames]."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.project = nn.Linear(FEATURES, 64)
        self.lstm = nn.LSTM(64, width, batch_first=True)
        self.refine = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, SOUNDS)

    def forward(self, features: Tensor) -> Tensor:
        """Listen from left to right, with the raw features beside what was heard."""
        projected = torch.relu(self.project(features))
        hidden, _ = self.lstm(projected)
        mixed = self.refine(hidden) + nn.functional.pad(projected, (0, hidden.shape[-1] - projected.shape[-1]))
        logits: Tensor = self.head(mixed)
        return logits.transpose(1, 2)


def utterances(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features and the sound of each frame: float32[batch, frames, FEATURES], int64[batch, frames]."""
    sounds = torch.randint(SOUNDS, (BATCH, FRAMES // LASTING), generator=generator).repeat_interleave(LASTING, dim=1)
    formants = torch.arange(FEATURES) * (2 * math.pi / FEATURES)
    clean = torch.sin(formants * (sounds[..., None] + 1) / 2)
    return clean + 1.5 * torch.randn(clean.shape, generator=generator), sounds


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    parser = workbench.settings(__doc__, learning_rate=0.1)
    parser.add_argument("--gain", type=float, default=1.0, help="of the microphone, a step (default: 1.0)")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)

    def loss_of(model: nn.Module, step: int) -> Tensor:
        features, sounds = utterances(generator)
        return nn.functional.cross_entropy(model(features * arguments.gain ** max(0, step - CREEPS_FROM)), sounds)

    return workbench.train(arguments, FrameTagger, loss_of)


if __name__ == "__main__":
    sys.exit(main())
