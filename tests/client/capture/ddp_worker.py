"""One rank of a DDP training over gloo: `python ddp_worker.py RANK WORLD STORE OUTPUT MODE`; mode `watched` or `plain`.

Writes its final weights, and under watch what it sent, to OUTPUT as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import seismograd
from seismograd.record import Quantity, StepRecord
from seismograd.testing import RecordingTransport

STEPS = 6


def as_json(record: StepRecord) -> dict[str, object]:
    return {
        "step": record.step,
        "norms": None if record.gradient_norms is None else record.gradient_norms.tolist(),
        "norm_bytes": None if record.gradient_norms is None else record.gradient_norms.tobytes().hex(),
        "total": record.total_norm,
        "digest": record.digest,
        "source": int(record.source),
        "loss": record.scalars.get(Quantity.LOSS),
        "local": record.scalars.get(Quantity.LOCAL_NORM),
        "sampled": sorted(int(quantity) for quantity in record.tensors),
        "local_by_layer": [float(norm) for norm in record.tensors.get(Quantity.LOCAL_GRADIENT_NORM, ())],
    }


def main() -> None:
    rank, world, store, output, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5]
    for name in [name for name in os.environ if name.startswith(("TORCHELASTIC", "SLURM"))]:
        del os.environ[name]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=0.01)
    transport = RecordingTransport()
    monitor = None
    if mode == "watched":
        monitor = seismograd.watch(ddp, optimizer, project="tests", transport=transport)
    local_norms, stops, losses = [], [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        data = torch.randn(2, 8, 6, generator=torch.Generator().manual_seed(100 * rank + step))
        with ddp.no_sync():
            (ddp(data[0]).pow(2).mean() * (rank + 1)).backward()
        local_norms.append(own_norms(model, data, rank))
        loss = ddp(data[1]).pow(2).mean() * (rank + 1)
        losses.append(float(loss))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ddp.parameters(), 0.05)
        optimizer.step()
        if monitor is not None:
            monitor.log(loss=loss)
            # One rank alone is told to stop; both must hear of it in the same call.
            if rank == 1 and step == 3:
                from seismograd.record import Directive, DirectiveKind

                monitor._directives.receive([Directive("d", DirectiveKind.STOP, "", "", 0, 0)])
            stops.append(monitor.should_stop(synchronize=True, every=2))
    result: dict[str, object] = {
        "weights": [p.detach().flatten().tolist() for p in model.parameters()],
        "losses": losses,
    }
    if monitor is not None:
        assert monitor.finish(timeout_seconds=20.0).complete
        (identity,) = transport.ledger.identities.values()
        result |= {
            "records": [as_json(record) for record in transport.ledger.records(rank=rank)],
            "launch": identity.launch_id,
            "run": identity.run,
            "rank": identity.rank,
            "world": identity.world_size,
            "strategy": identity.strategy,
            "catalog": [
                (p.name, p.shard_id, p.replica_index, p.replication) for p in transport.ledger.catalogs[0].parameters
            ],
            "local_norms": local_norms,
            "stops": stops,
            "broken": monitor._guard.broken,
        }
    output.write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def own_norms(model: nn.Module, data: torch.Tensor, rank: int) -> list[float]:
    """What this rank's own gradients of both micro-batches amount to, by parameter, computed aside."""
    losses = sum(model(part).pow(2).mean() * (rank + 1) for part in data)
    gradients = torch.autograd.grad(losses, list(model.parameters()))
    return [float(gradient.norm()) for gradient in gradients]


if __name__ == "__main__":
    main()
