"""Whatever moment the server is killed at, what it acknowledged is stored, once, and the database is sound."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np

from seismograd_server.store.database import Database

CYCLES = 8
# Appends for ever from where the stream stands, and prints each watermark only once it is committed.
WRITER = """
import itertools, sys
import numpy as np
from seismograd_server.model import RankIdentity, RecordKind, RunKey, StepBatch
from seismograd_server.store.database import Database

with Database.open(sys.argv[1], owner="writer") as database:
    with database.begin() as transaction:
        handle = transaction.runs.open_rank(RankIdentity(RunKey("p", "r"), "launch", 0, 1, "s"), 1.0).rank.handle
        streams = transaction.segments.received([handle])
    sequence = next((intervals.watermark() for intervals in streams.values()), 0)
    for count in itertools.cycle((1, 16, 3, 64)):
        batch = StepBatch(
            rank_handle=handle, optimizer=0, kind=RecordKind.STEP, branch=0, first_sequence=sequence,
            catalog_version=0, steps=np.arange(sequence, sequence + count), times=np.zeros(count),
            sources=np.ones(count, np.uint8), flags=np.zeros(count, np.uint16),
            gradient_norms=np.full((count, 150), sequence, np.float32), total_norms=None, digests=None,
            nonfinite=None, scalars={}, tensors={}, data_ids={},
        )
        with database.begin() as transaction:
            transaction.segments.append([batch], 1.0)
        sequence += count
        print(sequence, flush=True)
"""


def test_what_was_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    path = tmp_path / "seismograd.db"
    url = f"sqlite:///{path}"
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(CYCLES):
        with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(1, 60)):
                acknowledged = int(writer.stdout.readline())
            writer.kill()  # at whatever it is doing now
            for line in writer.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)

        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
        with Database.open(url, owner="test") as database, database.read() as transaction:
            (intervals,) = transaction.segments.received([1]).values()
            assert len(intervals) == 1, "one interval: no hole"
            assert intervals.watermark() >= acknowledged
            steps = np.concatenate([batch.steps for _, batch in transaction.segments.read(1, 0)])
            np.testing.assert_array_equal(steps, np.arange(intervals.watermark()))
    assert acknowledged > CYCLES
