from __future__ import annotations

from collections.abc import Callable

from seismograd_server.model import RankIdentity
from seismograd_server.store.database import Database
from seismograd_server.store.detectors import DetectorCheckpoint


def test_the_latest_checkpoint_replaces_the_one_before(
    database: Database, make_identity: Callable[..., RankIdentity]
) -> None:
    with database.begin() as transaction:
        transaction.runs.open_rank(make_identity(), now=1.0)
        assert transaction.detectors.load(1, 0) is None
        transaction.detectors.save_all(
            [DetectorCheckpoint(1, 0, 7, b"seven"), DetectorCheckpoint(1, 1, 8, b"another optimizer")], now=2.0
        )
        transaction.detectors.save_all([DetectorCheckpoint(1, 0, 9, b"nine")], now=3.0)

    with database.read() as transaction:
        assert transaction.detectors.load(1, 0) == (9, b"nine")
        assert transaction.detectors.load(1, 1) == (8, b"another optimizer")
