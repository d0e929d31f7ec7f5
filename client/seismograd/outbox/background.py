"""The next run on a machine delivers what dead jobs have left there, beside its own records and never in their way.

It begins when the run's own connection stands, goes to the same server only, sends little at a time, and ends with the
run: what it has not done by then is for the next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from seismograd.errors import OptionError
from seismograd.options import MEBIBYTE, Options
from seismograd.outbox.folder import SpoolFolder
from seismograd.outbox.journal import Account
from seismograd.outbox.leftovers import dead_folders, deliver
from seismograd.outbox.transport import Transport

_log = logging.getLogger("seismograd")

# With the smallest memory a frame is 64 KiB and a turn some milliseconds of CPU: about 1 % of one core.
_MEMORY_BYTES = MEBIBYTE
_TURN_SECONDS = 0.25


class Background:
    """A daemon thread that delivers leftovers once."""

    def __init__(self, options: Options, transport: Callable[[Options], Transport] | None = None) -> None:
        """`transport` makes a stand-in for the network."""
        self._parents = options.spool_parents
        self._server = options.server
        self._options = replace(options, queue_bytes=_MEMORY_BYTES)
        self._transport = transport
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seismograd-leftovers", daemon=True)

    def start(self) -> None:
        """Begins; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """The run is over: lets go of what is under way."""
        self._over.set()
        self._thread.join(timeout=2 * _TURN_SECONDS)

    def _run(self) -> None:
        try:
            for path in dead_folders(self._parents):
                if self._over.is_set():
                    return
                folder = SpoolFolder.take(path)
                if folder is not None:
                    self._deliver(folder)
        except Exception:  # noqa: BLE001 - training first: what goes wrong here concerns no run that lives
            _log.debug("leftovers in the spool were not delivered", exc_info=True)

    def _deliver(self, folder: SpoolFolder) -> None:
        transport = None if self._transport is None else self._transport(self._options)
        delivery = deliver(folder, self._options_for, transport=transport, wait=self._pace)
        if delivery.error:
            _log.debug("%s stays in the spool: %s", delivery.path, delivery.error)
        else:
            _log.info("delivered %d records that %s had left", delivery.delivered, delivery.run)

    def _options_for(self, account: Account) -> Options:
        if account.server != self._server:
            raise OptionError(f"server: its records are for {account.server}")
        return self._options

    def _pace(self, seconds: float) -> bool:
        return not self._over.wait(max(seconds, _TURN_SECONDS))
