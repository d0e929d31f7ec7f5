"""The server as a program: it serves until it is told to stop, or cannot go on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Callable

from seismograd_server.app.listening import loop_factory
from seismograd_server.app.server import Server
from seismograd_server.config import Settings

# Records and arrays live until they are judged, and hardly any of them is part of a cycle: the interpreter's own
# thresholds would walk a fleet's worth of them many times a second, a quarter of the processor at 500 streams.
_COLLECT_AFTER = (50_000, 20, 50)
# How long the event loop waits for the worker to let go of the interpreter. With this instead of the usual 5 ms, a
# fleet that sends a step a message is taken a tenth faster; with a third of it no faster, with 30 ms a quarter slower.
_SWITCH_SECONDS = 0.0015


def run(settings: Settings, ready: Callable[[Server], None] = lambda server: None) -> None:  # noqa: ARG005 (a default)
    """Serve until SIGTERM or SIGINT; blocks. `ready` is called once, when everything listens.

    Raises:
        StartError, ConfigError: it could not start.
        SeismogradError: it could not go on.
    """
    gc.set_threshold(*_COLLECT_AFTER)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(settings, ready))


async def _serve(settings: Settings, ready: Callable[[Server], None]) -> None:
    server = Server(settings)
    ending = asyncio.create_task(_start_and_wait(server, ready))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await ending
    finally:
        await server.stop()


async def _start_and_wait(server: Server, ready: Callable[[Server], None]) -> None:
    await server.start()
    ready(server)
    await server.wait()
