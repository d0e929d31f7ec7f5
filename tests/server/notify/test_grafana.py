"""Annotations, against a receiver that keeps them as Grafana does."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from seismograd_server.errors import ConfigError, PermanentDeliveryError, TransientDeliveryError
from seismograd_server.model import AlertState, Transition
from seismograd_server.notify.endpoint import TargetConfig
from seismograd_server.notify.grafana import GrafanaTarget
from seismograd_server.notify.payloads import notification
from seismograd_server.notify.templates import Words
from tests.server.notify.test_payloads import ALERT, NOW, RESOLVED
from tests.support.receiver import Answer, Received, Receiver

FIRES = notification(Transition(ALERT, None, "opened", NOW, notify=True), "")
OVER = notification(Transition(RESOLVED, AlertState.FIRING, "recovered", NOW + 60, notify=True), "")
AGAIN = notification(Transition(ALERT, AlertState.RESOLVED, "reopened", NOW + 120, notify=True), "")


class Annotations:
    """What Grafana's API does with annotations, as its documentation says: a point ends when it begins."""

    def __init__(self, receiver: Receiver) -> None:
        self.kept: list[dict[str, Any]] = []
        receiver.answer = self.answer

    def answer(self, request: Received) -> Answer:
        assert request.headers["Authorization"] == "Bearer hush"
        path = urlsplit(request.path)
        if request.method == "GET":
            wanted = parse_qs(path.query)
            found = [each for each in self.kept if set(wanted["tags"]) <= set(each["tags"])]
            return Answer(body=json.dumps(found).encode())
        if request.method == "PATCH":
            self.kept[int(path.path.rsplit("/", 1)[1]) - 1].update(request.json())
            return Answer(body=b'{"message": "Annotation patched"}')
        made = request.json()
        self.kept.append({"id": len(self.kept) + 1, "timeEnd": made["time"], **made})
        return Answer(body=b'{"message": "Annotation added", "id": 1}')


def target(receiver: Receiver, **changes: Any) -> GrafanaTarget:
    settings: dict[str, Any] = {"bearer_token": "hush", "allow_hosts": ("127.0.0.1",)} | changes
    return GrafanaTarget("grafana", TargetConfig("grafana", f"{receiver.url}/sub/", **settings), Words())


def send(grafana: GrafanaTarget, *notes: dict[str, Any]) -> None:
    asyncio.run(grafana.send(notes, NOW))


def test_an_alert_is_a_mark_that_becomes_a_region(receiver: Receiver) -> None:
    grafana = Annotations(receiver)
    there = target(receiver, tags=("team:speech",), dashboard_uid="seismograd-run")
    send(there, FIRES)
    (mark,) = grafana.kept
    assert (mark["time"], mark["timeEnd"], mark["dashboardUID"]) == (1000 * NOW, 1000 * NOW, "seismograd-run")
    assert {"seismograd", "project:mt", "run:lstm 7", "signature:runaway", "severity:critical", "team:speech"} < set(
        mark["tags"]
    )
    assert "the gradient norm doubles" in mark["text"]
    send(there, OVER)
    (region,) = grafana.kept
    assert (region["time"], region["timeEnd"]) == (1000 * NOW, 1000 * (NOW + 60))
    assert region["text"].startswith("resolved: ")
    assert [each.path.split("?")[0] for each in receiver.requests[:2]] == ["/sub/api/annotations"] * 2


def test_what_is_delivered_again_is_drawn_once(receiver: Receiver) -> None:
    grafana = Annotations(receiver)
    send(target(receiver), FIRES, FIRES, OVER, OVER)
    assert len(grafana.kept) == 1
    send(target(receiver), AGAIN, AGAIN)
    assert [each["time"] for each in grafana.kept] == [1000 * NOW, 1000 * (NOW + 120)], "it opened twice"


def test_an_end_without_a_beginning_is_drawn_whole(receiver: Receiver) -> None:
    grafana = Annotations(receiver)
    send(target(receiver), OVER)
    (region,) = grafana.kept
    assert (region["time"], region["timeEnd"]) == (1000 * NOW, 1000 * (NOW + 60))


@pytest.mark.parametrize("reply", [b"<html>", b"{}x", b"[1]", b'[{"id": "x"}]', b"null"])
def test_what_is_no_grafana_is_told_again_later(receiver: Receiver, reply: bytes) -> None:
    receiver.answer = lambda _: Answer(body=reply)
    with pytest.raises(TransientDeliveryError, match="no Grafana"):
        send(target(receiver), FIRES)


def test_a_grafana_that_refuses_for_good_or_for_now_is_believed(receiver: Receiver) -> None:
    receiver.answer = lambda _: Answer(400, body=b"bad tags")
    with pytest.raises(PermanentDeliveryError, match="bad tags"):
        send(target(receiver), FIRES)
    receiver.answer = lambda _: Answer(401)
    with pytest.raises(TransientDeliveryError, match="401"):
        send(target(receiver), FIRES)


def test_a_grafana_inside_must_be_named() -> None:
    with pytest.raises(ConfigError, match="only https is allowed"):
        GrafanaTarget("grafana", TargetConfig("grafana", "http://grafana:3000"), Words())

    async def inside(_host: str, _port: int) -> list[str]:
        return ["10.0.0.7"]

    hidden = GrafanaTarget("grafana", TargetConfig("grafana", "https://grafana.example"), Words(), inside)
    with pytest.raises(TransientDeliveryError, match="not public"):
        send(hidden, FIRES)
