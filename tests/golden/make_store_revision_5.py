"""Writes the golden database of schema revision 5: `python -m tests.golden.make_store_revision_5`.

Run it only with a program whose newest migration is 0005. It is the database of revision 3 with summaries.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seismograd_server.model import Line, Summary, SummaryKind
from seismograd_server.store.database import Transaction
from seismograd_server.store.summaries import SummaryRow
from tests.golden.store_file import make

SOURCE = Path(__file__).with_name("store_revision_3.sqlite")
TARGET = Path(__file__).with_name("store_revision_5.sqlite")


def fill(transaction: Transaction) -> None:
    """Two buckets of the layers of the first run, and of its series."""
    line = Line(optimizer=0, attempt=1, branch=0, first_step=0, last_step=2, summarised_to=None)
    peaks = np.array([[1.5, np.inf], [3e38, 1e-45]])
    rows = [
        SummaryRow.of(kind, _summary(size, peaks.astype(number), tallies))
        for kind, size, number, tallies in (
            (SummaryKind.SERIES, 64, np.float64, 5),
            (SummaryKind.LAYERS, 256, np.float32, 0),
        )
    ]
    transaction.summaries.save(1, line, rows, last_step=2)


def _summary(size: int, peaks: np.ndarray, tallies: int) -> Summary:
    buckets = np.array([0, 2], np.int64)
    counts = np.array([[7, 6], [5, 4]], np.int64)
    return Summary(
        size=size,
        names=("rnn.weight_hh_l0", "räm"),
        buckets=buckets,
        first_steps=buckets * size,
        last_steps=buckets * size + 9,
        steps=np.array([7, 5], np.int64),
        minimum=-peaks,
        maximum=peaks,
        mean=np.full_like(peaks, 0.5),
        known=counts,
        nonfinite=counts - 4,
        tallies=np.arange(2 * tallies, dtype=np.int64).reshape(2, tallies),
    )


if __name__ == "__main__":
    make(TARGET, fill, SOURCE)
