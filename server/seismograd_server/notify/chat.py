"""Chat and mail, through the library `apprise`: some hundred services, each by a URL of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from seismograd_server.errors import ConfigError, TransientDeliveryError
from seismograd_server.model import AlertState
from seismograd_server.notify.addresses import Resolver, resolve
from seismograd_server.notify.endpoint import TargetConfig
from seismograd_server.notify.guard import guarded
from seismograd_server.notify.templates import Words

# The library waits four seconds to connect and four for a reply; mail takes several exchanges.
_TIMEOUT_SECONDS = 30.0
_KINDS = {"critical": "failure", "warning": "warning"}


class ChatTarget:
    """One service. The library makes its own connections; `guard` sees where they go."""

    resends = False
    batch_size = 1
    hold_resolved_seconds = 0.0

    def __init__(self, name: str, config: TargetConfig, words: Words, resolver: Resolver = resolve) -> None:
        self.name = name
        self.projects = config.projects
        self._service = _service(name, config.url)
        self._allow_hosts = config.allow_hosts
        self._words = words
        self._resolver = resolver

    async def send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        """Deliver all of them, or raise a DeliveryError about all of them."""
        del now
        allowed = {address for host in self._allow_hosts for address in await self._resolver(host, 0)}
        for note in notes:
            title, body = self._words.title(note), self._words.body(note)
            over = note["state"] == AlertState.RESOLVED
            kind = "success" if over else _KINDS.get(note["severity"], "info")
            try:
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    await asyncio.to_thread(self._tell, title, body, kind, allowed)
            except TimeoutError as error:
                raise TransientDeliveryError(f"the service did not take it within {_TIMEOUT_SECONDS:g} s") from error

    def _tell(self, title: str, body: str, kind: str, allowed: set[str]) -> None:
        with guarded(allowed) as refused, _overheard() as said:
            taken = self._service.notify(body=body, title=title, notify_type=kind)
        if refused:
            raise TransientDeliveryError(
                f"it led to {refused[0]}, which is not public: name the host in allow_hosts if that is meant"
            )
        if not taken:
            raise TransientDeliveryError(": ".join(["the service did not take it", *said[:1]]))


class _Listener(logging.Handler):
    """Keeps what one thread logs from warnings up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by the logger, in the thread that logs."""
        if record.thread == self._thread:
            self.said.append(record.getMessage())


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """What the library logs in this thread while the block runs: it gives its reasons nowhere else."""
    log, listener = logging.getLogger("apprise"), _Listener()
    log.addHandler(listener)
    try:
        yield listener.said
    finally:
        log.removeHandler(listener)


def _service(name: str, url: str) -> Any:
    try:
        import apprise  # noqa: PLC0415 (an extra that most servers do without)
    except ImportError as error:
        raise ConfigError(f'chat {name}: needs the library apprise: pip install "seismograd[chat]"') from error
    # The URL is not repeated, neither here nor in the library's log: nearly all of it is secret.
    log = logging.getLogger("apprise")
    log.disabled = True
    try:
        service = apprise.Apprise.instantiate(url)
    finally:
        log.disabled = False
    if service is None:
        raise ConfigError(
            f"chat {name}: apprise reads no service from its URL; its documentation lists those there are"
        )
    return service
