"""Starts servers by forking, so that a thousand lives need not import everything a thousand times.

Reads lines of JSON `{"settings": {...}, "point": "ingest.before_commit", "hit": 3}` from its input, and forks a server
for each. A server says `{"pid": ...}`, then `{"grpc": port, "http": port}` when it is ready; the `hit`-th time that it
comes by the named point (an empty name: never), it says `{"point": name}` and kills itself. When it is over,
`{"ended": exit code}` follows.

The points are those of the spine and of maintenance, and "statement": before any statement of SQL.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from seismograd_server.app import Server
from seismograd_server.config import Settings, load_settings
from seismograd_server.store import sqlite

# So small that folding the write-ahead log into the database is under the axe as well.
_WAL_BYTES = 128 * 2**10
# What servers print goes to standard error, so that standard output holds nothing but news.
_NEWS = os.dup(1)
os.dup2(2, 1)


def killer(point: str, hit: int) -> Callable[[str], None]:
    """A failure point that kills this process the `hit`-th time that it hears `point`."""
    heard = 0

    def reach(name: str) -> None:
        nonlocal heard
        heard += name == point
        if name == point and heard >= hit:
            say(point=point)
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


def say(**news: Any) -> None:
    """One line to whoever started us; short enough that two processes never mix theirs."""
    os.write(_NEWS, json.dumps(news).encode() + b"\n")


async def serve(settings: Settings, reach: Callable[[str], None]) -> None:
    """Serves until somebody kills the process, or the server gives up."""
    server = Server(settings, failure_point=reach)
    await server.start()
    say(grpc=server.grpc_address.port, http=server.http_address.port)
    await server.wait()


def live(order: dict[str, Any]) -> None:
    """One server's life, in a process of its own."""
    say(pid=os.getpid())
    reach = killer(order["point"], order["hit"])
    event.listen(Engine, "before_cursor_execute", lambda *_: reach("statement"))
    sqlite._WAL_BYTES = _WAL_BYTES
    asyncio.run(serve(load_settings(**order["settings"]), reach))


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
