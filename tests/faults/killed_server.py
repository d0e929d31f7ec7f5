"""Starts servers by forking, so that a thousand lives need not import everything a thousand times.

Reads lines of JSON `{"settings": {...}, "point": "ingest.before_commit", "hit": 3}` from its input, and forks a server
for each. A server says `{"pid": ...}`, then `{"grpc": port, "http": port}` when it is ready; the `hit`-th time that it
comes by the named point (an empty name: never), it says `{"point": name}` and kills itself. When it is over,
`{"ended": exit code}` follows.

The points are those of the spine and of maintenance, and "statement": before any statement of SQL. `"delays": {point:
seconds}` makes points slow. Under `fiu-run -x`, `"failures": {"posix/io/rw/pwrite": [errno, probability]}` makes system
calls fail now and then once the server is ready.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from seismograd_server.app import Server, wiring
from seismograd_server.config import Settings, load_settings
from seismograd_server.maintenance import compaction, retention, summarising, worker
from seismograd_server.maintenance.compaction import CompactionSettings
from seismograd_server.maintenance.tiers import Sizes
from seismograd_server.store import folding

# So small that a short run reaches every tier; exact, so that what comes of it is the same to the bit.
COMPACTION = CompactionSettings(
    mantissa_bits=23, sizes=Sizes(full_records=60, tail_records=12, most_rows=8, lookback_records=30)
)
# So small that folding the write-ahead log into the database is under the axe as well.
_FOLD_BYTES = 128 * 2**10
# And so small that a run is deleted in several pieces.
_PIECE_BYTES = 4 * 2**10
# A disk is ill for so long, so often; then it is well for good. Long enough for several transactions to come by.
_SPELLS = 8
_ILL_SECONDS = 0.05
_WELL_SECONDS = 0.1
# What servers print goes to standard error, so that standard output holds nothing but news.
_NEWS = os.dup(1)
os.dup2(2, 1)


def failure_point(point: str, hit: int, delays: dict[str, float]) -> Callable[[str], None]:
    """A failure point that kills this process the `hit`-th time that it hears `point`, and waits at others."""
    heard = 0

    def reach(name: str) -> None:
        nonlocal heard
        if name in delays:
            time.sleep(delays[name])
        heard += name == point
        if name == point and heard >= hit:
            say(point=point)
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


def say(**news: Any) -> None:
    """One line to whoever started us; short enough that two processes never mix theirs."""
    os.write(_NEWS, json.dumps(news).encode() + b"\n")


def fail_now_and_then(name: str, number: int, probability: float) -> None:
    """Makes a system call fail with that probability, for a moment out of every few; then the disk is well again."""
    fiu = ctypes.CDLL("libfiu.so.0")
    for _ in range(_SPELLS):
        time.sleep(_WELL_SECONDS)
        fiu.fiu_enable_random(name.encode(), 1, ctypes.c_void_p(number), 0, ctypes.c_float(probability))
        time.sleep(_ILL_SECONDS)
        fiu.fiu_disable(name.encode())


async def serve(settings: Settings, reach: Callable[[str], None], failures: dict[str, tuple[int, float]]) -> None:
    """Serves until somebody kills the process, or the server gives up."""
    server = Server(settings, failure_point=reach)
    await server.start()
    say(grpc=server.grpc_address.port, http=server.http_address.port)
    for name, (number, probability) in failures.items():
        threading.Thread(target=fail_now_and_then, args=(name, number, probability), daemon=True).start()
    try:
        await server.wait()
    finally:
        await server.stop()


def live(order: dict[str, Any]) -> None:
    """One server's life, in a process of its own."""
    say(pid=os.getpid())
    reach = failure_point(order["point"], order["hit"], order["delays"])
    event.listen(Engine, "before_cursor_execute", lambda *_: reach("statement"))
    folding.FOLD_BYTES, folding.MOST_BYTES = _FOLD_BYTES, 2 * _FOLD_BYTES
    if order["point"].startswith(("compact.", "summarise.", "retention.")):
        worker._REST_SECONDS = 0.05
    if order["point"].startswith("compact."):
        compaction._PASS_SECONDS, compaction._REST_SECONDS = 0.05, 0.0
        wiring.compaction_settings = lambda settings: COMPACTION  # noqa: ARG005 (its signature)
    if order["point"].startswith("summarise."):
        summarising._LOOK_SECONDS, summarising._MOVED_STEPS, summarising._PIECE_STEPS = 0.05, 8, 16
    retention._PIECE_BYTES = _PIECE_BYTES
    asyncio.run(serve(load_settings(**order["settings"]), reach, order["failures"]))


def main() -> None:
    """Serves until its input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                live(json.loads(line))
            except BaseException:  # noqa: BLE001 (the loop above belongs to the parent)
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        say(ended=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
