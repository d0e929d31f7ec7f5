"""Who is told: an Alertmanager, or a webhook. Each knows how to send a few notifications in one request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from seismograd_server.errors import ConfigError
from seismograd_server.notify.addresses import Resolver, public_addresses, resolve
from seismograd_server.notify.endpoint import Target, TargetConfig, parsed_url, tls_context
from seismograd_server.notify.http import post
from seismograd_server.notify.payloads import alertmanager_alerts, webhook_body
from seismograd_server.notify.signing import HEADER, sign

# Small, because one bad alert costs its batch a second round, and each alert is about a kilobyte.
_ALERTMANAGER_BATCH = 16


class AlertmanagerTarget:
    """One Alertmanager through its API v2. Several peers are several targets: each is told everything."""

    resends = True
    batch_size = _ALERTMANAGER_BATCH

    def __init__(
        self, name: str, config: TargetConfig, resend_seconds: float, hold_resolved_seconds: float = 0.0
    ) -> None:
        self.name = name
        self.projects = config.projects
        self.hold_resolved_seconds = hold_resolved_seconds
        root = parsed_url(config)
        self._url = root.copy_with(path=root.path.rstrip("/").removesuffix("/api/v2/alerts") + "/api/v2/alerts")
        self._headers = {"Authorization": f"Bearer {config.bearer_token}"} if config.bearer_token else {}
        self._context = tls_context(config, self._url)
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
    hold_resolved_seconds = 0.0

    def __init__(self, name: str, config: TargetConfig, resolver: Resolver = resolve) -> None:
        self.name = name
        self.projects = config.projects
        self._url = parsed_url(config)
        self._trusted = self._url.host.lower() in {host.lower() for host in config.allow_hosts}
        if self._url.scheme != "https" and not self._trusted:
            raise ConfigError(
                f"webhook {name}: only https is allowed; use https or add {self._url.host!r} to its allow_hosts"
            )
        if not config.secret:
            raise ConfigError(f"webhook {name}: it has no secret; set secret or secret_file, to sign what it is sent")
        self._secret = config.secret
        self._context = tls_context(config, self._url)
        self._resolver = resolver

    async def send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        """Deliver all of them, or raise a DeliveryError about all of them."""
        for note in notes:
            body = webhook_body(note)
            headers = {HEADER: sign(self._secret, int(now), body)}
            port = self._url.port or (443 if self._url.scheme == "https" else 80)
            addresses = () if self._trusted else await public_addresses(self._url.host, port, self._resolver)
            await post(self._url, body, headers, context=self._context, addresses=addresses)


def build_targets(
    configs: Sequence[TargetConfig], resend_seconds: float, hold_resolved_seconds: float = 0.0
) -> list[Target]:
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
            AlertmanagerTarget(name, config, resend_seconds, hold_resolved_seconds)
            if config.kind == "alertmanager"
            else WebhookTarget(name, config)
        )
    return targets


def _name(config: TargetConfig, taken: set[str]) -> str:
    if config.name:
        if config.name in taken:
            raise ConfigError(f"notification target {config.name!r} is configured twice: give each a name of its own")
        return config.name
    url = parsed_url(config)
    name = f"{config.kind}:{url.host}" + (f":{url.port}" if url.port else "")
    # Two webhooks at one host differ in their path, which may be a secret: a digest tells them apart as well.
    return name if name not in taken else f"{name}#{hashlib.sha256(config.url.encode()).hexdigest()[:8]}"
