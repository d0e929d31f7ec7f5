"""A long run in a few thousand of its steps: evenly spaced stretches, each of consecutive steps. Blocks.

What is read is whole blocks, so that a sample of a run of any length costs some tens of milliseconds.
"""

from __future__ import annotations

import numpy as np

from seismograd_server.model import Run
from seismograd_server.reading.history import Series
from seismograd_server.reading.lines import visible_stretches
from seismograd_server.reading.series import joined, read_series
from seismograd_server.reading.stored import lines_of
from seismograd_server.store.database import Database

# Enough that every tenth of a run has one or two, few enough that each is worth its reading.
_STRETCHES = 16


def read_sample(database: Database, run: Run, optimizer: int, most_steps: int) -> Series:
    """The whole series where the run has no more steps than `most_steps` (16 at least), else a sample of about so many.

    The first and the last steps of the run are always in it.

    Raises:
        StorageError: the store failed.
    """
    run_id = run.run_id
    seen = visible_stretches(lines_of(database, run_id, optimizer))
    if not seen or run.closed_steps <= most_steps:
        return read_series(database, run_id, optimizer)
    first, last = seen[0].first_step, seen[-1].last_step
    # Steps may be numbered far apart: a stretch is so long that it has its share of those there are.
    length = max(1, (last - first + 1) * most_steps // (run.closed_steps * _STRETCHES))
    # In whole numbers: a step may be anywhere in int64, where floats are too coarse.
    starts = [first + (last + 1 - length - first) * part // (_STRETCHES - 1) for part in range(_STRETCHES)]
    parts = [read_series(database, run_id, optimizer, start, start + length - 1) for start in starts]
    found = joined([part for part in parts if part.count])
    if found.count and not (np.diff(found.steps) > 0).all():
        # A rewind between two of the reads: the later one tells what is to be seen.
        return read_series(database, run_id, optimizer, last - length + 1, last)
    return found
