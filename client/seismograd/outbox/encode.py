"""From records to the columns of the wire. Pure; no Python runs per value, only per record and column.

records --group()--> runs of records that can share a batch --encode_batch()--> telemetry.StepBatch
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from seismograd.names import fitting, fitting_shape
from seismograd.outbox.streamlog import Gap, StreamName
from seismograd.record import Catalog, DirectiveAnswer, Parameter, Quantity, RunIdentity, StepRecord
from seismograd_proto.v1 import telemetry

# The server refuses longer batches, so that one sender cannot hold up a tick.
MAX_BATCH_RECORDS = 2000

# What can be asked of a job: its flight recorder, `should_checkpoint()`, `should_stop()`.
CAPABILITIES = ("capture_more", "checkpoint", "stop")


def group(records: Iterable[StepRecord]) -> Iterator[list[StepRecord]]:
    """Cuts the records of one stream, in order, where a batch must end.

    A batch holds consecutive sequences and rising steps of one branch and one catalog, and each of its dense columns
    is there for all of its records or for none.
    """
    batch: list[StepRecord] = []
    for record in records:
        if batch and not (len(batch) < MAX_BATCH_RECORDS and _continues(batch[-1], record)):
            yield batch
            batch = []
        batch.append(record)
    if batch:
        yield batch


def _continues(last: StepRecord, record: StepRecord) -> bool:
    return (
        record.sequence == last.sequence + 1
        and record.step > last.step
        and record.branch == last.branch
        and record.catalog_version == last.catalog_version
        and record.optimizer == last.optimizer
        and record.kind == last.kind
        and _width(record) == _width(last)
        and (record.total_norm is None) == (last.total_norm is None)
        and (record.digest is None) == (last.digest is None)
        and all(
            len(column) == len(last.tensors[quantity])
            for quantity, column in record.tensors.items()
            if quantity in last.tensors
        )
    )


def _width(record: StepRecord) -> int | None:
    return None if record.gradient_norms is None else len(record.gradient_norms)


def encode_batch(rank_handle: int, records: Sequence[StepRecord]) -> telemetry.StepBatch:
    """The batch of one group() of normalised records. Raises ValueError for a record that does not fit its group."""
    first = records[0]
    count = len(records)
    batch = telemetry.StepBatch(
        rank_handle=rank_handle,
        optimizer=first.optimizer,
        kind=int(first.kind),  # type: ignore[arg-type]  # the enums have the same numbers
        branch=first.branch,
        first_sequence=first.sequence,
        count=count,
        catalog_version=first.catalog_version,
        first_step=first.step,
        times_unix_seconds=np.array([record.time_unix_seconds for record in records], "<f8").tobytes(),
        sources=bytes([record.source for record in records]),
        flags=np.array([record.flags for record in records], "<u2").tobytes(),
    )
    if records[-1].step - first.step != count - 1:
        batch.steps = np.array([record.step for record in records], "<i8").tobytes()
    if first.gradient_norms is not None:
        batch.gradient_norms = b"".join([record.gradient_norms for record in records])  # type: ignore[misc]  # group() keeps None apart
    if first.total_norm is not None:
        batch.total_norms = np.array([record.total_norm for record in records], "<f8").tobytes()
    if first.digest is not None:
        batch.digests = np.array([record.digest for record in records], "<u8").tobytes()
    _encode_nonfinite(batch, records)
    _encode_scalars(batch, records)
    _encode_tensors(batch, records)
    for row, record in enumerate(records):
        if record.data_ids is not None:
            batch.data_ids.add(row=row, ids=record.data_ids)
    return batch


def _encode_nonfinite(batch: telemetry.StepBatch, records: Sequence[StepRecord]) -> None:
    counts = [(row, record.nonfinite) for row, record in enumerate(records) if record.nonfinite is not None]
    if not counts:
        return
    columns = batch.nonfinite
    columns.rows = np.repeat(
        np.array([row for row, _ in counts], "<u4"), [len(each.parameters) for _, each in counts]
    ).tobytes()
    columns.parameters = b"".join([each.parameters.astype("<u4").tobytes() for _, each in counts])
    columns.nan_counts = b"".join([each.nan_counts.astype("<u8").tobytes() for _, each in counts])
    columns.positive_inf_counts = b"".join([each.positive_inf_counts.astype("<u8").tobytes() for _, each in counts])
    columns.negative_inf_counts = b"".join([each.negative_inf_counts.astype("<u8").tobytes() for _, each in counts])


def _encode_scalars(batch: telemetry.StepBatch, records: Sequence[StepRecord]) -> None:
    known: dict[Quantity, list[int]] = {}
    values: dict[Quantity, list[float]] = {}
    for row, record in enumerate(records):
        for quantity, value in record.scalars.items():
            known.setdefault(quantity, []).append(row)
            values.setdefault(quantity, []).append(value)
    for quantity in sorted(known):
        column = batch.scalars.add(quantity=int(quantity), values=np.array(values[quantity], "<f8").tobytes())
        if len(known[quantity]) < len(records):
            column.rows = np.array(known[quantity], "<u4").tobytes()


def _encode_tensors(batch: telemetry.StepBatch, records: Sequence[StepRecord]) -> None:
    known: dict[Quantity, list[int]] = {}
    for row, record in enumerate(records):
        for quantity in record.tensors:
            known.setdefault(quantity, []).append(row)
    for quantity in sorted(known):
        rows = known[quantity]
        column = batch.tensors.add(quantity=int(quantity))
        column.values = b"".join([records[row].tensors[quantity] for row in rows])  # type: ignore[misc]  # arrays are buffers
        if len(rows) < len(records):
            column.rows = np.array(rows, "<u4").tobytes()


def encode_gap(rank_handle: int, stream: StreamName, gap: Gap) -> telemetry.DroppedRange:
    """The declaration of records that will never come."""
    return telemetry.DroppedRange(
        rank_handle=rank_handle,
        optimizer=stream.optimizer,
        kind=int(stream.kind),  # type: ignore[arg-type]  # same numbers
        first_sequence=gap.first,
        count=gap.end - gap.first,
        reason=gap.reason,
    )


def encode_catalog(catalog: Catalog) -> telemetry.Catalog:
    """A catalog as the wire has it."""
    return telemetry.Catalog(
        optimizer=catalog.optimizer,
        version=catalog.version,
        parameters=[_encode_parameter(parameter) for parameter in catalog.parameters],
    )


def _encode_parameter(parameter: Parameter) -> telemetry.Parameter:
    return telemetry.Parameter(
        name=fitting(parameter.name),
        shape=fitting_shape(parameter.shape),
        numel=parameter.numel,
        local_numel=parameter.local_numel,
        dtype=fitting(parameter.dtype),
        module_type=fitting(parameter.module_type),
        depth=parameter.depth,
        shard_id=parameter.shard_id,
        shard_count=parameter.shard_count,
        replica_index=parameter.replica_index,
        replication=parameter.replication,
        composition=int(parameter.composition),  # type: ignore[arg-type]  # same numbers
        tied_group=fitting(parameter.tied_group),
    )


def encode_answer(answer: DirectiveAnswer) -> telemetry.DirectiveOutcome:
    """What this rank made of a directive, as the wire has it; the handle is filled in when it is sent."""
    return telemetry.DirectiveOutcome(
        directive_id=answer.directive_id,
        outcome=answer.outcome,
        reason=answer.reason,
        kind=int(answer.kind),  # type: ignore[arg-type]  # same numbers
        step=answer.step or 0,
        has_step=answer.step is not None,
        by_another_rank=answer.by_another_rank,
    )


def encode_open(
    identity: RunIdentity, catalogs: Iterable[telemetry.Catalog], now_unix_seconds: float
) -> telemetry.OpenRunRequest:
    """The request that opens the run for this rank; what nobody chose for the wire is made to fit it."""
    return telemetry.OpenRunRequest(
        project=identity.project,
        run=identity.run,
        launch_id=fitting(identity.launch_id),
        rank=identity.rank,
        world_size=identity.world_size,
        session_id=fitting(identity.session_id),
        client=telemetry.ClientInfo(
            version=fitting(identity.client_version),
            python_version=fitting(identity.python_version),
            framework=fitting(identity.framework),
            strategy=fitting(identity.strategy),
            capabilities=CAPABILITIES,
        ),
        host=telemetry.HostInfo(
            hostname=fitting(identity.hostname),
            process_id=identity.process_id,
            local_rank=identity.local_rank,
            device_type=fitting(identity.device_type),
            device_name=fitting(identity.device_name),
            device_uuid=fitting(identity.device_uuid),
            driver_version=fitting(identity.driver_version),
            facts={name: fitting(fact) for name, fact in identity.host_facts.items()},
        ),
        config_json=identity.config_json,
        tags={key: fitting(value) for key, value in identity.tags.items()},
        optimizers=[
            telemetry.OptimizerInfo(
                optimizer=each.optimizer,
                class_name=fitting(each.class_name),
                hyperparameters_json=each.hyperparameters_json,
            )
            for each in identity.optimizers
        ],
        catalogs=catalogs,
        client_time_unix_seconds=now_unix_seconds,
    )
