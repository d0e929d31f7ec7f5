"""Our server as a process, and clients that send it frames as fast as it takes them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from grpc import aio

from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry
from tests.benchmarks.lean import LeanConnection, ask, exchange

LAYERS = 150
# How many streams are opened and closed at once: a fleet does not start in the same millisecond.
OPENING = 50
NAMES = [f"decoder.layers.{index}.weight" for index in range(LAYERS)]


def walk(steps: int, seed: int) -> npt.NDArray[np.float32]:
    """Norms like those of a healthy run: a log-normal level a layer with noise about it; [steps, LAYERS]."""
    generator = np.random.default_rng(seed)
    level = generator.normal(0.0, 1.5, LAYERS)
    return np.exp(level + generator.normal(0.0, 0.15, (steps, LAYERS))).astype(np.float32)


class Stoppable:
    """A process that stands still while others are measured."""

    process: subprocess.Popen[str] | subprocess.Popen[bytes]

    def stop(self) -> None:
        """It does nothing from now on."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It does again."""
        self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Lets a stopped process go on within the block."""
        self.go_on()
        try:
            yield
        finally:
            self.stop()


class ServerProcess(Stoppable):
    """`seismograd serve` with everything on, on free ports, in a folder of its own."""

    def __init__(self, folder: Path, config: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder.parent / "seismograd.toml"
        file.write_text(config)
        command = [str(Path(sys.executable).with_name("seismograd")), "serve", "--json", "--data-dir", str(folder)]
        command += ["--config", str(file)]
        command += ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        self._log = (folder.parent / "server.log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.target = f"127.0.0.1:{ready['grpc_port']}"
        self.http_port: int = ready["http_port"]

    def cpu_seconds(self) -> float:
        """Processor time of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory of the process now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """Ends it."""
        self.go_on()
        self.process.terminate()
        self.process.wait(timeout=60)
        self._log.close()


class Run:
    """What the one rank of a run tells; it goes on from one call of `frames` to the next."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.handle = 0
        self.next = 0

    def opening(self) -> telemetry.OpenRunRequest:
        """What introduces the rank."""
        parameters = [
            telemetry.Parameter(name=name, shape=[64, 64], numel=4096, local_numel=4096, dtype="float32", depth=depth)
            for depth, name in enumerate(NAMES)
        ]
        return telemetry.OpenRunRequest(
            project="bench",
            run=self._name,
            launch_id=f"launch of {self._name}",
            world_size=1,
            session_id=self._name,
            optimizers=[telemetry.OptimizerInfo(class_name="torch.optim.adamw.AdamW")],
            catalogs=[telemetry.Catalog(parameters=parameters)],
        )

    def frames(self, requests: int, steps_a_request: int, norms: npt.NDArray[np.float32]) -> list[bytes]:
        """The next frames; `norms` are repeated in each."""
        flags = np.zeros(steps_a_request, "<u2").tobytes()
        sources = np.full(steps_a_request, telemetry.NORM_SOURCE_CLIP, np.uint8).tobytes()
        times, values, frames = np.full(steps_a_request, time.time(), "<f8").tobytes(), norms.tobytes(), []
        for _ in range(requests):
            batch = telemetry.StepBatch(
                rank_handle=self.handle,
                kind=telemetry.RECORD_KIND_STEP,
                first_sequence=self.next,
                count=steps_a_request,
                first_step=self.next,
                times_unix_seconds=times,
                sources=sources,
                flags=flags,
                gradient_norms=values,
            )
            frames.append(telemetry.StreamStepsRequest(batches=[batch]).SerializeToString())
            self.next += steps_a_request
        return frames

    def farewell(self) -> telemetry.CloseRunRequest:
        """What says that the run has ended well."""
        return telemetry.CloseRunRequest(rank_handle=self.handle, outcome=telemetry.RANK_OUTCOME_FINISHED)


class Stream(Run):
    """A run that speaks through Python's gRPC client, in its own connection."""

    def __init__(self, target: str, name: str) -> None:
        super().__init__(name)
        # gRPC would otherwise send all streams to one address through one connection: jobs do not share theirs.
        self.channel = aio.insecure_channel(target, options=(("grpc.use_local_subchannel_pool", 1),))

    async def open(self) -> None:
        """Introduces the rank."""
        call = self.channel.unary_unary(
            method_path(TELEMETRY_SERVICE, "OpenRun"),
            request_serializer=telemetry.OpenRunRequest.SerializeToString,
            response_deserializer=telemetry.OpenRunResponse.FromString,
        )
        self.handle = int((await call(self.opening(), timeout=60)).rank_handle)

    def call(self) -> aio.StreamStreamCall[bytes, telemetry.StreamStepsResponse]:
        """Begins to stream."""
        return self.channel.stream_stream(
            method_path(TELEMETRY_SERVICE, "StreamSteps"),
            response_deserializer=telemetry.StreamStepsResponse.FromString,
        )()

    async def close(self) -> None:
        """Says goodbye, so that the run ends, and hangs up."""
        call = self.channel.unary_unary(
            method_path(TELEMETRY_SERVICE, "CloseRun"),
            request_serializer=telemetry.CloseRunRequest.SerializeToString,
            response_deserializer=telemetry.CloseRunResponse.FromString,
        )
        await call(self.farewell(), timeout=60)
        await self.channel.close()


class LeanStream(Run):
    """A run that costs the core it shares with the server next to nothing, in its own connection."""

    def __init__(self, target: str, name: str) -> None:
        super().__init__(name)
        self.connection = LeanConnection(target)
        self._streaming = False
        self._durable = 0

    def prepare(self, requests: int, steps_a_request: int, norms: npt.NDArray[np.float32]) -> None:
        """Lets the next frames wait, as they go out, for `exchange`."""
        if not self._streaming:
            self.connection.begin(method_path(TELEMETRY_SERVICE, "StreamSteps"), self._take)
            self._streaming = True
        for frame in self.frames(requests, steps_a_request, norms):
            self.connection.put(self.connection.prepared(frame))

    @property
    def durable(self) -> bool:
        """Whether everything that has been prepared is acknowledged."""
        return self._durable >= self.next

    def _take(self, answer: bytes) -> None:
        response = telemetry.StreamStepsResponse.FromString(answer)
        if response.rejections:
            raise RuntimeError(f"refused: {response.rejections[0]}")
        self._durable = max([self._durable, *(mark.durable_sequence for mark in response.watermarks)])


def open_all(streams: Sequence[LeanStream]) -> None:
    """Introduces each rank."""
    for some in _batches(streams):
        requests = [(each.connection, each.opening().SerializeToString()) for each in some]
        for each, answer in zip(some, ask(method_path(TELEMETRY_SERVICE, "OpenRun"), requests), strict=True):
            each.handle = telemetry.OpenRunResponse.FromString(answer).rank_handle


def close_all(streams: Sequence[LeanStream]) -> None:
    """Says goodbye for each, so that the runs end, and hangs up."""
    for some in _batches(streams):
        connections = [each.connection for each in some]
        for connection in connections:
            if not connection.ended:  # a run that has only been opened has no stream to end
                connection.finish()
        exchange(connections, partial(_all_ended, connections))
        requests = [(each.connection, each.farewell().SerializeToString()) for each in some]
        ask(method_path(TELEMETRY_SERVICE, "CloseRun"), requests)
        for connection in connections:
            connection.close()


def _all_ended(connections: Sequence[LeanConnection]) -> bool:
    return all(each.ended for each in connections)


def _batches(streams: Sequence[LeanStream]) -> Iterator[Sequence[LeanStream]]:
    for start in range(0, len(streams), OPENING):
        yield streams[start : start + OPENING]
