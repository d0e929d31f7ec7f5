"""Layers of a window, composed again from the records of all ranks as they were when the steps were closed. Blocks.

Closed steps are stored without their per-layer norms; the segments have them. The stored closing event says which
ranks made up each step, so that the composition here is the one the detectors saw.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from seismograd_server.detect.align import Aligner, Patience
from seismograd_server.detect.compose import Composer
from seismograd_server.model import ClosedBlock, Float32, Int64, Quantity, RankLayers, Run
from seismograd_server.reading.history import LayerWindow, NonfiniteHit, WeightSamples
from seismograd_server.reading.series import step_pages
from seismograd_server.store.blocks import StepChunk
from seismograd_server.store.database import Database, Transaction

# Steps composed at a time; a thousand steps of a hundred layers are a megabyte.
_SPAN_STEPS = 1024
# Values of one window in one quantity: 16 MiB of float32. Three are always read, the others where they were sampled.
_WINDOW_VALUES = 4 * 2**20
# However many layers there are, so few steps can always be looked at.
_LEAST_STEPS = 32


# Weights are sampled every tenth step, and where a sample is dear every fortieth: a few of them lie in so many steps.
WEIGHTS_BEFORE = 256


class LayerQuantity(enum.StrEnum):
    """What can be read of the layers, step by step."""

    GRAD_NORM = "grad_norm"
    WEIGHT_NORM = "weight_norm"
    UPDATE_NORM = "update_norm"
    MAX_ABS = "max_abs"
    SPECTRAL_GAIN = "spectral_gain"
    LOCAL_GRADIENT_NORM = "local_gradient_norm"


@dataclass(frozen=True, slots=True, eq=False)
class ComposedWindow:
    """Layers of a window and what was not finite in it; `whole` = of every step that was asked for."""

    layers: LayerWindow
    nonfinite: tuple[NonfiniteHit, ...]
    whole: bool = True


def composed_blocks(
    database: Database,
    run: Run,
    optimizer: int,
    first_step: int | None = None,
    last_step: int | None = None,
    *,
    compare: bool = True,
) -> Iterator[ClosedBlock]:
    """Closed steps with their layers, in rising order of steps; each block has one layout. `compare` as in `composed`.

    Blocks without records (segments that retention has removed) have no layers in their layout or NaN as norms.
    """
    for page in step_pages(database, run.run_id, optimizer, first_step, last_step, page_steps=_SPAN_STEPS):
        yield from composed(database, optimizer, page, compare=compare)


def composed(
    database: Database, optimizer: int, chunks: Sequence[StepChunk], *, compare: bool = True
) -> Iterator[ClosedBlock]:
    """Some closed steps with their layers; every launch in a transaction of its own.

    Without `compare`, replicas are not compared with each other once more, which takes half of the time.
    """
    for together in _by_launch(chunks):
        with database.read() as transaction:
            blocks = list(_compose(transaction, optimizer, together, compare=compare))
        yield from blocks


def _by_launch(chunks: Sequence[StepChunk]) -> Iterator[list[StepChunk]]:
    group: list[StepChunk] = []
    for chunk in chunks:
        if group and group[-1].launch_row != chunk.launch_row:
            yield group
            group = []
        group.append(chunk)
    if group:
        yield group


def _compose(
    transaction: Transaction, optimizer: int, chunks: Sequence[StepChunk], *, compare: bool
) -> Iterator[ClosedBlock]:
    launch = transaction.runs.launch(chunks[0].launch_row)
    ranks = {rank.handle: rank for rank in transaction.runs.ranks(launch.launch_row)}
    composer = Composer(
        world_size=launch.world_size,
        attempt=launch.attempt,
        catalogs={
            (ranks[handle].rank, version): catalog
            for (handle, version), catalog in transaction.runs.catalogs(launch.launch_row, optimizer).items()
            if handle in ranks
        },
        hostnames={rank.rank: rank.hostname for rank in ranks.values()},
        compare=compare,
    )
    # Nothing waits here: which steps closed, and with whom, is known. The clock of the aligner is never read.
    aligner = Aligner(launch.world_size, Patience(), now=0.0)
    records = transaction.segments.read(
        launch.launch_row,
        optimizer,
        first_step=int(chunks[0].steps[0]),
        last_step=int(chunks[-1].steps[-1]),
        on_damage=transaction.damage.noting(launch.run_id),
    )
    for segment, batch in records:
        if batch.rank_handle in ranks:
            aligner.offer(ranks[batch.rank_handle].rank, batch, now=0.0, segment=segment)
    for chunk in chunks:
        yield from composer.compose(aligner.repeat(chunk.branch, chunk.steps, chunk.ranks_present))


def read_layer_window(
    database: Database, run: Run, optimizer: int, first_step: int, last_step: int
) -> ComposedWindow | None:
    """The layers of a window under its last layout; None when no layer was captured in it.

    A window of more steps than memory should hold is cut at its end, and is then not `whole`. Where single steps need
    not be told apart, `LayerThinning` reads any range.
    """
    kept: list[ClosedBlock] = []
    whole = True
    for block in composed_blocks(database, run, optimizer, first_step, last_step):
        count = sum(each.count for each in kept)
        if kept and count >= max(_LEAST_STEPS, _WINDOW_VALUES // max(1, len(kept[-1].layout.names))):
            whole = False
            break
        kept = [each for each in kept if each.layout.names == block.layout.names]
        kept.append(block)
    if not kept or not any(np.isfinite(block.layer_norms).any() for block in kept):
        return None
    layout = kept[-1].layout
    window = LayerWindow(
        names=layout.names,
        module_types=layout.module_types,
        depths=layout.depths,
        numels=layout.numels,
        steps=np.concatenate([block.steps for block in kept]),
        norms=np.concatenate([block.layer_norms for block in kept]),
        weight_norms=np.concatenate([block.weight_norms for block in kept]),
        update_norms=np.concatenate([block.update_norms for block in kept]),
        sampled=_sampled(kept),
        rank_layers=_rank_layers(kept),
    )
    hits = tuple(hit for block in kept for hit in _hits(block))
    return ComposedWindow(window, hits, whole)


def read_weight_samples(database: Database, run: Run, optimizer: int, window: LayerWindow) -> WeightSamples:
    """The samples of a window and of the steps before it that had the same layers."""
    first = int(window.steps[0])
    before = composed_blocks(database, run, optimizer, first - WEIGHTS_BEFORE, first - 1)
    parts = [(each.steps, each.weight_norms) for each in before if each.layout.names == window.names]
    steps, norms = (np.concatenate(each) for each in zip(*parts, (window.steps, window.weight_norms), strict=True))
    return samples_of(window.names, steps, norms)


def samples_of(names: tuple[str, ...], steps: Int64, norms: Float32) -> WeightSamples:
    """Of weight norms float32[n, l], the rows in which any was sampled."""
    sampled = np.isfinite(norms).any(axis=1)
    return WeightSamples(names, steps[sampled], norms[sampled])


def _hits(block: ClosedBlock) -> Iterator[NonfiniteHit]:
    for each in block.nonfinite_layers:
        name = block.layout.names[each.layer] if each.layer >= 0 else ""
        yield NonfiniteHit(
            int(block.steps[each.row]),
            name,
            each.rank,
            each.nan_count,
            each.positive_inf_count,
            each.negative_inf_count,
        )


def _sampled(blocks: Sequence[ClosedBlock]) -> dict[Quantity, Float32]:
    quantities = sorted({quantity for block in blocks for quantity in block.sampled})
    return {
        quantity: np.concatenate(
            [
                block.sampled[quantity]
                if quantity in block.sampled
                else np.full(block.layer_norms.shape, np.nan, np.float32)
                for block in blocks
            ]
        )
        for quantity in quantities
    }


def _rank_layers(blocks: Sequence[ClosedBlock]) -> tuple[RankLayers, ...]:
    found, before = [], 0
    for block in blocks:
        found += [replace(each, rows=each.rows + before) for each in block.rank_layers]
        before += block.count
    return tuple(found)
