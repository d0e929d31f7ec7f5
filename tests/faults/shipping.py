"""Clients that outlive their server: they journal every ack, and send what is unacknowledged to the next one, untidily.

What they send is a pure function of (run, rank, sequence), so that what is stored can be told from what was sent.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import grpc
import numpy as np
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry
from tests.support.synthetic import LAYERS, exploding_losses, exploding_norms, healthy_norms

Answer = TypeVar("Answer", bound=Message)
STEPS = 240
RANKS = 2
ONSET = 150
RUNS = {"healthy": healthy_norms(STEPS, seed=3), "exploding": exploding_norms(STEPS, ONSET)}
LOSSES = {"healthy": 3.0 - np.arange(STEPS) * 0.001, "exploding": exploding_losses(STEPS, ONSET)}
# A server that has died under a call is noticed at once; this is for one that hangs.
_CALL_SECONDS = 60.0
_LONGEST_FRAME = 12


@dataclass
class Shipper:
    """One rank of one run. `journal` is what it was told to be durable: what must never be missing again."""

    run: str
    rank: int
    seed: int
    journal: int = 0  # every record below this sequence was acknowledged
    lost: int = 0  # acknowledged records that a later server did not have
    done: bool = False
    refusals: list[str] = field(default_factory=list)  # what living servers said that would not take a record
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.run} {self.rank} {self.seed}")

    def ship(self, port: int) -> None:
        """Open the run, send what is unacknowledged, say farewell; return when done, or when the server has died."""
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                self._ship(channel)
        except grpc.RpcError as error:
            if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                raise
            if (seconds := retry_delay(error)) is not None:
                self.refusals.append(error.details() or "")
                assert 0 < seconds <= 60

    def _ship(self, channel: grpc.Channel) -> None:
        opened = unary(channel, "OpenRun", self._identity(), telemetry.OpenRunResponse)
        durable = max((mark.durable_sequence for mark in opened.watermarks), default=0)
        self.lost += max(0, self.journal - durable)
        self.journal = max(self.journal, durable)
        if durable < STEPS:
            self._stream(channel, opened.rank_handle)
        farewell = telemetry.CloseRunRequest(rank_handle=opened.rank_handle, outcome=telemetry.RANK_OUTCOME_FINISHED)
        unary(channel, "CloseRun", farewell, telemetry.CloseRunResponse)
        self.done = True

    def _stream(self, channel: grpc.Channel, handle: int) -> None:
        over = threading.Event()

        def outgoing() -> Iterator[bytes]:
            for first, stop in self._pieces():
                if over.wait(self.chance.uniform(0.0, 0.006)):
                    return
                yield telemetry.StreamStepsRequest(batches=[self._batch(handle, first, stop)]).SerializeToString()
            over.wait()

        call: grpc.StreamStreamMultiCallable[bytes, telemetry.StreamStepsResponse] = channel.stream_stream(
            method_path(TELEMETRY_SERVICE, "StreamSteps"),
            response_deserializer=telemetry.StreamStepsResponse.FromString,
        )
        try:
            for answer in call(outgoing(), timeout=_CALL_SECONDS):
                assert not answer.rejections, answer
                self.journal = max([self.journal, *(mark.durable_sequence for mark in answer.watermarks)])
                if self.journal >= STEPS:
                    return
        finally:
            over.set()

    def _pieces(self) -> Sequence[tuple[int, int]]:
        """What is unacknowledged, cut anywhere, beginning too early, with neighbours swapped and pieces sent twice."""
        first = max(0, self.journal - self.chance.randint(0, 2 * _LONGEST_FRAME))
        cuts = [first]
        while cuts[-1] < STEPS:
            cuts.append(min(STEPS, cuts[-1] + self.chance.randint(1, _LONGEST_FRAME)))
        pieces = list(itertools.pairwise(cuts))
        for index in range(len(pieces) - 1):
            if self.chance.random() < 0.15:
                pieces[index], pieces[index + 1] = pieces[index + 1], pieces[index]
        return [piece for piece in pieces for _ in range(1 + (self.chance.random() < 0.15))]

    def _identity(self) -> telemetry.OpenRunRequest:
        parameters = [
            telemetry.Parameter(
                name=name,
                shape=[64, 64],
                numel=4096,
                local_numel=4096,
                dtype="float32",
                module_type="Linear",
                depth=depth,
                replication=RANKS,
                replica_index=self.rank,
            )
            for depth, name in enumerate(LAYERS)
        ]
        return telemetry.OpenRunRequest(
            project="killed",
            run=self.run,
            launch_id=f"launch of {self.run}",
            rank=self.rank,
            world_size=RANKS,
            session_id=f"{self.run} {self.rank}",
            optimizers=[telemetry.OptimizerInfo(class_name="torch.optim.adamw.AdamW")],
            catalogs=[telemetry.Catalog(parameters=parameters)],
        )

    def _batch(self, handle: int, first: int, stop: int) -> telemetry.StepBatch:
        count = stop - first
        batch = telemetry.StepBatch(
            rank_handle=handle,
            kind=telemetry.RECORD_KIND_STEP,
            first_sequence=first,
            count=count,
            first_step=first,
            times_unix_seconds=(1.7e9 + np.arange(first, stop)).astype("<f8").tobytes(),
            sources=bytes([telemetry.NORM_SOURCE_CLIP]) * count,
            flags=bytes(2 * count),
            total_norms=totals(self.run)[first:stop].astype("<f8").tobytes(),
            scalars=[
                telemetry.ScalarColumn(
                    quantity=telemetry.QUANTITY_LOSS,
                    values=LOSSES[self.run][first:stop].astype("<f8").tobytes(),
                )
            ],
        )
        if self.rank == 0:
            batch.gradient_norms = RUNS[self.run][first:stop].astype("<f4").tobytes()
        return batch


def totals(run: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The global norm of every step of a run."""
    norms: np.ndarray[tuple[int], np.dtype[np.float64]] = np.sqrt(np.square(RUNS[run], dtype=np.float64).sum(axis=1))
    return norms


def shippers(seed: int) -> list[Shipper]:
    """Every rank of every run, at the beginning."""
    return [Shipper(run, rank, seed) for run in RUNS for rank in range(RANKS)]


def ship_all(fleet: Sequence[Shipper], port: int) -> None:
    """Let all ship at once, until each is done or the server is dead; raises what any of them found."""
    failures: list[BaseException] = []

    def one(shipper: Shipper) -> None:
        try:
            shipper.ship(port)
        except BaseException as error:  # noqa: BLE001 (raised below, in the thread of the test)
            failures.append(error)

    threads = [threading.Thread(target=one, args=(each,)) for each in fleet if not each.done]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def retry_delay(error: grpc.RpcError) -> float | None:
    """When the server says to come back, in seconds; None = it does not say, as when it has died."""
    for key, value in cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ()):
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return float(info.retry_delay.ToTimedelta().total_seconds())
    return None


def unary(channel: grpc.Channel, method: str, request: Message, answer: type[Answer]) -> Answer:
    """One call of the ingest service."""
    call: grpc.UnaryUnaryMultiCallable[Message, Answer] = channel.unary_unary(
        method_path(TELEMETRY_SERVICE, method),
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return call(request, timeout=_CALL_SECONDS)
