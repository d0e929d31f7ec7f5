"""Values per second made durable: the whole server (acks, detection, alerts on) beside Prometheus and SQL rows.

A value is one (run, rank, step, layer) gradient norm; 150 layers. Every arm runs client and server on one and the same
core, in turn, and is timed from the first value sent to the last one acknowledged ("durable"), and on to the last step
that the detectors have judged ("judged"): the second figure is what the server sustains. Prometheus receives remote
write of the same series at the same number of steps a request (its write-ahead log is not synced to disk, ours is
committed; it judges nothing).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import sqlalchemy as sa

from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry
from tests.benchmarks.measure import interleave, median, paired_ratio, table

LAYERS = 150
NAMES = [f"decoder.layers.{index}.weight" for index in range(LAYERS)]
STEPS_A_REQUEST = (1, 16, 64)
# Enough that an arm runs for about a second on one core, whatever its speed.
REQUESTS = {1: 3000, 16: 1500, 64: 800}
PROMETHEUS_REQUESTS = {1: 1000, 16: 200, 64: 60}
ROW_STEPS = 300


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def walk(steps: int, seed: int) -> np.ndarray:
    """Norms like those of a healthy run: a log-normal level a layer with noise about it; float32 [steps, LAYERS]."""
    generator = np.random.default_rng(seed)
    level = generator.normal(0.0, 1.5, LAYERS)
    return np.exp(level + generator.normal(0.0, 0.15, (steps, LAYERS))).astype(np.float32)


class Seismograd:
    """One server process; every repetition is a run of its own over one stream."""

    def __init__(self, folder: Path) -> None:
        command = [str(Path(sys.executable).with_name("seismograd")), "serve", "--json", "--data-dir", str(folder)]
        command += ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
        self._log = (folder.parent / "server.log").open("w")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self._channel = grpc.insecure_channel(f"127.0.0.1:{ready['grpc_port']}")
        self._http = http.client.HTTPConnection("127.0.0.1", ready["http_port"], timeout=60)
        self._runs = 0
        self.judged: dict[int, list[float]] = {steps: [] for steps in STEPS_A_REQUEST}

    def _open(self) -> int:
        self._runs += 1
        parameters = [
            telemetry.Parameter(name=name, shape=[64, 64], numel=4096, local_numel=4096, dtype="float32", depth=depth)
            for depth, name in enumerate(NAMES)
        ]
        request = telemetry.OpenRunRequest(
            project="bench",
            run=f"run-{self._runs}",
            launch_id=f"launch-{self._runs}-{os.getpid()}",
            world_size=1,
            session_id=f"session-{self._runs}",
            optimizers=[telemetry.OptimizerInfo(class_name="torch.optim.adamw.AdamW")],
            catalogs=[telemetry.Catalog(parameters=parameters)],
        )
        call = self._channel.unary_unary(
            method_path(TELEMETRY_SERVICE, "OpenRun"),
            request_serializer=telemetry.OpenRunRequest.SerializeToString,
            response_deserializer=telemetry.OpenRunResponse.FromString,
        )
        return int(call(request, timeout=10).rank_handle)

    def send(self, steps_a_request: int) -> float:
        """Values per second from the first frame to the durable ack of the last one."""
        handle, requests = self._open(), REQUESTS[steps_a_request]
        norms, total = walk(steps_a_request, seed=handle), requests * steps_a_request
        flags = np.zeros(steps_a_request, "<u2").tobytes()
        sources = np.full(steps_a_request, telemetry.NORM_SOURCE_CLIP, np.uint8).tobytes()
        frames = []
        for index in range(requests):
            first = index * steps_a_request
            batch = telemetry.StepBatch(
                rank_handle=handle,
                kind=telemetry.RECORD_KIND_STEP,
                first_sequence=first,
                count=steps_a_request,
                first_step=first,
                times_unix_seconds=np.full(steps_a_request, time.time(), "<f8").tobytes(),
                sources=sources,
                flags=flags,
                gradient_norms=norms.tobytes(),
            )
            frames.append(telemetry.StreamStepsRequest(batches=[batch]).SerializeToString())
        durable = threading.Event()
        call: grpc.StreamStreamMultiCallable[bytes, telemetry.StreamStepsResponse] = self._channel.stream_stream(
            method_path(TELEMETRY_SERVICE, "StreamSteps"),
            response_deserializer=telemetry.StreamStepsResponse.FromString,
        )

        def outgoing() -> Iterator[bytes]:
            yield from frames
            durable.wait()

        began = time.perf_counter()
        for response in call(outgoing(), timeout=120):
            if any(mark.durable_sequence >= total for mark in response.watermarks):
                break
        elapsed = time.perf_counter() - began
        durable.set()
        self._http.close()  # the server has dropped it if the other arms took long; the next request opens it again
        while self._closed_steps() < total:
            threading.Event().wait(0.02)  # the core belongs to the server meanwhile
        self.judged[steps_a_request].append(total * LAYERS / (time.perf_counter() - began))
        return total * LAYERS / elapsed

    def _closed_steps(self) -> int:
        self._http.request("GET", f"/api/v1/runs/bench/run-{self._runs}")
        return int(json.loads(self._http.getresponse().read())["closed_steps"])

    def cpu_seconds(self) -> float:
        """Processor time of the server process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Stops the server."""
        self._channel.close()
        self.process.terminate()
        self.process.wait(timeout=30)
        self._log.close()


def varint(number: int) -> bytes:
    """Protobuf's and snappy's variable-length integer."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def snappy_block(data: bytes) -> bytes:
    """A valid snappy block of literals only: what costs both sides least."""
    chunks = [varint(len(data))]
    for start in range(0, len(data), 65536):
        piece = data[start : start + 65536]
        chunks.append(bytes([61 << 2]) + (len(piece) - 1).to_bytes(2, "little") + piece)
    return b"".join(chunks)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


class Prometheus:
    """Debian's Prometheus as a remote-write receiver."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "prometheus.yml").write_text("global: {}\n")
        port = free_port()
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--web.enable-remote-write-receiver"]
        self._log = (folder / "log").open("w")
        environment = os.environ | {"GOMAXPROCS": "1"}
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=environment)
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._runs, self._milliseconds = 0, int((time.time() - 3600) * 1000)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self._connection.request("GET", "/-/ready")
                response = self._connection.getresponse()
                response.read()
                if response.status == 200:
                    return
            self._connection.close()
            threading.Event().wait(0.2)
        raise TimeoutError("Prometheus did not become ready within 60 s")

    def send(self, steps_a_request: int) -> float:
        """Values per second from the first request to the last answer."""
        self._runs += 1
        labels = []
        for name in NAMES:
            pairs = (("__name__", "grad_norm"), ("layer", name), ("rank", "0"), ("run", f"run-{self._runs}"))
            labels.append(b"".join(field(1, field(1, key.encode()) + field(2, value.encode())) for key, value in pairs))
        requests = PROMETHEUS_REQUESTS[steps_a_request]
        norms = walk(steps_a_request, seed=self._runs).astype(np.float64)
        began = time.perf_counter()
        for _ in range(requests):
            body = snappy_block(self._encode(labels, norms, self._milliseconds))
            self._milliseconds += 10 * steps_a_request
            headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
            self._connection.request("POST", "/api/v1/write", body, headers)
            response = self._connection.getresponse()
            answer = response.read()
            if response.status >= 300:
                raise RuntimeError(f"remote write: {response.status} {answer[:200]!r}")
        return requests * norms.size / (time.perf_counter() - began)

    @staticmethod
    def _encode(labels: list[bytes], norms: np.ndarray, first_milliseconds: int) -> bytes:
        stamps = [b"\x10" + varint(first_milliseconds + 10 * step) for step in range(len(norms))]
        length = 9 + len(stamps[0])
        head = bytes([0x12, length, 0x09])
        samples = np.zeros((LAYERS, len(norms), 2 + length), np.uint8)
        samples[:, :, :3] = np.frombuffer(head, np.uint8)
        samples[:, :, 3:11] = np.ascontiguousarray(norms.T).view(np.uint8).reshape(LAYERS, len(norms), 8)
        samples[:, :, 11:] = np.frombuffer(b"".join(stamps), np.uint8).reshape(len(norms), -1)
        return b"".join(field(1, label + samples[index].tobytes()) for index, label in enumerate(labels))

    def close(self) -> None:
        """Stops Prometheus."""
        self.process.terminate()
        self.process.wait(timeout=30)
        self._log.close()


class SqlRows:
    """What a straightforward server does: a row per value, SQLAlchemy Core, 1,000 rows a transaction, WAL."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._engine = sa.create_engine(f"sqlite:///{folder}/rows.sqlite")
        self._table = sa.Table(
            "value",
            sa.MetaData(),
            *[sa.Column(name, sa.Integer, primary_key=True) for name in ("run", "layer", "rank", "step")],
            sa.Column("norm", sa.Float),
        )
        self._table.metadata.create_all(self._engine)
        with self._engine.connect() as connection:
            connection.exec_driver_sql("pragma journal_mode=wal")
        self._runs = 0

    def send(self) -> float:
        """Values per second inserted."""
        self._runs += 1
        norms = walk(ROW_STEPS, self._runs)
        rows = [
            {"run": self._runs, "layer": layer, "rank": 0, "step": step, "norm": value}
            for step, row in enumerate(norms.tolist())
            for layer, value in enumerate(row)
        ]
        began = time.perf_counter()
        for start in range(0, len(rows), 1000):
            with self._engine.begin() as connection:
                connection.execute(self._table.insert(), rows[start : start + 1000])
        return len(rows) / (time.perf_counter() - began)

    def close(self) -> None:
        """Closes the database."""
        self._engine.dispose()


def main() -> None:
    """Prints values per second and the ratios to Prometheus and to SQL rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    repetitions = parser.parse_args().repetitions
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # children inherit it: client and server share the core
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        (folder / "seismograd").mkdir()
        ours, rows = Seismograd(folder / "seismograd"), SqlRows(folder / "rows")
        stack.callback(ours.close)
        stack.callback(rows.close)
        arms: dict[str, Callable[[], float]] = {"rows": rows.send}
        for steps in STEPS_A_REQUEST:
            arms[f"ours {steps}"] = lambda steps=steps: ours.send(steps)  # type: ignore[misc]  # bound in the loop
        if shutil.which("prometheus"):
            peer = Prometheus(folder / "prometheus")
            stack.callback(peer.close)
            for steps in STEPS_A_REQUEST:
                arms[f"prometheus {steps}"] = lambda steps=steps: peer.send(steps)  # type: ignore[misc]  # likewise
        else:
            print("prometheus is not installed: its columns are left out")
        interleave(arms, 1)  # warm-up: caches, page files, the first run's tables
        cpu_before = ours.cpu_seconds()
        results = interleave(arms, repetitions)
        cpu = ours.cpu_seconds() - cpu_before
    sent = repetitions * LAYERS * sum(steps * REQUESTS[steps] for steps in STEPS_A_REQUEST)
    lines = []
    for steps in STEPS_A_REQUEST:
        own = results[f"ours {steps}"]
        beside = results.get(f"prometheus {steps}")
        judged = ours.judged[steps][-repetitions:]
        lines.append(
            [
                str(steps),
                f"{median(own) / 1e6:.2f} M",
                f"{median(judged) / 1e6:.2f} M",
                f"{median(beside) / 1e6:.2f} M" if beside else "-",
                f"{paired_ratio(own, beside):.1f} x" if beside else "-",
                f"{paired_ratio(judged, beside):.1f} x" if beside else "-",
                f"{paired_ratio(judged, results['rows']):.0f} x",
            ]
        )
    header = ["steps a request", "values/s durable", "judged", "Prometheus"]
    header += ["durable / Prometheus", "judged / Prometheus", "judged / SQL rows"]
    table("Server throughput, client and server on one core, 150 layers", header, lines)
    print(
        f"  server processor time: {cpu / sent * 1e9:.1f} ns a value; SQL rows: {median(results['rows']):,.0f} values/s"
    )


if __name__ == "__main__":
    main()
