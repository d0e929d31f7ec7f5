"""Closed steps out of the store, page by page in short transactions, and as one Series. Blocks.

What is damaged on disk is left out, and noted in `Database.damage`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from seismograd_server.model import Float64
from seismograd_server.reading.history import RankWindow, Series, empty_series
from seismograd_server.store.blocks import StepChunk
from seismograd_server.store.database import Database

# Steps of one read transaction: a few milliseconds, so that no reader holds a snapshot for long.
PAGE_STEPS = 4096


def step_pages(
    database: Database,
    run_id: int,
    optimizer: int,
    first_step: int | None = None,
    last_step: int | None = None,
    *,
    page_steps: int = PAGE_STEPS,
) -> Iterator[list[StepChunk]]:
    """Pages of chunks in rising order of steps; each page has at least one step and at most `page_steps`.

    Every page is read in a transaction of its own. A run that is rewound in the meantime may show a seam; a step is
    never given twice.
    """
    cursor = first_step
    while True:
        page: list[StepChunk] = []
        count = 0
        with database.read() as transaction:
            for chunk in transaction.steps.read(
                run_id, optimizer, cursor, last_step, on_damage=transaction.damage.noting(run_id)
            ):
                room = page_steps - count
                part = chunk if chunk.count <= room else chunk.select(np.arange(chunk.count) < room)
                page.append(part)
                count += part.count
                if count >= page_steps:
                    break
        if not page:
            return
        yield page
        if count < page_steps:
            return
        cursor = int(page[-1].steps[-1]) + 1


def series_of(chunks: Sequence[StepChunk]) -> Series:
    """Chunks joined to one series; see Series for what NaN means."""
    if not chunks:
        return empty_series()

    def column(name: str) -> Float64:
        return np.concatenate([getattr(chunk, name) for chunk in chunks])

    return Series(
        steps=np.concatenate([chunk.steps for chunk in chunks]),
        times=column("times"),
        attempts=np.concatenate([np.full(chunk.count, chunk.attempt, np.int64) for chunk in chunks]),
        norm=column("global_norm"),
        nonfinite=np.concatenate([chunk.nonfinite for chunk in chunks]),
        flags=np.concatenate([chunk.flags for chunk in chunks]),
        sources=np.concatenate([chunk.sources for chunk in chunks]),
        loss=column("loss"),
        loss_known=np.concatenate([chunk.loss_known for chunk in chunks]),
        learning_rate=column("learning_rate"),
        loss_scale=column("loss_scale"),
        clip_threshold=column("clip_threshold"),
        clip_coefficient=column("clip_coefficient"),
        step_seconds=column("step_seconds"),
        ranks_present=np.concatenate([chunk.ranks_present.sum(axis=1) for chunk in chunks]).astype(np.int64),
    )


def read_series(
    database: Database, run_id: int, optimizer: int, first_step: int | None = None, last_step: int | None = None
) -> Series:
    """The series of a whole stretch at once; some 120 bytes of memory a step."""
    return joined([series_of(page) for page in step_pages(database, run_id, optimizer, first_step, last_step)])


def joined(pages: Sequence[Series]) -> Series:
    """Pages of a series, the one behind the other."""
    if len(pages) <= 1:
        return pages[0] if pages else empty_series()
    return Series(
        **{name: np.concatenate([getattr(page, name) for page in pages]) for name in Series.__dataclass_fields__}
    )


def read_rank_window(
    database: Database, run_id: int, optimizer: int, first_step: int, last_step: int, *, hostnames: tuple[str, ...]
) -> RankWindow | None:
    """Per-rank losses and local norms of a window; of its last attempt where the world size changed."""
    chunks = [chunk for page in step_pages(database, run_id, optimizer, first_step, last_step) for chunk in page]
    if not chunks:
        return None
    ranks = chunks[-1].rank_loss.shape[1]
    chunks = [chunk for chunk in chunks if chunk.rank_loss.shape[1] == ranks]
    return RankWindow(
        steps=np.concatenate([chunk.steps for chunk in chunks]),
        loss=np.concatenate([chunk.rank_loss for chunk in chunks]),
        loss_known=np.concatenate([chunk.rank_loss_known for chunk in chunks]),
        norm=np.concatenate([chunk.rank_norm for chunk in chunks]),
        hostnames=hostnames,
    )
