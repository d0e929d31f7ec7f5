"""What deploy/README.md says to whoever receives webhooks and writes templates, held against what is sent."""

from __future__ import annotations

import asyncio
import re
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seismograd_server.model import Transition
from seismograd_server.notify.endpoint import TargetConfig
from seismograd_server.notify.payloads import notification
from seismograd_server.notify.targets import WebhookTarget
from seismograd_server.notify.templates import Words
from tests.server.notify.test_payloads import ALERT, NOW, OPENED, RESOLVED
from tests.support.receiver import Receiver

TEXT = (Path(__file__).parents[2] / "deploy" / "README.md").read_text()
FIRES = notification(OPENED, "https://s.example", "https://docs.example")


def block(language: str) -> str:
    """The only piece of a language in the page."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return str(found)


def is_genuine() -> Callable[[str, str, bytes], bool]:
    names: dict[str, Any] = {}
    exec(compile(block("python"), "deploy/README.md", "exec"), names)
    found: Callable[[str, str, bytes], bool] = names["is_genuine"]
    return found


def test_the_receiver_on_the_page_takes_what_is_sent_and_nothing_else(receiver: Receiver) -> None:
    target = WebhookTarget("hook", TargetConfig("webhook", receiver.url, secret="hush", allow_hosts=("127.0.0.1",)))
    asyncio.run(target.send([FIRES], time.time()))
    (request,) = receiver.requests
    genuine, header = is_genuine(), request.headers["Seismograd-Signature"]
    assert genuine("hush", header, request.body)
    assert not genuine("other", header, request.body)
    assert not genuine("hush", header, request.body + b" ")
    for forged in ("", "t=,v1=", "v1=0", "t=x,v1=\xe9", header.replace("t=1", "t=2")):
        assert not genuine("hush", forged, request.body)
    asyncio.run(target.send([FIRES], time.time() - 600))
    assert not genuine("hush", receiver.requests[-1].headers["Seismograd-Signature"], request.body), "it is old"


def test_every_field_is_on_the_page_and_no_other() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", TEXT.partition("## Webhooks")[2], re.MULTILINE)
    assert {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)} == set(FIRES)
    (evidence,) = [meaning for names, meaning in rows if names == "`evidence`"]
    assert set(re.findall(r"`(\w+)`", evidence)) == set(FIRES["evidence"])


def test_the_templates_on_the_page_can_be_used() -> None:
    words = Words(**tomllib.loads(block("toml"))["notify"]["templates"])
    over = notification(Transition(RESOLVED, ALERT.state, "recovered", NOW + 60, notify=True), "")
    assert words.title(FIRES) == "critical: mt/lstm 7, The gradient norm is running away"
    assert words.title(over).startswith("over: ")
    assert words.body(FIRES).endswith(FIRES["url"])
