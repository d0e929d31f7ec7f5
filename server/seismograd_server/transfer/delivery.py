"""An imported run on its way into a server: over the wire, as a training job would send it, and each record once.

Who a record is follows from the log alone: the launch from its names and first record, the sequence from its place. So
the server knows what it has, and an import that was cut off, or is repeated over a log that has grown, sends the rest.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, Self

import grpc
import numpy as np

from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry
from seismograd_server.display.text import plural
from seismograd_server.errors import TransferError
from seismograd_server.model import IMPORTED_TAG, NormSource, RecordFlag, RunKey
from seismograd_server.transfer.assembling import EVERYTHING, ImportedRun

# Opening and closing a run are answered at once; closing waits for all steps to be judged.
_OPEN_SECONDS, _CLOSE_SECONDS = 10.0, 1800.0
# Records of one frame at most: a frame is acknowledged before the next is sent, within two hundredths of a second.
_MOST_RECORDS = 4096
# Of the bytes that a frame may have, for everything but the columns.
_HEADROOM = 0.75
_LARGEST_MESSAGE = 2**30
# A norm that is known for the total only.
_NO_PARAMETER = 2**32 - 1


class Delivery:
    """A connection to a server; use it as a context manager."""

    def __init__(self, address: str) -> None:
        self._address = address
        options = [("grpc.max_send_message_length", _LARGEST_MESSAGE)]
        self._channel = grpc.insecure_channel(address, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def send(self, run: ImportedRun, key: RunKey, source: str, progress: Callable[[int], None]) -> int:
        """Sends what the server does not have yet, and closes the run; gives how many records that was.

        Args:
            run: what was read.
            key: as it is called here.
            source: the format, for people.
            progress: hears how many records are durable.

        Raises:
            TransferError: the server cannot be reached, or refuses; what it has acknowledged stays, and the same import
                goes on from there.
        """
        try:
            opened = self._call("OpenRun", _opening(run, key, source), telemetry.OpenRunResponse, _OPEN_SECONDS)
            there = next((each.durable_sequence for each in opened.watermarks if each.optimizer == 0), 0)
            progress(there)
            if there < run.count:
                self._stream(run, opened, there, progress)
            closing = telemetry.CloseRunRequest(rank_handle=opened.rank_handle, reason=run.failed)
            closing.outcome = telemetry.RANK_OUTCOME_FAILED if run.failed else telemetry.RANK_OUTCOME_FINISHED
            self._call("CloseRun", closing, telemetry.CloseRunResponse, _CLOSE_SECONDS)
        except grpc.RpcError as error:
            raise self._translated(error) from error
        return max(0, run.count - int(there))

    def _stream(
        self, run: ImportedRun, opened: telemetry.OpenRunResponse, there: int, progress: Callable[[int], None]
    ) -> None:
        method = self._channel.stream_stream(
            method_path(TELEMETRY_SERVICE, "StreamSteps"),
            request_serializer=telemetry.StreamStepsRequest.SerializeToString,
            response_deserializer=telemetry.StreamStepsResponse.FromString,
        )
        frames: queue.SimpleQueue[telemetry.StreamStepsRequest | None] = queue.SimpleQueue()
        answers = method(iter(frames.get, None))
        try:
            for first, stop in _cuts(run, opened.limits, there):
                frames.put(telemetry.StreamStepsRequest(batches=[_batch(run, opened.rank_handle, first, stop)]))
                _await(answers, stop)
                progress(stop)
        finally:
            frames.put(None)
            answers.cancel()

    def _call(self, name: str, request: Any, answer: Any, seconds: float) -> Any:
        method = self._channel.unary_unary(
            method_path(TELEMETRY_SERVICE, name),
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return method(request, timeout=seconds)

    def _translated(self, error: grpc.RpcError) -> TransferError:
        call: Any = error  # it is a grpc.Call as well, which no annotation of the library says
        details = " ".join((call.details() or "").split())
        if call.code() is grpc.StatusCode.UNAVAILABLE:
            hint = "start one with `seismograd serve`, or name another with --server"
            return TransferError(f"no server takes records at {self._address} ({details}): {hint}")
        return TransferError(f"the server at {self._address} refuses: {details or call.code().name}")


def _opening(run: ImportedRun, key: RunKey, source: str) -> telemetry.OpenRunRequest:
    launch = run.identity(key.project, key.run, source)
    names = run.layers or (EVERYTHING,)
    parameters = [
        telemetry.Parameter(name=name, numel=1, local_numel=1, dtype="float32", depth=place)
        for place, name in enumerate(names)
    ]
    return telemetry.OpenRunRequest(
        project=key.project,
        run=key.run,
        launch_id=launch,
        world_size=1,
        session_id=launch,
        client=telemetry.ClientInfo(version=version("seismograd"), framework=f"imported from {source}"),
        config_json=json.dumps(dict(run.config)) if run.config else "",
        tags={IMPORTED_TAG: source},
        optimizers=[telemetry.OptimizerInfo(optimizer=0)],
        catalogs=[telemetry.Catalog(parameters=parameters)],
        client_time_unix_seconds=time.time(),
    )


def _cuts(run: ImportedRun, limits: telemetry.Limits, there: int) -> Iterator[tuple[int, int]]:
    row = 64 + 4 * len(run.layers) + 16 * len(run.scalars)
    most = min(_MOST_RECORDS, limits.max_batch_records, max(1, int(_HEADROOM * limits.max_frame_bytes) // row))
    for first in range(there, run.count, most):
        yield first, min(first + most, run.count)


def _batch(run: ImportedRun, handle: int, first: int, stop: int) -> telemetry.StepBatch:
    count, rows = stop - first, slice(first, stop)
    batch = telemetry.StepBatch(
        rank_handle=handle,
        kind=telemetry.RECORD_KIND_STEP,
        first_sequence=first,
        count=count,
        steps=run.steps[rows].astype("<i8").tobytes(),
        times_unix_seconds=run.times[rows].astype("<f8").tobytes(),
        sources=np.full(count, int(NormSource.IMPORT), np.uint8).tobytes(),
        flags=_flags(run)[rows].astype("<u2").tobytes(),
        total_norms=run.total[rows].astype("<f8").tobytes(),
    )
    if run.layers:
        batch.gradient_norms = run.norms[rows].astype("<f4").tobytes()
    for quantity, (known, values) in run.scalars.items():
        start, end = np.searchsorted(known, [first, stop])
        if start < end:
            column = batch.scalars.add(quantity=int(quantity))
            column.rows = (known[start:end] - first).astype("<u4").tobytes()
            column.values = values[start:end].astype("<f8").tobytes()
    _put_nonfinite(batch, run, first, stop)
    return batch


def _flags(run: ImportedRun) -> Any:
    return np.full(run.count, int(RecordFlag.INEXACT) if np.isnan(run.total).all() and run.layers else 0, np.uint16)


def _put_nonfinite(batch: telemetry.StepBatch, run: ImportedRun, first: int, stop: int) -> None:
    """A log says of a norm that it was NaN or Inf, and not of how many elements: each counts as one."""
    inside = (run.broken_layers[:, 0] >= first) & (run.broken_layers[:, 0] < stop)
    entries = run.broken_layers[inside]
    alone = np.setdiff1d(np.flatnonzero(run.broken[first:stop]) + first, entries[:, 0])
    totals = np.stack([alone, np.full(len(alone), _NO_PARAMETER), run.broken[alone].astype(np.int64)], axis=1)
    entries = np.concatenate([entries, totals])
    if not len(entries):
        return
    entries = entries[np.lexsort((entries[:, 1], entries[:, 0]))]
    columns = batch.nonfinite
    columns.rows = (entries[:, 0] - first).astype("<u4").tobytes()
    columns.parameters = entries[:, 1].astype("<u4").tobytes()
    columns.nan_counts = (entries[:, 2] == 1).astype("<u8").tobytes()
    columns.positive_inf_counts = (entries[:, 2] == 2).astype("<u8").tobytes()
    columns.negative_inf_counts = np.zeros(len(entries), "<u8").tobytes()


def _await(answers: Any, stop: int) -> None:
    """Reads answers until all records below `stop` are durable."""
    for answer in answers:
        for refused in answer.rejections:
            count = plural(refused.count, "record")
            raise TransferError(f"the server refuses {count} for {refused.field}: {refused.message}")
        if any(each.durable_sequence >= stop for each in answer.watermarks):
            return
    raise TransferError("the server ended the stream: import again, and it goes on from what is durable")
