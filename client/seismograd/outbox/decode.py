"""From the wire back to records: the inverse of encode, for `seismograd.testing` and for round-trip tests."""

from __future__ import annotations

import numpy as np

from seismograd.record import (
    Catalog,
    Composition,
    DirectiveAnswer,
    DirectiveKind,
    Nonfinite,
    NormSource,
    OptimizerInfo,
    Parameter,
    Quantity,
    RecordFlag,
    RecordKind,
    RunIdentity,
    StepRecord,
)
from seismograd_proto.v1 import telemetry


def decode_batch(batch: telemetry.StepBatch) -> list[StepRecord]:
    """The records of a batch. Raises ValueError when a column's length contradicts `count`."""
    count = batch.count
    steps = np.frombuffer(batch.steps, "<i8") if batch.steps else np.arange(count) + batch.first_step
    times = np.frombuffer(batch.times_unix_seconds, "<f8")
    flags = np.frombuffer(batch.flags, "<u2")
    norms = np.frombuffer(batch.gradient_norms, "<f4").reshape(count, -1) if batch.gradient_norms else None
    totals = np.frombuffer(batch.total_norms, "<f8") if batch.total_norms else None
    digests = np.frombuffer(batch.digests, "<u8") if batch.digests else None
    columns = {"steps": steps, "times_unix_seconds": times, "sources": batch.sources, "flags": flags}
    for name, column in columns.items():
        if len(column) != count:
            raise ValueError(f"{name}: has {len(column)} values, expected {count}")
    scalars = _decode_scalars(batch)
    tensors = _decode_tensors(batch)
    nonfinite = _decode_nonfinite(batch)
    ids = {each.row: each.ids for each in batch.data_ids}
    return [
        StepRecord(
            optimizer=batch.optimizer,
            kind=RecordKind(batch.kind),
            branch=batch.branch,
            sequence=batch.first_sequence + row,
            step=int(steps[row]),
            time_unix_seconds=float(times[row]),
            source=NormSource(batch.sources[row]),
            flags=RecordFlag(int(flags[row])),
            catalog_version=batch.catalog_version,
            gradient_norms=None if norms is None else norms[row],
            total_norm=None if totals is None else float(totals[row]),
            digest=None if digests is None else int(digests[row]),
            nonfinite=nonfinite.get(row),
            scalars=scalars[row],
            tensors=tensors[row],
            data_ids=ids.get(row),
        )
        for row in range(count)
    ]


def _decode_scalars(batch: telemetry.StepBatch) -> list[dict[Quantity, float]]:
    found: list[dict[Quantity, float]] = [{} for _ in range(batch.count)]
    for column in batch.scalars:
        values = np.frombuffer(column.values, "<f8")
        rows = np.frombuffer(column.rows, "<u4") if column.rows else np.arange(batch.count)
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            found[row][Quantity(column.quantity)] = value
    return found


def _decode_tensors(batch: telemetry.StepBatch) -> list[dict[Quantity, np.ndarray[tuple[int], np.dtype[np.float32]]]]:
    found: list[dict[Quantity, np.ndarray[tuple[int], np.dtype[np.float32]]]] = [{} for _ in range(batch.count)]
    for column in batch.tensors:
        rows = np.frombuffer(column.rows, "<u4").tolist() if column.rows else list(range(batch.count))
        values = np.frombuffer(column.values, "<f4").reshape(len(rows), -1)
        for row, value in zip(rows, values, strict=True):
            found[row][Quantity(column.quantity)] = value
    return found


def _decode_nonfinite(batch: telemetry.StepBatch) -> dict[int, Nonfinite]:
    columns = batch.nonfinite
    rows = np.frombuffer(columns.rows, "<u4")
    parameters = np.frombuffer(columns.parameters, "<u4")
    nan, positive, negative = (
        np.frombuffer(column, "<u8")
        for column in (columns.nan_counts, columns.positive_inf_counts, columns.negative_inf_counts)
    )
    return {
        int(row): Nonfinite(parameters[chosen], nan[chosen], positive[chosen], negative[chosen])
        for row in np.unique(rows)
        for chosen in [rows == row]
    }


def decode_catalog(catalog: telemetry.Catalog) -> Catalog:
    """A catalog of the wire as the client knows it."""
    return Catalog(
        optimizer=catalog.optimizer,
        version=catalog.version,
        parameters=tuple(
            Parameter(
                name=each.name,
                shape=tuple(each.shape),
                numel=each.numel,
                local_numel=each.local_numel,
                dtype=each.dtype,
                module_type=each.module_type,
                depth=each.depth,
                shard_id=each.shard_id,
                shard_count=each.shard_count,
                replica_index=each.replica_index,
                replication=each.replication,
                composition=Composition(each.composition),
                tied_group=each.tied_group,
            )
            for each in catalog.parameters
        ),
    )


def decode_answer(outcome: telemetry.DirectiveOutcome) -> DirectiveAnswer:
    """What a rank made of a directive."""
    return DirectiveAnswer(
        directive_id=outcome.directive_id,
        kind=DirectiveKind(outcome.kind),
        outcome=outcome.outcome,
        reason=outcome.reason,
        step=outcome.step if outcome.has_step else None,
        by_another_rank=outcome.by_another_rank,
    )


def decode_identity(request: telemetry.OpenRunRequest) -> RunIdentity:
    """What a process said about itself."""
    return RunIdentity(
        project=request.project,
        run=request.run,
        launch_id=request.launch_id,
        rank=request.rank,
        world_size=request.world_size,
        session_id=request.session_id,
        client_version=request.client.version,
        python_version=request.client.python_version,
        framework=request.client.framework,
        strategy=request.client.strategy,
        hostname=request.host.hostname,
        process_id=request.host.process_id,
        local_rank=request.host.local_rank,
        device_type=request.host.device_type,
        device_name=request.host.device_name,
        device_uuid=request.host.device_uuid,
        driver_version=request.host.driver_version,
        host_facts=dict(request.host.facts),
        config_json=request.config_json,
        tags=dict(request.tags),
        optimizers=tuple(
            OptimizerInfo(each.optimizer, each.class_name, each.hyperparameters_json) for each in request.optimizers
        ),
    )
