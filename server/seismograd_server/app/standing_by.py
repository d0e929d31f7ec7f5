"""A standby server: it asks for the database until the active server is gone, and answers for its health meanwhile.

    asks twice a second --taken--> waits    the lock is free: the active server died or stopped
                                            the lock is silent (PostgreSQL only): it hangs, is sent away, and fenced

It does not listen for training jobs: a client that is given one name with the addresses of both servers finds the one
that listens, a load balancer or a Kubernetes service the one whose `/readyz` says 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import structlog
from starlette.applications import Starlette

from seismograd_server.app.listening import http_server
from seismograd_server.errors import DatabaseAwayError, DatabaseTakenError
from seismograd_server.store.database import Database

_log = structlog.get_logger(__name__)

# How often the database is asked for: most of the time that a take-over takes.
_POLL_SECONDS = 0.5


async def take_over(open_database: Callable[[], Database], app: Starlette, listening: socket.socket) -> Database:
    """Wait until the database can be opened, however long that takes, and give it.

    Args:
        open_database: tries once; called in a worker thread.
        app: what is answered over HTTP meanwhile.
        listening: where; it goes on listening afterwards, so that no request in between is refused.

    Raises:
        StartError: the database can never be opened so (its schema is newer than this program, a wrong URL ...).
    """
    async with _answering(app, listening):
        told = ""
        while True:
            try:
                database = await asyncio.to_thread(open_database)
            except (DatabaseTakenError, DatabaseAwayError) as error:
                if str(error) != told:
                    told = str(error)
                    _log.info("standing by", reason=told)
                await asyncio.sleep(_POLL_SECONDS)
            else:
                _log.warning("taking over", database=database.name)
                return database


@contextlib.asynccontextmanager
async def _answering(app: Starlette, listening: socket.socket) -> AsyncIterator[None]:
    server = http_server(app)
    task = asyncio.create_task(server.serve(sockets=[listening.dup()]), name="http of a standby")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([task])
