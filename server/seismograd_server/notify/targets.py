"""Who is told. Each target knows how to send a few notifications in one request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from seismograd_server.errors import ConfigError
from seismograd_server.notify.addresses import Resolver, resolve
from seismograd_server.notify.chat import ChatTarget
from seismograd_server.notify.endpoint import GuardedEndpoint, Target, TargetConfig, parsed_url, tls_context
from seismograd_server.notify.grafana import GrafanaTarget
from seismograd_server.notify.http import exchange
from seismograd_server.notify.payloads import alertmanager_alerts, webhook_body
from seismograd_server.notify.signing import HEADER, sign
from seismograd_server.notify.templates import Words

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
        body = json.dumps(alerts, allow_nan=False).encode()
        await exchange("POST", self._url, body, self._headers, context=self._context)


class WebhookTarget:
    """Somebody else's HTTPS endpoint, told with a signed body."""

    resends = False
    batch_size = 1
    hold_resolved_seconds = 0.0

    def __init__(self, name: str, config: TargetConfig, resolver: Resolver = resolve) -> None:
        self.name = name
        self.projects = config.projects
        self._endpoint = GuardedEndpoint(name, config, resolver)
        if not config.secret:
            raise ConfigError(f"webhook {name}: it has no secret; set secret or secret_file, to sign what it is sent")
        self._secret = config.secret

    async def send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        """Deliver all of them, or raise a DeliveryError about all of them."""
        for note in notes:
            body = webhook_body(note)
            headers = {HEADER: sign(self._secret, int(now), body)}
            await self._endpoint.exchange("POST", self._endpoint.url, body, headers)


def build_targets(
    configs: Sequence[TargetConfig],
    resend_seconds: float,
    hold_resolved_seconds: float = 0.0,
    words: Words | None = None,
) -> list[Target]:
    """The targets of a configuration, each under a name of its own; `words` are for those that people read.

    Raises:
        ConfigError: a URL that cannot be used, a webhook without a secret, a name given twice, no `apprise`.
    """
    words = words or Words()
    targets: list[Target] = []
    taken: set[str] = set()
    for config in configs:
        name = _name(config, taken)
        taken.add(name)
        match config.kind:
            case "alertmanager":
                targets.append(AlertmanagerTarget(name, config, resend_seconds, hold_resolved_seconds))
            case "webhook":
                targets.append(WebhookTarget(name, config))
            case "grafana":
                targets.append(GrafanaTarget(name, config, words))
            case "chat":
                targets.append(ChatTarget(name, config, words))
    return targets


def _name(config: TargetConfig, taken: set[str]) -> str:
    if config.name:
        if config.name in taken:
            raise ConfigError(f"notification target {config.name!r} is configured twice: give each a name of its own")
        return config.name
    if config.kind == "chat":
        name = f"chat:{config.url.partition('://')[0]}"  # of its URL the rest may be secret, the host included
    else:
        url = parsed_url(config)
        name = f"{config.kind}:{url.host}" + (f":{url.port}" if url.port else "")
    # Two webhooks at one host differ in their path, which may be a secret: a digest tells them apart as well.
    return name if name not in taken else f"{name}#{hashlib.sha256(config.url.encode()).hexdigest()[:8]}"
