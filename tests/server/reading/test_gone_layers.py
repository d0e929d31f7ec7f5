"""Steps whose layers are gone, or never were, as `layers()` of the Python client gives them: rows of NaN."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from grpc import aio
from sqlalchemy import Delete, Update, delete, update

from seismograd.query import connect
from seismograd.series import Layers
from seismograd_proto.v1 import query
from seismograd_server.ingest import query_encoding
from seismograd_server.ingest.query_servicer import query_handlers
from seismograd_server.instruments import Instruments
from seismograd_server.maintenance import downsampling
from seismograd_server.maintenance.downsampling import Downsampling
from seismograd_server.maintenance.retention import Keep, RetentionPolicy
from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.metrics import new_registry
from seismograd_server.model import Catalog, ClosedBlock
from seismograd_server.pipeline import Arrival
from seismograd_server.reading import layers as layers_module
from seismograd_server.store.database import Database
from seismograd_server.store.schema import segments
from tests.support.closed import layout, run_of
from tests.support.reading import Stocked
from tests.support.synthetic import LAYERS, NOW, SyntheticRun, healthy_norms, make_batch

DAY = 86_400.0
PIECE, STEPS = 20, 60
NORMS = healthy_norms(STEPS)


def layers_of(database: Database, **asked: Any) -> Layers:
    """What a program gets that asks a server of this database for the layers of the run."""

    async def ask() -> Layers:
        server = aio.server()
        server.add_generic_rpc_handlers((query_handlers(database),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            with connect(f"127.0.0.1:{port}") as client:
                return await asyncio.to_thread(partial(client.run("mt", "lstm").layers, **asked))
        finally:
            await server.stop(0)

    return asyncio.run(ask())


@pytest.fixture
def recorded(empty_store: Stocked) -> Stocked:
    """A run of three segments and as many closed blocks."""
    run = SyntheticRun(empty_store.pipeline, world_size=1, norms=NORMS).open()
    for first in range(0, STEPS, PIECE):
        run.send(first, first + PIECE, NOW + first)
        empty_store.pipeline.detect(NOW + first, hurry=True)
    return empty_store


def add_a_launch_without_layers(stocked: Stocked, steps: range) -> None:
    """The run again, from a sender that names no layers: only the norm of the whole gradient is known."""
    run = SyntheticRun(stocked.pipeline, world_size=1, launch=f"launch-of-{steps.start}")
    handle = stocked.pipeline.open_rank(run.identity(0), [Catalog(0, 0, ())], NOW + STEPS).handle
    batch = make_batch(handle, 0, None, steps=np.array(steps), total_norms=np.ones(len(steps)))
    stocked.pipeline.ingest([Arrival(batches=(batch,))], NOW + STEPS)
    stocked.pipeline.detect(NOW + STEPS, hurry=True)


@pytest.mark.parametrize("change", [delete(segments), update(segments).values(payload=b"spoilt")])
@pytest.mark.parametrize("pieces", [[0], [1], [2], [1, 2], [0, 2]])
def test_steps_whose_segments_are_missing_or_damaged_are_rows_of_nan(
    recorded: Stocked, change: Delete | Update, pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers_module, "_SPAN_STEPS", PIECE)  # so that nothing else is composed together with a piece
    with recorded.database.begin() as transaction:
        transaction.connection.execute(change.where(segments.c.first_step.in_([PIECE * each for each in pieces])))
    expected = NORMS.copy()
    for each in pieces:
        expected[PIECE * each : PIECE * (each + 1)] = np.nan

    found = layers_of(recorded.database)
    assert found.names == LAYERS
    assert found.steps.tolist() == list(range(STEPS))
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)


def test_a_launch_that_recorded_no_layers_is_rows_of_nan_behind_one_that_did(recorded: Stocked) -> None:
    add_a_launch_without_layers(recorded, range(STEPS, STEPS + 30))
    found = layers_of(recorded.database)
    assert found.names == LAYERS
    assert found.steps.tolist() == list(range(STEPS + 30))
    np.testing.assert_allclose(found.values[:STEPS], NORMS, rtol=1e-6)
    assert np.isnan(found.values[STEPS:]).all()

    points = layers_of(recorded.database, points=10)
    assert points.names == LAYERS
    assert np.isnan(points.values[points.steps >= STEPS]).all()


def test_a_run_of_which_all_layers_are_gone_has_rows_and_no_columns(recorded: Stocked) -> None:
    with recorded.database.begin() as transaction:
        transaction.connection.execute(delete(segments))
    found = layers_of(recorded.database)
    assert found.steps.tolist() == list(range(STEPS))
    assert found.values.shape == (STEPS, 0)
    assert layers_of(recorded.database, points=10).names == ()


def test_a_downsampled_run_has_a_row_for_every_step_that_was_kept(
    empty_store: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downsampling, "_AROUND", 16)
    monkeypatch.setattr(downsampling, "_ENDS", 16)
    monkeypatch.setattr(layers_module, "_SPAN_STEPS", 16)
    norms = healthy_norms(400)
    run = SyntheticRun(empty_store.pipeline, world_size=1, norms=norms).open()
    # Blocks are far longer than segments: at the ends of the run whole blocks stay, and of their segments only some.
    for block in range(0, 400, 100):
        for first in range(block, block + 100, 10):
            run.send(first, first + 10, NOW + block)
        empty_store.pipeline.detect(NOW + block, hurry=True)
    run.close(NOW + 400)
    empty_store.pipeline.stop(NOW + 400)
    summarising = Summarising(empty_store.database)
    while summarising.step(NOW):
        pass
    chore = Downsampling(empty_store.database, RetentionPolicy(Keep(detail_days=7.0)), Instruments(new_registry()))
    while chore.step(NOW + 30 * DAY):
        pass

    found = layers_of(empty_store.database)
    assert found.names == LAYERS
    assert found.steps.tolist() == [*range(100), *range(300, 400)]
    known = np.isfinite(found.values).all(axis=1)
    assert found.steps[known].tolist() == [*range(20), *range(380, 400)]
    np.testing.assert_allclose(found.values[known], norms[found.steps[known]], rtol=1e-6)
    assert np.isnan(found.values[~known]).all()


def block_of(steps: range, names: tuple[str, ...]) -> ClosedBlock:
    block = run_of([1.0] * len(steps), steps=np.array(steps))
    return replace(block, layout=layout(names), layer_norms=np.ones((len(steps), len(names)), np.float32))


def test_names_are_sent_again_only_where_they_change_and_rows_of_nan_are_cut_as_wide_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(query_encoding, "_LAYER_BYTES", 4 * len(LAYERS) * 3)  # three rows
    blocks = [
        block_of(range(2), ()),
        block_of(range(2, 4), LAYERS),
        block_of(range(4, 9), ()),
        block_of(range(9, 11), LAYERS),
        block_of(range(11, 12), ("lonely",)),
    ]
    messages = list(query_encoding.layer_messages(blocks))

    def said(message: query.GetLayersResponse) -> tuple[int, tuple[str, ...], int]:
        return message.count, tuple(message.layers), len(message.gradient_norms)

    assert [said(each) for each in messages] == [
        (2, (), 0),
        (2, LAYERS, 24),
        (3, (), 36),
        (2, (), 24),
        (2, (), 24),
        (1, ("lonely",), 4),
    ]
    assert np.isnan(np.frombuffer(messages[2].gradient_norms + messages[3].gradient_norms, "<f4")).all()
