"""The words in which people are told: a title and a body, as templates that are checked when the server starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seismograd_server.display.text import nearest, printable, shortened
from seismograd_server.errors import ConfigError, PermanentDeliveryError
from seismograd_server.model import Signature
from seismograd_server.notify.payloads import PAYLOAD_VERSION, SUMMARIES, alert_name, description

TITLE = "{{ 'resolved' if state == 'resolved' else severity }}: {{ summary }} ({{ project }}/{{ run }})"
BODY = (
    "{{ description }}{% if url %}\n{{ url }}{% endif %}"
    "{% if runbook_url and state == 'firing' %}\nwhat to do: {{ runbook_url }}{% endif %}"
)
# Beyond this, chats cut off themselves, or refuse.
_TITLE_LENGTH, _BODY_LENGTH = 250, 4000
_EVIDENCE = ("value", "baseline", "threshold", "doubling_time_steps", "steps_to_overflow", "leading_layer")


class Words:
    """The templates. They see a notification's fields, `summary`, `description` and `alertname`."""

    def __init__(self, title: str = "", body: str = "") -> None:
        """Compile them, and try them on alerts of every kind.

        Raises:
            ConfigError: names the template, the line, and what is wrong.
        """
        environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        self._title = _compiled(environment, "title", title or TITLE)
        self._body = _compiled(environment, "body", body or BODY)
        for note in _samples():
            for name, template in (("title", self._title), ("body", self._body)):
                try:
                    template.render(_values(note))
                except Exception as error:
                    said = f"{type(error).__name__}: {error}"
                    raise ConfigError(
                        f"notify.templates.{name}: line {_line(error)}: {' '.join(said.split())}"
                    ) from error

    def title(self, note: Mapping[str, Any]) -> str:
        """One line about a notification. Raises PermanentDeliveryError when the template fails on it."""
        return shortened(" ".join(_rendered(self._title, note).split()), _TITLE_LENGTH)

    def body(self, note: Mapping[str, Any]) -> str:
        """A few lines about a notification. Raises PermanentDeliveryError when the template fails on it."""
        return shortened(_rendered(self._body, note).strip(), _BODY_LENGTH)


def _compiled(environment: jinja2.Environment, name: str, text: str) -> jinja2.Template:
    try:
        unknown = meta.find_undeclared_variables(environment.parse(text)) - _values(_samples()[0]).keys()
        template = environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"notify.templates.{name}: line {error.lineno}: {error.message}") from error
    for word in sorted(unknown):
        known = sorted(_values(_samples()[0]))
        meant = nearest(word, known)
        hint = f"did you mean {meant}?" if meant else f"known are {', '.join(known)}"
        raise ConfigError(f"notify.templates.{name}: {printable(word)} is unknown: {hint}")
    return template


def _rendered(template: jinja2.Template, note: Mapping[str, Any]) -> str:
    try:
        return template.render(_values(note))
    except Exception as error:
        # Whatever it is, it fails on this notification every time.
        raise PermanentDeliveryError(f"its template fails: {type(error).__name__}: {error}") from error


def _values(note: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "runbook_url": "",  # an older version has written none
        **note,
        "summary": SUMMARIES[Signature(note["signature"])],
        "description": description(note),
        "alertname": alert_name(note["signature"]),
    }


def _line(error: BaseException) -> int:
    """The line of the template at which it failed: the last place of ours in the traceback that is a template."""
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _samples() -> list[dict[str, Any]]:
    """A notification that fires with all there is to say, and one that is over and says nothing more."""
    common = {
        "version": PAYLOAD_VERSION,
        "alert_id": "0123456789abcdef01234567",
        "notification_id": "0123456789abcdef01234567/opened/812/0.0",
        "fingerprint": "f" * 64,
        "project": "mt",
        "run": "lstm-7",
        "signature": Signature.RUNAWAY.value,
        "scope": "",
        "severity": "critical",
        "severity_before": "",
        "since_step": 800,
        "opened_step": 812,
        "last_step": 812,
        "opened_at": 0.0,
        "at": 0.0,
        "reason": "the gradient norm doubles every 14 steps",
        "url": "https://seismograd.example/runs/mt/lstm-7",
        "runbook_url": "https://runbooks.example/SeismogradRunaway.md",
    }
    seen = {**dict.fromkeys(_EVIDENCE, 2.0), "leading_layer": "rnn", "leading_rank": 3, "details": {}}
    fires = {"state": "firing", "cause": "opened", "resolved_at": None, "resolution": "", "evidence": seen}
    unknown: dict[str, Any] = {**dict.fromkeys((*_EVIDENCE, "leading_rank")), "details": {}}
    over = {
        "state": "resolved",
        "cause": "recovered",
        "resolved_at": 9.0,
        "resolution": "recovered",
        "evidence": unknown,
    }
    return [common | fires, common | over]
