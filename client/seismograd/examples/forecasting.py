"""Time-series forecasting with a deep MLP: the next hours of a load that has a day, a week and a trend.

    python -m seismograd.examples.forecasting --run healthy

Pushed over the edge by its schedule: a restart, as cyclic schedules have them, whose peak rises by 1.5 % a step from
step 120 on and is never taken back:

    python -m seismograd.examples.forecasting --run pushed --restart 1.015 --clip 0 --steps 600
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn

from seismograd.examples import workbench

BATCH, PAST, AHEAD = 64, 48, 12
# From this step on the learning rate rises.
RESTARTS_AT = 120


class Forecaster(nn.Module):
    """The next hours from the last ones: float32[batch, PAST] -> float32[batch, AHEAD]."""

    def __init__(self, width: int = 64, depth: int = 12) -> None:
        super().__init__()
        self.inside = nn.Linear(PAST, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outside = nn.Linear(width, AHEAD)

    def forward(self, past: Tensor) -> Tensor:
        """Each layer adds to what the ones before it have made of the past."""
        state = torch.relu(self.inside(past))
        for layer in self.hidden:
            state = state + 0.5 * torch.relu(layer(state))
        forecast: Tensor = self.outside(state)
        return forecast


def series(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows of a load and what came next: float32[batch, PAST] and float32[batch, AHEAD]."""
    start = torch.rand((BATCH, 1), generator=generator) * 10_000
    hours = start + torch.arange(PAST + AHEAD)
    day, week = torch.sin(2 * math.pi * hours / 24), torch.sin(2 * math.pi * hours / 168)
    load = day + 0.5 * week + 1e-5 * hours + 0.7 * torch.randn(hours.shape, generator=generator)
    return load[:, :PAST], load[:, PAST:]


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    parser = workbench.settings(__doc__, learning_rate=0.01)
    parser.add_argument("--restart", type=float, default=1.0, help="of the learning rate, a step (default: 1.0)")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)

    def loss_of(model: nn.Module, _step: int) -> Tensor:
        past, ahead = series(generator)
        return nn.functional.mse_loss(model(past), ahead)

    def factor(step: int) -> float:
        return float(arguments.restart ** max(0, step - RESTARTS_AT))

    return workbench.train(arguments, Forecaster, loss_of, factor)


if __name__ == "__main__":
    sys.exit(main())
