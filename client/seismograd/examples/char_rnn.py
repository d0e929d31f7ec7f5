"""A plain recurrent network (Elman's, tanh) on source text: gradients that explode through time.

    python -m seismograd.examples.char_rnn --run healthy

Pushed over the edge by a weight decay with the wrong sign, with clipping off. The recurrent weights grow by two and a
half percent a step until their gain passes 1; from then on a gradient that travels back over 48 symbols is multiplied
by that gain at each:

    python -m seismograd.examples.char_rnn --run pushed --weight-decay -0.025 --clip 0 --steps 400
"""

from __future__ import annotations

import sys

from torch import Tensor, nn

import seismograd
from seismograd.examples import workbench

BATCH, LENGTH = 16, 48


class CharacterRnn(nn.Module):
    """Logits of the next symbol after each symbol: int64[batch, length] -> float32[batch, SYMBOLS, length]."""

    def __init__(self, width: int = 224) -> None:
        super().__init__()
        self.embedding = workbench.embedding(64)
        self.rnn = nn.RNN(64, width, batch_first=True)
        self.head = nn.Linear(width, workbench.SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        """Read the symbols from left to right."""
        hidden, _ = self.rnn(self.embedding(symbols))
        logits: Tensor = self.head(hidden)
        return logits.transpose(1, 2)


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    parser = workbench.settings(__doc__, learning_rate=2e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-4, help="share a step (default: 1e-4)")
    arguments = parser.parse_args()
    with workbench.ranks(arguments.seed) as team:
        model = team.parallel(CharacterRnn())
        optimizer = workbench.DecayingAdam(model.parameters(), lr=arguments.learning_rate, decay=arguments.weight_decay)
        schedule = workbench.warm_up(optimizer, arguments.warm_up_steps)
        text, verdict = workbench.Text(team, arguments.seed), workbench.Verdict(team)
        monitor = seismograd.watch(
            model,
            optimizer,
            project=arguments.project,
            run=arguments.run,
            server=arguments.server,
            config=vars(arguments),
        )
        for step in range(arguments.steps):
            symbols, following = text.sequences(BATCH, LENGTH)
            loss = nn.functional.cross_entropy(model(symbols), following)
            monitor.log(loss=loss)
            optimizer.zero_grad()
            loss.backward()
            if arguments.clip:
                seismograd.clip_grad_norm_(model.parameters(), arguments.clip)
            optimizer.step()
            schedule.step()
            if failure := verdict.failure(loss):
                monitor.finish("failed", failure)
                print(f"training failed at step {step}: {failure}")
                return workbench.TRAINING_FAILED
        monitor.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
