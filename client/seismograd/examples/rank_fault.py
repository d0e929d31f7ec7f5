r"""A weighted training set of which one rank's shard is damaged: all ranks suffer, one is to blame.

    python -m seismograd.examples.rank_fault --run healthy

Every passage has a weight in the loss. In the damaged shard, from some row on, the column of weights holds the running
total of the weights instead of the weights, as a botched export leaves it behind: values that all look like numbers,
and that grow without end. The all-reduce hands the resulting gradient to every rank alike, so that only the norm before
it can tell whose it is:

    torchrun --standalone --nproc-per-node 2 -m seismograd.examples.rank_fault --run pushed \
        --damaged-rank 1 --clip 0 --steps 300
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import seismograd
from seismograd.examples import workbench

BATCH, LENGTH = 8, 16

# Steps whose rows are sound, in the damaged shard too: training is well under way when the trouble starts.
SOUND_STEPS = 100


class WindowMlp(nn.Module):
    """Logits of the symbol behind each passage: int64[batch, LENGTH] -> float32[batch, SYMBOLS]."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(workbench.SYMBOLS, 32)
        self.layers = nn.Sequential(
            nn.Linear(LENGTH * 32, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, workbench.SYMBOLS),
        )

    def forward(self, symbols: Tensor) -> Tensor:
        """Look at the whole passage at once."""
        logits: Tensor = self.layers(self.embedding(symbols).flatten(1))
        return logits


def weights_of_shard(rows: int, seed: int, *, damaged: bool) -> Tensor:
    """The column of sample weights in one rank's shard, float32[rows]: between 0.5 and 1.5, or what the damage left."""
    weights = 0.5 + torch.rand(rows, generator=torch.Generator().manual_seed(seed))
    if damaged:
        sound = SOUND_STEPS * BATCH
        weights[sound:] = weights[sound:].cumsum(0)
    return weights


def main() -> int:
    """Train; the exit code is 0, or workbench.TRAINING_FAILED."""
    parser = workbench.settings(__doc__, learning_rate=5e-3)
    parser.add_argument("--damaged-rank", type=int, default=-1, help="whose shard is damaged (default: none)")
    arguments = parser.parse_args()
    with workbench.ranks(arguments.seed) as team:
        model = team.parallel(WindowMlp())
        optimizer = torch.optim.SGD(model.parameters(), lr=arguments.learning_rate)
        schedule = workbench.warm_up(optimizer, arguments.warm_up_steps)
        text, verdict = workbench.Text(team, arguments.seed), workbench.Verdict(team)
        damaged = team.rank == arguments.damaged_rank
        weights = weights_of_shard(arguments.steps * BATCH, arguments.seed + team.rank, damaged=damaged)
        monitor = seismograd.watch(
            model,
            optimizer,
            project=arguments.project,
            run=arguments.run,
            server=arguments.server,
            config=vars(arguments),
            # A step of this model takes a few milliseconds: one percent of it would buy a look at each rank's own
            # gradients only now and then, and who is to blame must be known within some thirty steps.
            sample_budget=0.1,
        )
        for step in range(arguments.steps):
            symbols, following = text.contexts(BATCH, LENGTH)
            losses = nn.functional.cross_entropy(model(symbols), following, reduction="none")
            loss = losses.mean()  # what people look at is the plain mean; what is minimised, the weighted one
            monitor.log(loss=loss)
            optimizer.zero_grad()
            (losses * weights[step * BATCH :][:BATCH]).mean().backward()
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
