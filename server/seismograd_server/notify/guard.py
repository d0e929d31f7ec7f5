"""A watch over the connections of a library that makes its own: to public addresses only, whatever it was led to.

Checked is the very address of each connection, in the moment it is made, so that neither a redirect nor a name that
answers otherwise the second time leads past it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

from seismograd_server.notify.addresses import is_public


@dataclass(frozen=True, slots=True)
class _Guard:
    allowed: Collection[str]
    refused: list[str] = field(default_factory=list)


_GUARD: ContextVar[_Guard | None] = ContextVar("seismograd_guard", default=None)


@contextmanager
def guarded(allowed: Collection[str]) -> Iterator[list[str]]:
    """While the block runs, its own thread connects to public addresses and to the `allowed` ones only.

    Gives the addresses that were refused. A refusal is an OSError for whoever wanted to connect.
    """
    _install()
    guard = _Guard(allowed)
    token = _GUARD.set(guard)
    try:
        yield guard.refused
    finally:
        _GUARD.reset(token)


@cache
def _install() -> None:
    """Once for the process: an audit hook cannot be taken away, and lets everything pass that is not guarded."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event not in {"socket.connect", "socket.sendto"}:
        return
    guard = _GUARD.get()
    if guard is None:
        return
    address = arguments[1]
    host = str(address[0]) if isinstance(address, tuple) and address else "a local socket"
    if host not in guard.allowed and not is_public(host):
        guard.refused.append(host)
        raise PermissionError(f"{host} is not a public address")
