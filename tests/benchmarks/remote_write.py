"""Debian's Prometheus as a remote-write receiver of the same norms, with a sender that costs next to nothing.

Requests are prepared outside of the time that is taken, and go out through a plain socket.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.benchmarks.measure import touch_memory
from tests.benchmarks.serving import LAYERS, NAMES, Stoppable, walk
from tests.support.processes import free_port

_PREPARED = 50  # requests, of up to 200 KiB each


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
        self._milliseconds = int((time.time() - 3 * 3600) * 1000)
        self._labels: dict[int, list[bytes]] = {}
        self._turn = 0
        deadline = time.monotonic() + 60
        while not _is_ready(port):
            if time.monotonic() > deadline:
                raise TimeoutError("Prometheus did not become ready within 60 s")
            threading.Event().wait(0.2)
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def turn(self, runs: int, requests: int, steps_a_request: int) -> float:
        """Values per second from each request sent to its answer; the runs take turns over all calls.

        Between turns, and while requests are prepared, the process stands still.
        """
        norms = walk(steps_a_request, seed=self._turn).astype(np.float64)
        with self.going_on():
            for run in range(runs):  # a series costs far more when it is new, and a run is new once
                if run not in self._labels:
                    self._labels[run] = _labels(run)
                    self._exchange(self._request(self._labels[run], norms[:1]))
        touch_memory()
        seconds = 0.0
        for start in range(0, requests, _PREPARED):
            prepared = [self._next_request(runs, norms) for _ in range(min(_PREPARED, requests - start))]
            with self.going_on():
                began = time.perf_counter()
                for each in prepared:
                    self._exchange(each)
                seconds += time.perf_counter() - began
        return requests * norms.size / seconds

    def _next_request(self, runs: int, norms: npt.NDArray[np.float64]) -> bytes:
        labels = self._labels[self._turn % runs]
        self._turn += 1
        return self._request(labels, norms)

    def _request(self, labels: list[bytes], norms: npt.NDArray[np.float64]) -> bytes:
        body = snappy_block(self._encode(labels, norms))
        self._milliseconds += len(norms)  # three hours are enough for all that a benchmark sends
        head = (
            f"POST /api/v1/write HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
            "Content-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\n\r\n"
        )
        return head.encode() + body

    def _exchange(self, request: bytes) -> None:
        self._socket.sendall(request)
        answer = self._socket.recv(65536)
        while answer and b"\r\n\r\n" not in answer:
            answer += self._socket.recv(65536)
        if not answer.startswith(b"HTTP/1.1 204"):  # which has no content
            raise RuntimeError(f"remote write: {answer[:300]!r}")

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
        self._socket.close()
        self._log.close()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/-/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _labels(run: int) -> list[bytes]:
    labels = []
    for name in NAMES:
        pairs = (("__name__", "grad_norm"), ("layer", name), ("rank", "0"), ("run", f"run-{run}"))
        labels.append(b"".join(field(1, field(1, key.encode()) + field(2, value.encode())) for key, value in pairs))
    return labels
