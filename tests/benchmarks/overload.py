"""Ten times as many clients as fill the server, none of which waits for anything but flow control.

Goodput is what is made durable a second, as a share of what it was with a tenth of the clients. Recovery is how long,
after the last of them has gone, it takes until everything durable has been judged and a newcomer is served within a
second. The server has one core, the clients another.

The second part gives a server memory for as many runs as fill its core, and lets ten times as many come: the others are
refused before anything is taken, come back when they are told to, and are served once those have gone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc import aio

from seismograd_proto.v1 import telemetry
from seismograd_server.config import Settings
from tests.benchmarks.measure import table
from tests.benchmarks.serving import LAYERS, ServerProcess, Stream, walk

FEW, TIMES = 4, 10
STEPS = 64  # of a frame
_PATIENCE_SECONDS = 60.0


def memory_for(runs: int) -> int:
    """The `max_memory_bytes` with which so many of these runs fit, and not another one.

    One takes 259 KiB by the server's own figures, and their one catalog 75.
    """
    return 2**30 - Settings(max_memory_bytes=2**30).standing_bytes + (runs * 259 + 75 + 240) * 2**10


@dataclass
class Client:
    """One run with one stream; what is refused it sends again."""

    stream: Stream
    norms_seed: int
    durable: int = 0
    refusals: int = 0
    without_time: int = 0  # refusals that did not say when to come back
    lost: int = 0

    async def enter(self) -> None:
        """Open the run, as often as it takes."""
        while True:
            try:
                return await self.stream.open()
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                self.refusals += 1
                await asyncio.sleep(seconds_to_wait(error))

    async def live(self, over: asyncio.Event) -> None:
        """Enter, ship until it is over, at least until something is durable, and leave."""
        await self.enter()
        shipping = asyncio.create_task(self.run())
        await over.wait()
        while not self.durable:  # noqa: ASYNC110 (it moves often)
            await asyncio.sleep(0.02)
        shipping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await shipping
        await self.stream.close()

    async def run(self) -> None:
        """Ship until cancelled, over as many calls as it takes."""
        while True:
            call = self.stream.call()
            writing = asyncio.create_task(self._write(call))
            try:
                async for answer in call:
                    mark = max((mark.durable_sequence for mark in answer.watermarks), default=self.durable)
                    self.lost += max(0, self.durable - mark)
                    self.durable = max(self.durable, mark)
            except aio.AioRpcError as error:
                self.refusals += 1
                self.without_time += "grpc-status-details-bin" not in dict(error.trailing_metadata() or ())
            finally:
                writing.cancel()
                call.cancel()
            await asyncio.sleep(1.0)  # as the server asks
            self.stream.next = self.durable

    async def _write(self, call: aio.StreamStreamCall[bytes, telemetry.StreamStepsResponse]) -> None:
        norms = walk(STEPS, self.norms_seed)
        while True:
            for frame in self.stream.frames(1, STEPS, norms):
                await call.write(frame)


@dataclass(frozen=True)
class Load:
    """What came of a load.

    Attributes:
        values_a_second: made durable.
        peak_bytes: of the server's memory.
        busy: the share of its core that the server took.
        clients: those who made it.
    """

    values_a_second: float
    peak_bytes: int
    busy: float
    clients: list[Client]


async def load(server: ServerProcess, name: str, count: int, seconds: float) -> Load:
    """So many clients at once, from when each has had an ack."""
    clients = [Client(Stream(server.target, f"{name}-{index}"), index) for index in range(count)]
    for client in clients:
        await client.stream.open()
    tasks = [asyncio.create_task(client.run()) for client in clients]
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not all(client.durable for client in clients):  # noqa: ASYNC110 (many may move, and each often)
            await asyncio.sleep(0.05)
    before, began, cpu, peak = sum(each.durable for each in clients), time.perf_counter(), server.cpu_seconds(), 0
    while time.perf_counter() - began < seconds:
        await asyncio.sleep(0.1)
        peak = max(peak, server.resident_bytes())
    elapsed = time.perf_counter() - began
    steps, busy = sum(each.durable for each in clients) - before, (server.cpu_seconds() - cpu) / elapsed
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for client in clients:
        await client.stream.close()
    return Load(steps * LAYERS / elapsed, peak, busy, clients)


@dataclass(frozen=True)
class Crowd:
    """What came of clients most of which found no room.

    Attributes:
        values_a_second: made durable while those who were first shipped.
        peak_bytes: of the server's memory.
        served_seconds: from when those left until every one of the others had been served and had left; inf = never.
        clients: all of them.
    """

    values_a_second: float
    peak_bytes: int
    served_seconds: float
    clients: list[Client]


async def crowd(server: ServerProcess, count: int, seconds: float) -> Crowd:
    """So many clients come at once, of which `FEW` fit."""
    clients, over = [Client(Stream(server.target, f"crowd-{index}"), index) for index in range(count)], asyncio.Event()
    lives = [asyncio.create_task(client.live(over)) for client in clients]
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while sum(client.durable > 0 for client in clients) < FEW:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.05)
    before, began, peak = sum(each.durable for each in clients), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        await asyncio.sleep(0.1)
        peak = max(peak, server.resident_bytes())
    rate = (sum(each.durable for each in clients) - before) * LAYERS / (time.perf_counter() - began)
    over.set()
    began = time.perf_counter()
    _, late = await asyncio.wait(lives, timeout=_PATIENCE_SECONDS)
    for life in late:
        life.cancel()
    await asyncio.gather(*lives)
    return Crowd(rate, peak, time.perf_counter() - began, clients)


def seconds_to_wait(error: aio.AioRpcError) -> float:
    """When the server says to come back."""
    info = RetryInfo()
    trailers = dict(error.trailing_metadata() or ())
    details = Status.FromString(bytes(trailers["grpc-status-details-bin"])).details
    assert details[0].Unpack(info), "the refusal does not say when to come back"
    return float(info.retry_delay.ToTimedelta().total_seconds())


async def ship(stream: Stream) -> None:
    """One frame; returns when it is durable."""
    call = stream.call()
    for frame in stream.frames(1, STEPS, walk(STEPS, 0)):
        await call.write(frame)
    async for answer in call:
        if any(mark.durable_sequence >= stream.next for mark in answer.watermarks):
            break
    else:
        raise RuntimeError("the server has ended the stream")
    await call.done_writing()


async def recover(server: ServerProcess, name: str) -> float:
    """Seconds until everything durable has been judged and a newcomer's frame is acknowledged within a second."""
    began = time.perf_counter()
    while time.perf_counter() - began < _PATIENCE_SECONDS:
        newcomer = Stream(server.target, f"{name}-{time.perf_counter():.3f}")
        await Client(newcomer, 0).enter()
        asked = time.perf_counter()
        await ship(newcomer)
        served = time.perf_counter() - asked
        await newcomer.close()
        if served < 1.0 and await asyncio.to_thread(lag_seconds, server) < 1.0:
            return time.perf_counter() - began
        await asyncio.sleep(0.1)
    return float("inf")


def lag_seconds(server: ServerProcess) -> float:
    """The age of the oldest record that no detector has judged, as the server says."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=_PATIENCE_SECONDS)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(float(line.split()[1]) for line in lines if line.startswith("seismograd_detector_lag_seconds{"))


async def measure(server: ServerProcess, seconds: float) -> None:
    """Prints goodput, memory, refusals and recovery; the server has memory for all of them."""
    await load(server, "warm-up", FEW, seconds / 4)
    await recover(server, "warm")
    few = await load(server, "few", FEW, seconds)
    await recover(server, "after-few")
    many = await load(server, "many", FEW * TIMES, seconds)
    recovery = await recover(server, "after-many")
    rows = [
        [
            str(len(each.clients)),
            f"{each.values_a_second / 1e6:.2f} M",
            f"{each.values_a_second / few.values_a_second:.0%}",
            f"{each.busy:.0%}",
            f"{each.peak_bytes / 2**20:.0f} MiB",
        ]
        for each in (few, many)
    ]
    header = ["clients", "values/s durable", "goodput", "of its core", "memory"]
    table(f"Overload: the server on one core, {LAYERS} layers, {STEPS} steps a frame", header, rows)
    print(
        f"  memory may be {memory_for(FEW * TIMES) / 2**20:.0f} MiB; "
        f"recovered after {recovery:.1f} s; refused: {sum(each.refusals for each in many.clients)} streams, "
        f"{sum(each.without_time for each in many.clients)} of them without a time to come back; "
        f"acknowledged and lost: {sum(each.lost for each in many.clients)}"
    )


async def measure_refusals(server: ServerProcess, seconds: float) -> None:
    """Prints the goodput of a server whose memory is full, and how those that it refused fared."""
    await load(server, "warm-up", FEW, seconds / 4)
    await recover(server, "warm")
    few = await load(server, "few", FEW, seconds)
    await recover(server, "after-few")
    many = await crowd(server, FEW * TIMES, seconds)
    served = sum(client.durable > 0 for client in many.clients)
    rows = [
        [str(FEW), f"{few.values_a_second / 1e6:.2f} M", "100%", f"{few.peak_bytes / 2**20:.0f} MiB"],
        [
            str(FEW * TIMES),
            f"{many.values_a_second / 1e6:.2f} M",
            f"{many.values_a_second / few.values_a_second:.0%}",
            f"{many.peak_bytes / 2**20:.0f} MiB",
        ],
    ]
    header = ["clients", "values/s durable", "goodput", "memory"]
    table(f"A server with memory for {FEW} runs ({memory_for(FEW) / 2**20:.0f} MiB in all)", header, rows)
    print(
        f"  refused and told when to come back: {sum(client.refusals for client in many.clients)} times; "
        f"{served} of {len(many.clients)} were served, the last one {many.served_seconds:.1f} s after there was room; "
        f"acknowledged and lost: {sum(client.lost for client in many.clients)}"
    )


def main() -> None:
    """Starts the server on one core and the clients on another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    cores = sorted(os.sched_getaffinity(0))
    for runs, measured in ((FEW * TIMES, measure), (FEW, measure_refusals)):
        with tempfile.TemporaryDirectory() as scratch:
            os.sched_setaffinity(0, cores[:1])  # a child inherits it
            server = ServerProcess(Path(scratch) / "data", f"max_memory_bytes = {memory_for(runs)}")
            os.sched_setaffinity(0, cores[1:] or cores)
            try:
                asyncio.run(measured(server, seconds))
            finally:
                server.close()


if __name__ == "__main__":
    main()
