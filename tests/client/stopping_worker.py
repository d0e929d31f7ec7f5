"""One rank of a job that stops when it is asked: `python stopping_worker.py RANK WORLD STORE SERVER OUTPUT`.

It enters no collective of its own but the one inside `should_stop`. Writes the step it stopped at, and how many
collectives it has entered, to OUTPUT as JSON, and then delivers what it has to tell.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import seismograd

EVERY = 3
MOST_STEPS = 20_000


def main() -> None:
    rank, world, store, server, output = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:6]
    for name in [name for name in os.environ if name.startswith(("TORCHELASTIC", "SLURM"))]:
        del os.environ[name]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    assert dist.group.WORLD is not None
    # The stubs do not know it. Every collective of the group counts, whoever enters it and however.
    sequence = getattr(dist.group.WORLD, "_get_sequence_number_for_group")  # noqa: B009 (as above)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = seismograd.watch(model, optimizer, project="tests", run="stops", server=server)
    heard = []
    monitor.on_alert(lambda notice: heard.append(notice.alert_id))
    before = sequence()
    stopped_at = None
    for step in range(MOST_STEPS):
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).pow(2).mean()
        loss.backward()
        optimizer.step()
        monitor.log(loss=loss)
        if monitor.should_stop(synchronize=True, every=EVERY):
            stopped_at = step
            break
        # The others' pace must not matter: the ranks drift as far apart as the votes let them.
        time.sleep(0.002 * (rank + 1))
    result = {
        "stopped_at": stopped_at,
        "collectives": sequence() - before,
        "heard": heard,
        "broken": monitor._guard.broken,
    }
    partial = Path(output).with_suffix(".part")
    partial.write_text(json.dumps(result))
    partial.rename(output)
    while not Path(output).with_suffix(".go").exists():
        time.sleep(0.02)  # the test decides when everybody can be heard again
    monitor.finish(timeout_seconds=30.0)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
