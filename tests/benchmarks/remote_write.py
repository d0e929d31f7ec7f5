"""Debian's Prometheus as a remote-write receiver of the same norms, with a sender that costs next to nothing."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.benchmarks.serving import LAYERS, NAMES, Stoppable, walk
from tests.support.processes import free_port


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


class Prometheus(Stoppable):
    """One process, pinned as its parent is. A run is a set of LAYERS series."""

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
        self._milliseconds = int((time.time() - 3600) * 1000)
        self._labels: dict[int, list[bytes]] = {}
        self._turn = 0
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

    def turn(self, runs: int, requests: int, steps_a_request: int) -> float:
        """Goes on, receives, and is stopped again; values per second as `send`."""
        with self.going_on():
            return self.send(runs, requests, steps_a_request)

    def send(self, runs: int, requests: int, steps_a_request: int) -> float:
        """Values per second from the first request to the last answer; the runs take turns over all calls."""
        norms = walk(steps_a_request, seed=self._turn).astype(np.float64)
        for run in range(runs):  # a series costs far more when it is new, and a run is new once
            if run not in self._labels:
                self._labels[run] = _labels(run)
                self._post(self._encode(self._labels[run], norms[:1]), 1)
        began = time.perf_counter()
        for _ in range(requests):
            self._post(self._encode(self._labels[self._turn % runs], norms), steps_a_request)
            self._turn += 1
        return requests * norms.size / (time.perf_counter() - began)

    def _post(self, message: bytes, steps: int) -> None:
        self._milliseconds += steps  # an hour is enough for all that a benchmark sends
        headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
        self._connection.request("POST", "/api/v1/write", snappy_block(message), headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise RuntimeError(f"remote write: {response.status} {answer[:200]!r}")

    def _encode(self, labels: list[bytes], norms: npt.NDArray[np.float64]) -> bytes:
        stamps = [b"\x10" + varint(self._milliseconds + step) for step in range(len(norms))]
        length = 9 + len(stamps[0])
        head = bytes([0x12, length, 0x09])
        samples = np.zeros((LAYERS, len(norms), 2 + length), np.uint8)
        samples[:, :, :3] = np.frombuffer(head, np.uint8)
        samples[:, :, 3:11] = np.ascontiguousarray(norms.T).view(np.uint8).reshape(LAYERS, len(norms), 8)
        samples[:, :, 11:] = np.frombuffer(b"".join(stamps), np.uint8).reshape(len(norms), -1)
        return b"".join(field(1, label + samples[index].tobytes()) for index, label in enumerate(labels))

    def close(self) -> None:
        """Ends it."""
        self.go_on()
        self.process.terminate()
        self.process.wait(timeout=60)
        self._log.close()


def _labels(run: int) -> list[bytes]:
    labels = []
    for name in NAMES:
        pairs = (("__name__", "grad_norm"), ("layer", name), ("rank", "0"), ("run", f"run-{run}"))
        labels.append(b"".join(field(1, field(1, key.encode()) + field(2, value.encode())) for key, value in pairs))
    return labels
