"""What a target is, and how its address is read."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from seismograd_server.errors import ConfigError
from seismograd_server.notify.addresses import Resolver, public_addresses, resolve
from seismograd_server.notify.http import exchange


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """One target, as the configuration names it.

    Attributes:
        kind: what is there.
        url: of an Alertmanager its root (also with a path prefix), of a webhook the very URL to post to.
        name: under which metrics and logs know it; empty = made from kind and host, never from what may be secret.
        secret: of a webhook, for its signature.
        bearer_token: of an Alertmanager or a Grafana that asks for one. Basic authentication goes into the URL.
        ca_file: certificates to trust instead of the system's; empty = the system's.
        labels: for every alert sent to this Alertmanager; for routing.
        allow_hosts: hosts that may be reached although they are not public, and without https.
        tags: for every annotation made in this Grafana.
        dashboard_uid: of the one dashboard whose panels show them; empty = every dashboard that asks for their tags.
        projects: whose alerts it is told, as patterns with `*` and `?`; empty = all.
    """

    kind: Literal["alertmanager", "webhook", "grafana", "chat"]
    url: str = field(repr=False)
    name: str = ""
    secret: str = field(default="", repr=False)
    bearer_token: str = field(default="", repr=False)
    ca_file: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    allow_hosts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    dashboard_uid: str = ""
    projects: tuple[str, ...] = ()


class Target(Protocol):
    """Somebody to tell."""

    @property
    def name(self) -> str:
        """Unique among the targets; the label of its metrics and the key of its rows in the outbox."""

    @property
    def batch_size(self) -> int:
        """Most notifications in one request."""

    @property
    def projects(self) -> tuple[str, ...]:
        """Patterns of the projects whose alerts it is told; empty = all."""

    @property
    def resends(self) -> bool:
        """Whether it forgets what it is not told again."""

    @property
    def hold_resolved_seconds(self) -> float:
        """How long it must have known an alert as firing before it is told that it is over."""

    async def send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        """Deliver all of them, or raise a DeliveryError about all of them."""


class GuardedEndpoint:
    """Somebody else's HTTPS endpoint: at public addresses only, unless the operator has named its host."""

    def __init__(self, name: str, config: TargetConfig, resolver: Resolver = resolve) -> None:
        self.url = parsed_url(config)
        self._trusted = self.url.host.lower() in {host.lower() for host in config.allow_hosts}
        if self.url.scheme != "https" and not self._trusted:
            raise ConfigError(
                f"{config.kind} {name}: only https is allowed; use https or add {self.url.host!r} to its allow_hosts"
            )
        self._context = tls_context(config, self.url)
        self._resolver = resolver

    async def exchange(self, method: str, url: httpx.URL, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Send a request to a URL at this host. Raises DeliveryError; see `http.exchange`."""
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = () if self._trusted else await public_addresses(url.host, port, self._resolver)
        return await exchange(method, url, body, headers, context=self._context, addresses=addresses)


def is_told(target: Target, project: str) -> bool:
    """Whether a target is told of the alerts of a project."""
    return not target.projects or any(fnmatchcase(project, each) for each in target.projects)


def parsed_url(config: TargetConfig) -> httpx.URL:
    """The URL of a target. Raises ConfigError when it is none; the message never repeats it."""
    # Userinfo and path may be secret.
    try:
        url = httpx.URL(config.url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{config.kind} URL cannot be read: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        whose = f"{config.kind} {config.name}".strip()
        raise ConfigError(f"{whose}: url must be http://HOST or https://HOST")
    return url


def tls_context(config: TargetConfig, url: httpx.URL) -> ssl.SSLContext | None:
    """The certificates to trust, for https. Raises ConfigError when the file holds none."""
    if url.scheme != "https":
        return None
    if config.ca_file and not Path(config.ca_file).is_file():
        raise ConfigError(f"ca_file {config.ca_file} is not a file: give a PEM bundle")
    try:
        return ssl.create_default_context(cafile=config.ca_file or None)
    except ssl.SSLError as error:
        raise ConfigError(f"ca_file {config.ca_file} holds no certificates: give a PEM bundle") from error
