"""Annotations in Grafana: a mark where an alert began, which becomes a region when it is over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seismograd_server.errors import TransientDeliveryError
from seismograd_server.model import AlertState
from seismograd_server.notify.addresses import Resolver, resolve
from seismograd_server.notify.endpoint import GuardedEndpoint, TargetConfig
from seismograd_server.notify.templates import Words

# An alert has one annotation for each time that it opened; more than this is one that comes and goes.
_LOOKED_AT = 20


class GrafanaTarget:
    """One Grafana through its HTTP API, with the token of a service account that may write annotations.

    At least once is made exactly once here: an annotation carries the alert's id as a tag, and is looked for first.
    """

    resends = False
    batch_size = 1
    hold_resolved_seconds = 0.0

    def __init__(self, name: str, config: TargetConfig, words: Words, resolver: Resolver = resolve) -> None:
        self.name = name
        self.projects = config.projects
        self._endpoint = GuardedEndpoint(name, config, resolver)
        self._headers = {"Authorization": f"Bearer {config.bearer_token}"} if config.bearer_token else {}
        root = self._endpoint.url
        self._url = root.copy_with(path=root.path.rstrip("/") + "/api/annotations")
        self._dashboard = {"dashboardUID": config.dashboard_uid} if config.dashboard_uid else {}
        self._tags = config.tags
        self._words = words

    async def send(self, notes: Sequence[Mapping[str, Any]], now: float) -> None:
        """Deliver all of them, or raise a DeliveryError about all of them."""
        del now
        for note in notes:
            await self._annotate(note)

    async def _annotate(self, note: Mapping[str, Any]) -> None:
        began = milliseconds(note["opened_at"] if note["state"] == AlertState.RESOLVED else note["at"])
        text = f"{self._words.title(note)}\n{self._words.body(note)}"
        about = {"tags": self._tags_of(note), "text": text}
        known = await self._known(note["alert_id"])
        still_open = [each for each in known if each["timeEnd"] <= each["time"]]
        if note["state"] != AlertState.RESOLVED:
            if still_open:
                await self._write("PATCH", f"/{still_open[0]['id']}", about)
            else:
                await self._write("POST", "", about | self._dashboard | {"time": began})
            return
        ended = milliseconds(note["resolved_at"] or note["at"])
        if still_open:
            # Grafana draws what ends when it begins as a point.
            await self._write(
                "PATCH", f"/{still_open[0]['id']}", about | {"timeEnd": max(ended, still_open[0]["time"] + 1)}
            )
        elif not any(each["timeEnd"] == ended for each in known):
            await self._write("POST", "", about | self._dashboard | {"time": began, "timeEnd": max(ended, began + 1)})

    def _tags_of(self, note: Mapping[str, Any]) -> list[str]:
        named = [f"{name}:{note[name]}" for name in ("project", "run", "signature", "severity")]
        return ["seismograd", *named, f"alert:{note['alert_id']}", *self._tags]

    async def _known(self, alert_id: str) -> list[dict[str, int]]:
        """The annotations of an alert, the newest first."""
        url = self._url.copy_merge_params({"tags": f"alert:{alert_id}", "type": "annotation", "limit": _LOOKED_AT})
        reply = await self._endpoint.exchange("GET", url, b"", self._headers)
        try:
            found = [
                {name: int(each.get(name) or 0) for name in ("id", "time", "timeEnd")} for each in json.loads(reply)
            ]
        except (ValueError, TypeError, AttributeError) as error:
            raise TransientDeliveryError("what answers is no Grafana: it lists no annotations") from error
        return sorted(found, key=lambda each: -each["time"])

    async def _write(self, method: str, path: str, values: Mapping[str, Any]) -> None:
        url = self._url.copy_with(path=self._url.path + path)
        await self._endpoint.exchange(method, url, json.dumps(values, allow_nan=False).encode(), self._headers)


def milliseconds(unix_seconds: float) -> int:
    """A time as Grafana counts it."""
    return round(1000.0 * unix_seconds)
