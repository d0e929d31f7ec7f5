"""The client in one process with other users of protobuf and gRPC, whichever is imported first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seismograd.testing import RecordingServer

TRAINING = """
import sys
import torch
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
monitor = seismograd.watch(model, optimizer, project="compatibility", run="neighbours", server=sys.argv[1])
for step in range(3):
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    {each_step}
assert monitor.finish(timeout_seconds=30.0).complete
{end}
print("done")
"""
# What is installed, how it is imported, what it does in each step, and how it ends.
NEIGHBOURS = {
    "tensorboard": (
        ("tensorboard", "absl-py"),
        "from torch.utils.tensorboard import SummaryWriter\nwriter = SummaryWriter(__import__('tempfile').mkdtemp())",
        "writer.add_scalar('loss', 1.0, step)",
        "writer.close()",
    ),
    "transformers": ((), "import transformers\ntransformers.TrainerCallback()", "pass", ""),
    "wandb": (
        ("wandb",),
        "import wandb\nrun = wandb.init(mode='offline', dir=__import__('tempfile').mkdtemp())",
        "run.log({'loss': 1.0})",
        "run.finish()",
    ),
}


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "theirs first"])
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_client_works_beside(
    install: Callable[..., Path], run_beside: Callable[..., str], name: str, ours_first: bool
) -> None:
    packages, importing, each_step, end = NEIGHBOURS[name]
    imports = ["import seismograd", importing]
    code = "\n".join(imports if ours_first else imports[::-1]) + TRAINING.format(each_step=each_step, end=end)
    with RecordingServer() as server:
        assert "done" in run_beside(
            install(*packages, with_dependencies=name == "wandb") if packages else None, code, server.address
        )
        assert [record.step for record in server.ledger.records()] == [0, 1, 2]
