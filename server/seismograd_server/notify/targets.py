"""Who is told: an Alertmanager, or a webhook. Each knows how to send a few notifications in one request."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from seismograd_server.errors import ConfigError
from seismograd_server.notify.addresses import Resolver, public_addresses, resolve
from seismograd_server.notify.http import post
from seismograd_server.notify.payloads import alertmanager_alerts, webhook_body
from seismograd_server.notify.signing import HEADER, sign

# Small, because one bad alert costs its batch a second round, and each alert is about a kilobyte.
_ALERTMANAGER_BATCH = 16


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """One target, as the configuration names it.

    Attributes:
        kind: what is there.
        url: of an Alertmanager its root (also with a path prefix), of a webhook the very URL to post to.
        name: under which metrics and logs know it; empty = made from kind and host, never from what may be secret.
        secret: of a webhook, for its signature.
        bearer_token: of an Alertmanager that asks for one. Basic authentication goes into the URL.
        ca_file: certificates to trust instead of the system's; empty = the system's.
        labels: for every alert sent to this Alertmanager; for routing.
        allow_hosts: hosts that a webhook may reach although they are not public, and without https.
    """

    kind: Literal["alertmanager", "webhook"]
    url: str = field(repr=False)
    name: str = ""
    secret: str = field(default="", repr=False)
    bearer_token: str = field(default="", repr=False)
    ca_file: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    allow_hosts: tuple[str, ...] = ()


class Target(Protocol):
    """Somebody to tell."""

    @property
    def name(self) -> str:
        """Unique among the targets; the label of its metrics and the key of its rows in the outbox."""

    @property
    def batch_size(self) -> int:
        """Most notifications in one request."""

    @property
    def resends(self) -> bool:
        """Whether it forgets what it is not told again."""

    async def send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        """Deliver all of them, or raise a DeliveryError about all of them."""


class AlertmanagerTarget:
    """One Alertmanager through its API v2. Several peers are several targets: each is told everything."""

    resends = True
    batch_size = _ALERTMANAGER_BATCH

    def __init__(self, name: str, config: TargetConfig, resend_seconds: float) -> None:
        self.name = name
        root = _parsed(config)
        self._url = root.copy_with(path=root.path.rstrip("/").removesuffix("/api/v2/alerts") + "/api/v2/alerts")
        self._headers = {"Authorization": f"Bearer {config.bearer_token}"} if config.bearer_token else {}
        self._context = _context(config, self._url)
        self._labels = config.labels
        self._resend_seconds = resend_seconds

    async def send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        """Deliver all of them, or raise a DeliveryError about all of them."""
        alerts = [
            alert for note in notes for alert in alertmanager_alerts(note, now, self._resend_seconds, self._labels)
        ]
        await post(self._url, json.dumps(alerts, allow_nan=False).encode(), self._headers, context=self._context)


class WebhookTarget:
    """Somebody else's HTTPS endpoint, told with a signed body."""

    resends = False
    batch_size = 1

    def __init__(self, name: str, config: TargetConfig, resolver: Resolver = resolve) -> None:
        self.name = name
        self._url = _parsed(config)
        self._trusted = self._url.host.lower() in {host.lower() for host in config.allow_hosts}
        if self._url.scheme != "https" and not self._trusted:
            raise ConfigError(
                f"webhook {name}: only https is allowed; use https or add {self._url.host!r} to its allow_hosts"
            )
        if not config.secret:
            raise ConfigError(f"webhook {name}: it has no secret; set secret or secret_file, to sign what it is sent")
        self._secret = config.secret
        self._context = _context(config, self._url)
        self._resolver = resolver

    async def send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        """Deliver all of them, or raise a DeliveryError about all of them."""
        for note in notes:
            body = webhook_body(note)
            headers = {HEADER: sign(self._secret, int(now), body)}
            port = self._url.port or (443 if self._url.scheme == "https" else 80)
            addresses = () if self._trusted else await public_addresses(self._url.host, port, self._resolver)
            await post(self._url, body, headers, context=self._context, addresses=addresses)


def build_targets(configs: Sequence[TargetConfig], resend_seconds: float) -> list[Target]:
    """The targets of a configuration, each under a name of its own.

    Raises:
        ConfigError: a URL that cannot be used, a webhook without a secret, a name given twice.
    """
    targets: list[Target] = []
    taken: set[str] = set()
    for config in configs:
        name = _name(config, taken)
        taken.add(name)
        targets.append(
            AlertmanagerTarget(name, config, resend_seconds)
            if config.kind == "alertmanager"
            else WebhookTarget(name, config)
        )
    return targets


def _name(config: TargetConfig, taken: set[str]) -> str:
    if config.name:
        if config.name in taken:
            raise ConfigError(f"notification target {config.name!r} is configured twice: give each a name of its own")
        return config.name
    url = _parsed(config)
    name = f"{config.kind}:{url.host}" + (f":{url.port}" if url.port else "")
    # Two webhooks at one host differ in their path, which may be a secret: a digest tells them apart as well.
    return name if name not in taken else f"{name}#{hashlib.sha256(config.url.encode()).hexdigest()[:8]}"


def _parsed(config: TargetConfig) -> httpx.URL:
    # Never repeat the URL in a message: userinfo and path may be secret.
    try:
        url = httpx.URL(config.url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{config.kind} URL cannot be read: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError(f"{config.kind} URL must be http://HOST or https://HOST, not {url.scheme or 'empty'}://...")
    return url


def _context(config: TargetConfig, url: httpx.URL) -> ssl.SSLContext | None:
    if url.scheme != "https":
        return None
    if config.ca_file and not Path(config.ca_file).is_file():
        raise ConfigError(f"ca_file {config.ca_file} is not a file: give a PEM bundle")
    try:
        return ssl.create_default_context(cafile=config.ca_file or None)
    except ssl.SSLError as error:
        raise ConfigError(f"ca_file {config.ca_file} holds no certificates: give a PEM bundle") from error
