"""Writes the log of a run that explodes with another tool's own library: `write_logs.py tensorboard|wandb FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.exploding_log import rows


def tensorboard(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    writer.add_text("notes", "not a number")
    for step, row in enumerate(rows()):
        for name, value in row.items():
            writer.add_scalar(name, value, step)
    writer.close()


def wandb(folder: Path) -> None:
    import wandb as library

    run = library.init(mode="offline", dir=str(folder), project="mt", name="lstm-9", config={"lr": 1e-3})
    for step, row in enumerate(rows()):
        run.log(dict(row), step=step)
    run.finish()


if __name__ == "__main__":
    {"tensorboard": tensorboard, "wandb": wandb}[sys.argv[1]](Path(sys.argv[2]))
