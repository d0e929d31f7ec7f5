"""Targets against a server that misbehaves in every way it can."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seismograd_server.errors import ConfigError, PermanentDeliveryError, TransientDeliveryError
from seismograd_server.notify import http
from seismograd_server.notify.endpoint import TargetConfig
from seismograd_server.notify.payloads import describe
from seismograd_server.notify.targets import WebhookTarget, build_targets
from tests.server.notify.test_payloads import ALERT, NOW
from tests.support.processes import eventually, require_program
from tests.support.receiver import Answer, Received, Receiver

NOTE = describe(ALERT, "")
LOCAL = ("127.0.0.1",)


def webhook(url: str, **options: Any) -> WebhookTarget:
    config = TargetConfig("webhook", url, secret="hush", allow_hosts=options.pop("allow_hosts", LOCAL), **options)
    return WebhookTarget("hook", config)


def send(target: Any) -> None:
    asyncio.run(target.send([NOTE], NOW))


def test_a_webhook_is_signed_over_what_it_received(receiver: Receiver) -> None:
    send(webhook(f"{receiver.url}/hook?token=1"))
    (request,) = receiver.requests
    assert request.path == "/hook?token=1"
    fields = dict(part.split("=", 1) for part in request.headers["Seismograd-Signature"].split(","))
    expected = hmac.new(b"hush", f"{int(NOW)}.".encode() + request.body, hashlib.sha256).hexdigest()
    assert fields == {"t": str(int(NOW)), "v1": expected}
    assert request.json() == NOTE
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [400, 410, 413, 422])
def test_a_body_that_will_never_be_taken_is_a_permanent_failure(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: Answer(status, body=b"no label")
    with pytest.raises(PermanentDeliveryError, match=f"answered {status}: no label"):
        send(webhook(receiver.url))


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503])
def test_what_may_be_mended_is_a_transient_failure(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: Answer(status)
    with pytest.raises(TransientDeliveryError, match=f"answered {status}"):
        send(webhook(receiver.url))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receiver: Receiver, make_receiver: Callable[..., Receiver], status: int) -> None:
    private = make_receiver()
    receiver.answer = lambda _: Answer(status, {"Location": f"{private.url}/latest/meta-data"})
    with pytest.raises(TransientDeliveryError, match="redirect"):
        send(webhook(receiver.url))
    assert private.requests == []


def test_a_target_that_hangs_is_given_up_in_time(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    stall = threading.Event()
    receiver.answer = lambda _: Answer(stall=stall)
    assert http.TIMEOUT_SECONDS == 5.0
    monkeypatch.setattr(http, "TIMEOUT_SECONDS", 0.3)
    try:
        with pytest.raises(TransientDeliveryError, match=r"did not answer within 0\.3 s"):
            send(webhook(receiver.url))
    finally:
        stall.set()


def test_a_target_that_is_not_there_is_tried_again(receiver: Receiver) -> None:
    receiver.close()
    with pytest.raises(TransientDeliveryError, match="ConnectError"):
        send(webhook(receiver.url))


def test_no_more_than_the_beginning_of_a_reply_is_read(receiver: Receiver) -> None:
    # Far more than sockets buffer, so that the receiver notices when nobody reads on.
    endless = b"x" * (64 * 2**20)
    receiver.answer = lambda _: Answer(body=endless)
    send(webhook(receiver.url))
    receiver.answer = lambda _: Answer(500, body=endless)
    with pytest.raises(TransientDeliveryError) as failure:
        send(webhook(receiver.url))
    assert len(str(failure.value)) < 300
    eventually(lambda: receiver.cut_short == 2, 10.0, "the receiver notices that nobody reads on")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"])
def test_a_name_that_leads_to_a_private_address_is_refused_before_anything_is_sent(address: str) -> None:
    async def rebinding(host: str, port: int) -> list[str]:
        return [address]

    config = TargetConfig("webhook", "https://hooks.example/x", secret="hush")
    with pytest.raises(TransientDeliveryError, match="not public"):
        send(WebhookTarget("hook", config, rebinding))


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for hooks.example, and its key."""
    openssl = require_program("openssl", "openssl")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hooks.example",
         "-addext", "subjectAltName=DNS:hooks.example", "-keyout", key, "-out", cert],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return cert, key


def test_the_connection_goes_to_the_address_that_was_checked_under_the_name_that_was_asked(
    make_receiver: Callable[..., Receiver], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    endpoint = make_receiver(context)
    asked: list[str] = []

    async def once(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    # Loopback stands in for a public address: no other is reachable from a test.
    monkeypatch.setattr("seismograd_server.notify.addresses.is_public", lambda _: True)
    url = f"https://hooks.example:{endpoint.port}/x"
    send(WebhookTarget("hook", TargetConfig("webhook", url, secret="hush", ca_file=str(certificate[0])), once))
    (request,) = endpoint.requests
    assert request.headers["Host"] == f"hooks.example:{endpoint.port}"
    assert (asked, names) == (["hooks.example"], ["hooks.example"])

    other = f"https://other.example:{endpoint.port}/x"
    with pytest.raises(TransientDeliveryError, match="certificate"):
        send(WebhookTarget("hook", TargetConfig("webhook", other, secret="hush", ca_file=str(certificate[0])), once))
    assert len(endpoint.requests) == 1


def test_an_alertmanager_is_told_at_its_own_path_with_its_token(receiver: Receiver) -> None:
    (target,) = build_targets(
        [TargetConfig("alertmanager", f"{receiver.url}/prefix/", bearer_token="abc", labels={"dc": "eu"})], 30.0
    )
    send(target)
    (request,) = receiver.requests
    assert request.path == "/prefix/api/v2/alerts"
    assert request.headers["Authorization"] == "Bearer abc"
    assert request.json()[0]["labels"]["dc"] == "eu"


def test_basic_authentication_may_stand_in_the_url(receiver: Receiver) -> None:
    url = receiver.url.replace("//", "//ada:hush@") + "/api/v2/alerts"
    (target,) = build_targets([TargetConfig("alertmanager", url)], 30.0)
    send(target)
    (request,) = receiver.requests
    assert (request.path, request.headers["Authorization"]) == ("/api/v2/alerts", "Basic YWRhOmh1c2g=")
    assert "hush" not in target.name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TargetConfig("webhook", "http://hooks.example/x", secret="s"), "only https is allowed"),
        (TargetConfig("webhook", "https://hooks.example/x"), "has no secret"),
        (TargetConfig("webhook", "file:///etc/passwd", secret="s"), "must be http://HOST or https://HOST"),
        (TargetConfig("alertmanager", "localhost:9093"), "must be http://HOST or https://HOST"),
        (TargetConfig("alertmanager", "http://a:b:c/"), "cannot be read"),
        (TargetConfig("alertmanager", "https://a", ca_file="/no/such"), "ca_file /no/such is not a file"),
    ],
)
def test_a_target_that_cannot_work_is_refused_with_what_to_do(config: TargetConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_targets([config], 30.0)


def test_a_secret_in_a_path_is_repeated_nowhere(receiver: Receiver) -> None:
    config = TargetConfig("webhook", "ftp://hooks.example/T0/verysecret", secret="verysecret2")
    with pytest.raises(ConfigError) as refusal:
        build_targets([config], 30.0)
    assert "verysecret" not in str(refusal.value)
    assert "verysecret" not in repr(config)
    receiver.answer = lambda _: Answer(500)
    with pytest.raises(TransientDeliveryError) as failure:
        send(webhook(f"{receiver.url}/T0/verysecret"))
    assert "verysecret" not in str(failure.value)


def test_names_are_unique_and_say_where() -> None:
    configs = [
        TargetConfig("alertmanager", "http://am-1:9093"),
        TargetConfig("alertmanager", "http://am-2:9093"),
        TargetConfig("webhook", "https://hooks.example/one", secret="s"),
        TargetConfig("webhook", "https://hooks.example/two", secret="s"),
    ]
    names = [target.name for target in build_targets(configs, 30.0)]
    assert names[:3] == ["alertmanager:am-1:9093", "alertmanager:am-2:9093", "webhook:hooks.example"]
    assert names[3].startswith("webhook:hooks.example#")
    with pytest.raises(ConfigError, match="configured twice"):
        build_targets([TargetConfig("alertmanager", "http://a", name="x")] * 2, 30.0)


def test_a_request_is_seen_as_it_came(receiver: Receiver) -> None:
    seen: list[Received] = []

    def answer(request: Received) -> Answer:
        seen.append(request)
        return Answer(204, body=b"")

    receiver.answer = answer
    send(webhook(receiver.url))
    assert seen == receiver.requests
