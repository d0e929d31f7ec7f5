"""Chat and mail through the real library, to a receiver that is no public address."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from seismograd_server.errors import ConfigError, TransientDeliveryError
from seismograd_server.model import AlertState, Severity, Transition
from seismograd_server.notify.chat import ChatTarget
from seismograd_server.notify.endpoint import TargetConfig
from seismograd_server.notify.guard import guarded
from seismograd_server.notify.payloads import notification
from seismograd_server.notify.targets import build_targets
from seismograd_server.notify.templates import Words
from tests.server.notify.test_payloads import ALERT, NOW, RESOLVED
from tests.support.receiver import Answer, Receiver

FIRES = notification(Transition(ALERT, None, "opened", NOW, notify=True), "")
OVER = notification(Transition(RESOLVED, AlertState.FIRING, "recovered", NOW + 60, notify=True), "")
LOCAL = ("127.0.0.1",)


def chat(receiver: Receiver, allow_hosts: tuple[str, ...] = LOCAL) -> ChatTarget:
    url = f"json://127.0.0.1:{receiver.port}/hush"
    return ChatTarget(
        "chat", TargetConfig("chat", url, allow_hosts=allow_hosts), Words("{{ severity }}", "{{ reason }}")
    )


def send(target: ChatTarget, *notes: dict[str, Any]) -> None:
    asyncio.run(target.send(notes, NOW))


def test_a_service_is_told_in_the_words_of_the_templates(receiver: Receiver) -> None:
    send(chat(receiver), FIRES, OVER)
    first, second = (each.json() for each in receiver.requests)
    assert (first["title"], first["message"], first["type"]) == ("critical", ALERT.reason, "failure")
    assert second["type"] == "success"


@pytest.mark.parametrize("status", [400, 500, 302])
def test_what_a_service_does_not_take_is_told_again_later(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: Answer(status)
    with pytest.raises(TransientDeliveryError, match=rf"did not take it: .*{status}"):
        send(chat(receiver), FIRES)


def test_a_service_at_an_address_inside_is_refused_before_anything_is_sent(receiver: Receiver) -> None:
    with pytest.raises(TransientDeliveryError, match=r"led to 127\.0\.0\.1, which is not public"):
        send(chat(receiver, allow_hosts=()), FIRES)
    assert receiver.requests == []


def test_a_redirect_to_an_address_inside_is_refused_too(
    receiver: Receiver, make_receiver: Callable[..., Receiver]
) -> None:
    private = make_receiver()
    location = private.url.replace("127.0.0.1", "127.0.0.2")
    receiver.answer = lambda _: Answer(307, {"Location": f"{location}/latest/meta-data"})
    with pytest.raises(TransientDeliveryError, match=r"led to 127\.0\.0\.2, which is not public"):
        send(chat(receiver), FIRES)
    assert private.requests == []


def test_only_the_thread_that_is_guarded_is_and_only_while_it_is(receiver: Receiver) -> None:
    address = ("127.0.0.1", receiver.port)
    connected: list[socket.socket] = []
    with guarded(()) as refused:
        other = threading.Thread(target=lambda: connected.append(socket.create_connection(address)))
        other.start()
        other.join()
        with pytest.raises(PermissionError, match="not a public address"):
            socket.create_connection(address)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(PermissionError):
            datagrams.sendto(b"x", address)
    assert refused == ["127.0.0.1", "127.0.0.1"]
    connected[0].close()
    socket.create_connection(address).close()


def test_a_url_that_is_no_service_is_refused_without_being_repeated(caplog: pytest.LogCaptureFixture) -> None:
    for url in ("nothing://hush", "", "slack://"):
        with pytest.raises(ConfigError, match="apprise reads no service") as refusal:
            build_targets([TargetConfig("chat", url)], 30.0)
        assert "hush" not in str(refusal.value) + caplog.text


def test_its_name_tells_nothing_secret(receiver: Receiver) -> None:
    one = TargetConfig("chat", f"json://127.0.0.1:{receiver.port}/hush")
    names = [target.name for target in build_targets([one, TargetConfig("chat", "json://hush.example")], 30.0)]
    assert names[0] == "chat:json"
    assert names[1].startswith("chat:json#")
    assert not any("hush" in name for name in names)


def test_a_server_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError, match=r"pip install \"seismograd\[chat\]\""):
        ChatTarget("chat", TargetConfig("chat", "json://x.example"), Words())


def test_a_warning_is_told_as_one(receiver: Receiver) -> None:
    send(chat(receiver), FIRES | {"severity": Severity.WARNING.label}, FIRES | {"severity": Severity.INFO.label})
    assert [each.json()["type"] for each in receiver.requests] == ["warning", "info"]
