"""What dead jobs leave on a disk is bounded as a whole: a home folder that fills up harms more than lost telemetry.

The oldest go first. What a job has kept on purpose (mode `offline`) is never touched, and neither is what lives.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from seismograd.outbox.folder import SpoolFolder, left_behind, unfinished
from seismograd.outbox.journal import read_account

_log = logging.getLogger("seismograd")

# The spools of a node with sixteen ranks that lost its server, and with it all that was waiting.
SPOOLS_KEPT = 16
# A folder is made in milliseconds; one that is still unfinished after this belongs to a process that was killed.
_MAKING_SECONDS = 3600.0


def clear_leftovers(parents: Sequence[Path], limit_bytes: int, now: float) -> int:
    """Removes the oldest folders of dead processes beyond `limit_bytes` on disk. Returns how many. Raises OSError.

    `now` is in Unix seconds, as the times of files are.
    """
    removed = size = 0
    there = [parent for parent in parents if parent.is_dir()]
    for path in [path for parent in there for path in unfinished(parent, older_than=now - _MAKING_SECONDS)]:
        if (folder := SpoolFolder.take(path)) is not None:
            folder.remove()
    for path in sorted((path for parent in there for path in left_behind(parent)), key=_changed, reverse=True):
        folder = SpoolFolder.take(path)
        if folder is None:
            continue
        if not read_account(folder.notes()).kept:
            size += sum(each.stat().st_blocks * 512 for each in path.iterdir())
            if size > limit_bytes:
                folder.remove()
                removed += 1
                continue
        folder.release()
    if removed:
        _log.warning(
            "removed what %d dead jobs had left in the spool, the oldest first: there were more than %d MiB;"
            " `seismograd sync` delivers what is there",
            removed,
            limit_bytes // 2**20,
        )
    return removed


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # somebody has delivered it just now
