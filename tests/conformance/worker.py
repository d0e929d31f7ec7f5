"""One process of a world: `main()` with the arguments RANK WORLD STORE FOLDER runs every case of that size.

Each case runs unwatched first and then watched, from the same beginning. What the client sent, as protobuf, and how the
two runs ended goes to FOLDER.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.utils import clip_grad_norm_ as early_clip

import seismograd
from seismograd.outbox.transport import TransportError
from seismograd.testing import Ledger, RecordingTransport
from seismograd_proto.v1 import telemetry
from tests.conformance.cases import CASES, Case
from tests.conformance.models import INITIAL_SCALE, OVERFLOW, RATE, STEPS, THRESHOLD
from tests.conformance.sharing import Shared


@dataclass
class Ending:
    """How a run ended on one process."""

    weights: list[bytes]  # of every parameter, as this process holds it
    clipped_to: list[bytes]  # what the clip returned, step by step
    collectives: int  # of the clips


@dataclass
class Report:
    """What one process says about one case."""

    plain: Ending
    watched: Ending
    opening: bytes = b""
    frames: list[bytes] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)


class KeepingTransport(RecordingTransport):
    """Acknowledges everything, and keeps the bytes."""

    def __init__(self) -> None:
        super().__init__(_KeepingLedger())
        self.opening = b""

    @property
    def frames(self) -> list[bytes]:
        """All frames sent, as protobuf."""
        assert isinstance(self.ledger, _KeepingLedger)
        return self.ledger.kept

    def open_run(
        self,
        request: telemetry.OpenRunRequest,
        timeout_seconds: float,
        done: Callable[[telemetry.OpenRunResponse | TransportError], None],
    ) -> None:
        self.opening = request.SerializeToString()
        super().open_run(request, timeout_seconds, done)


class _KeepingLedger(Ledger):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[bytes] = []

    def receive(self, frame: telemetry.StreamStepsRequest) -> telemetry.StreamStepsResponse:
        self.kept.append(frame.SerializeToString())
        return super().receive(frame)


def run_case(case: Case, rank: int, world: int) -> Report:
    """Both runs of a case."""
    plain = train(case, case.build(rank, world))[0]
    transport = KeepingTransport()
    watched, broken = train(case, case.build(rank, world), transport=transport)
    return Report(plain, watched, transport.opening, transport.frames, broken)


def train(case: Case, shared: Shared, **watched: Any) -> tuple[Ending, dict[str, str]]:
    """Trains; under watch when there is anything to tell `seismograd.watch`."""
    model = shared.model
    # Stages of a pipeline, for one, are not meant to have a frozen or an unused parameter in the optimizer.
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    monitor = None
    if watched:
        tied = {"words": ["embed.weight", "head.weight"]} if case.tied else None
        monitor = seismograd.watch(model, optimizer, project="conformance", run=case.name, tied=tied, **watched)
    scaler = torch.amp.GradScaler("cpu", init_scale=INITIAL_SCALE, enabled=case.scales)
    ending = Ending([], [], 0)
    for step in range(STEPS):
        optimizer.zero_grad()
        if case.scales:
            overflow = math.inf if step == OVERFLOW else 1.0
            shared.backward(step, lambda loss, overflow=overflow: scaler.scale(loss) * overflow)
            scaler.unscale_(optimizer)
        else:
            shared.backward(step)
        if case.clips:
            with CommDebugMode() as communication:
                total = shared.clip(THRESHOLD) if shared.clip else early_clip(model.parameters(), THRESHOLD)
            ending.collectives += communication.get_total_counts()
            ending.clipped_to.append(bits(total))
        scaler.step(optimizer)
        scaler.update()
    ending.weights = [bits(parameter) for parameter in model.parameters()]
    broken: dict[str, str] = {}
    if monitor is not None:
        monitor.finish(timeout_seconds=20.0)
        broken = dict(monitor._guard.broken)
    return ending, broken


def bits(tensor: Tensor) -> bytes:
    """What this process holds of a tensor."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.detach().contiguous().numpy().tobytes()


def main() -> None:
    """Runs the cases of this world, all in the same processes: to start one takes longer than to train."""
    folder = Path(sys.argv[4])
    with _joined() as (rank, world):
        reports = {case.name: run_case(case, rank, world) for case in CASES if world in case.worlds}
        (folder / f"{world}-{rank}.pickle").write_bytes(pickle.dumps(reports))


def deliver() -> None:
    """Runs one case under watch of a real server: arguments RANK WORLD STORE ADDRESS CASE."""
    (case,) = (case for case in CASES if case.name == sys.argv[5])
    with _joined() as (rank, world):
        _, broken = train(case, case.build(rank, world), server=sys.argv[4])
        assert not broken, broken


@contextmanager
def _joined() -> Iterator[tuple[int, int]]:
    """This process in its world: rank and size."""
    rank, world, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    for name in [name for name in os.environ if name.startswith(("TORCHELASTIC", "SLURM"))]:
        del os.environ[name]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    yield rank, world
    dist.barrier()
    dist.destroy_process_group()
