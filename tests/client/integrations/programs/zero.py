"""One rank of a DeepSpeed training on gloo: `python zero.py RANK WORLD PORT STAGE TYPE OUTPUT` (JSON)."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seismograd.integrations import deepspeed as watching
from seismograd.testing import RecordingTransport

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main() -> None:
    rank, world, port, stage, kind, output = sys.argv[1:]
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    # By name: it looks at the environment when it is imported, and is not installed everywhere.
    deepspeed: Any = importlib.import_module("deepspeed")

    # It asks whether the processor is fast at float16; torch computes with it on any.
    deepspeed.accelerator.get_accelerator().is_fp16_supported = lambda: True

    torch.manual_seed(0)
    deepspeed.init_distributed("gloo", verbose=False)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 0.05,
        "optimizer": {"type": "Adam", "params": {"lr": 0.01, "torch_adam": True}},
        "zero_optimization": {"stage": int(stage)},
        "bf16": {"enabled": kind == "bf16"},
        # The first of these scales is too large for the gradients here, a few halvings later they fit.
        "fp16": {"enabled": kind == "fp16", "initial_scale_power": 21, "hysteresis": 1},
    }
    engine, _, _, _ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    transport = RecordingTransport()
    monitor = watching.watch(engine, project="tests", run="zero", transport=transport)
    norms = []
    for batch in range(12):
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * batch + int(rank)))
        loss = engine(inputs.to(TYPES[kind])).float().pow(2).mean()
        engine.backward(loss)
        is_step = engine.is_gradient_accumulation_boundary()
        engine.step()
        if is_step:
            monitor.log(loss=loss)
            norms.append(engine.get_global_grad_norm())
    report = monitor.finish(timeout_seconds=20.0)
    torch.distributed.barrier()  # rank 0 holds the store in which the ranks agree on the launch
    assert report.complete
    records = [
        {
            "step": record.step,
            "source": record.source.name,
            "flags": int(record.flags),
            "total": record.total_norm,
            "norms": None if record.gradient_norms is None else record.gradient_norms.tolist(),
            **{quantity.name.lower(): value for quantity, value in record.scalars.items()},
        }
        for record in transport.ledger.records(rank=int(rank))
    ]
    (identity,) = transport.ledger.identities.values()
    told = {
        "records": records,
        "norms": [None if norm is None else float(norm) for norm in norms],
        "strategy": identity.strategy,
        "config": identity.config_json,
        "broken": monitor._guard.broken,
    }
    Path(output).write_text(json.dumps(told))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
