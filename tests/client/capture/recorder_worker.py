"""One rank of a DDP training whose flight recorder is asked for: `recorder_worker.py RANK WORLD STORE OUTPUT`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import seismograd
from seismograd.capture import budget
from seismograd.record import Directive, DirectiveKind, Quantity, RecordKind, StepRecord
from seismograd.testing import RecordingTransport

STEPS, ASKED_AT, FIRST, LAST = 60, 20, 10, 40


def as_json(record: StepRecord) -> dict[str, object]:
    local = record.tensors.get(Quantity.LOCAL_GRADIENT_NORM)
    return {
        "step": record.step,
        "row": None if record.gradient_norms is None else record.gradient_norms.tobytes().hex(),
        "digest": record.digest,
        "local": None if local is None else local.tolist(),
        "sampled": sorted(quantity.name for quantity in record.tensors),
    }


def main() -> None:
    rank, world, store, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    for name in [name for name in os.environ if name.startswith(("TORCHELASTIC", "SLURM"))]:
        del os.environ[name]
    budget._WHOLE_STEP_SHARE = float("inf")  # what a step can bear is a matter of the machine
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    transport = RecordingTransport()
    # No sampling of its own in the steps that are looked at.
    monitor = seismograd.watch(
        model, optimizer, project="tests", transport=transport, sample_every=1000, sample_first=1
    )
    for step in range(STEPS):
        optimizer.zero_grad()
        data = torch.randn(8, 6, generator=torch.Generator().manual_seed(100 * rank + step))
        loss = model(data).pow(2).mean() * (rank + 1)
        loss.backward()
        optimizer.step()
        monitor.log(loss=loss)
        if step == ASKED_AT:
            transport.ledger.notify(
                directives=[Directive("d", DirectiveKind.CAPTURE_MORE, "runaway", "a", FIRST, LAST)]
            )
            assert monitor._sender is not None
            while monitor._sender.sample_until is None:
                time.sleep(0.005)
    assert monitor.finish(timeout_seconds=20.0).complete
    ledger = transport.ledger
    result = {
        "steps": [as_json(record) for record in ledger.records(rank=rank)],
        "details": [as_json(record) for record in ledger.records(kind=RecordKind.DETAIL, rank=rank)],
        "answers": [(each.directive_id, each.outcome, each.reason) for each in ledger.answers],
        "broken": monitor._guard.broken,
    }
    output.write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
