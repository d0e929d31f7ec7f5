"""The cases: a way of sharing the model, whether and how the gradient is clipped, and what must come out."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tests.conformance import sharing, slicing
from tests.conformance.sharing import Build


@dataclass(frozen=True)
class Case:
    """One row of the table; its attributes say what must be so.

    Attributes:
        name: as shown.
        build: makes the part of one process.
        clips: whether the job clips.
        oddities: tied, small, frozen and unused parameters are in the model.
        tied: the embedding and the head are one parameter, on whatever processes they are.
        scales: a loss scaler is at work, and skips a step.
        worlds: numbers of processes that it runs on.
        summands: gradients of these modules are summands on every process, and nobody adds them up: their layers are
            not known, and steps are marked as inexact.
        flat: norms are of flat parameters instead of layers.
    """

    name: str
    build: Build
    clips: bool = True
    oddities: bool = False
    tied: bool = False
    scales: bool = False
    worlds: tuple[int, ...] = (2, 4)
    summands: str = ""
    flat: bool = False


CASES = (
    Case("DDP", sharing.ddp, oddities=True),
    Case("DDP, no clip", sharing.ddp, clips=False, oddities=True),
    Case("DDP, two micro-batches", functools.partial(sharing.ddp, micro_batches=2), oddities=True),
    Case("FSDP2", sharing.fsdp2, oddities=True),
    Case("FSDP2, no clip", sharing.fsdp2, clips=False, oddities=True),
    Case("FSDP2, two micro-batches", functools.partial(sharing.fsdp2, micro_batches=2), oddities=True),
    Case("HSDP (FSDP2 on two mesh dimensions)", sharing.hsdp, oddities=True, worlds=(4,)),
    Case("TP", functools.partial(slicing.tensor_parallel, sequences=False)),
    Case("TP, no clip", functools.partial(slicing.tensor_parallel, sequences=False), clips=False),
    Case(
        "TP, norms left plain, no clip",
        functools.partial(slicing.tensor_parallel, sequences=False, plain_norms=True),
        clips=False,
    ),
    Case("TP + sequence parallel", functools.partial(slicing.tensor_parallel, sequences=True)),
    Case(
        "TP + sequence parallel, no clip",
        functools.partial(slicing.tensor_parallel, sequences=True),
        clips=False,
        summands="norm",
    ),
    Case("TP + FSDP2", functools.partial(slicing.sliced_and_sharded, sequences=False), worlds=(4,)),
    Case("TP + sequence parallel + FSDP2", functools.partial(slicing.sliced_and_sharded, sequences=True), worlds=(4,)),
    Case("FSDP1, original parameters", functools.partial(sharing.fsdp1, original=True)),
    Case("FSDP1, flat parameters", functools.partial(sharing.fsdp1, original=False), flat=True),
    Case("Pipeline", slicing.pipeline),
    Case("Pipeline, no clip", slicing.pipeline, clips=False),
    Case("Pipeline, first and last stage tied", functools.partial(slicing.pipeline, tied=True), tied=True),
    Case("DDP, a loss scaler that backs off", sharing.ddp, oddities=True, scales=True),
    Case("FSDP2, a loss scaler that backs off", sharing.fsdp2, oddities=True, scales=True),
)
