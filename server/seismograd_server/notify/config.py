"""`[notify]` of the configuration: whom to tell of alerts, how often, and in what words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, model_validator

from seismograd_server.tables import NOTHING, NotNegative, Positive, Table, WebAddress

# A firing alert ends by itself in Alertmanager when it is not repeated for so many times the interval.
RESENDS_TO_LIVE = 4
# The identity of an alert: what an operator gave instead would be overwritten with every alert.
_OURS = ("alertname", "project", "run", "signature", "severity", "scope")


def _own_labels(labels: dict[str, str]) -> dict[str, str]:
    for name in sorted(labels.keys() & set(_OURS)):
        raise ValueError(f"{name} is set by seismograd, for every alert its own: call it otherwise")
    return labels


class Receiver(Table):
    """What all targets have: a name of their own, and whose alerts they are told."""

    name: str = ""
    projects: tuple[str, ...] = ()  # with * and ?; empty = all


class Alertmanager(Receiver):
    """One Alertmanager; in a list, its bare URL says the same. Each peer of a cluster is one of its own."""

    url: str
    bearer_token: SecretStr = NOTHING
    bearer_token_file: Path | None = None
    ca_file: str = ""
    labels: Annotated[dict[str, str], AfterValidator(_own_labels)] = Field(default_factory=dict)


class Webhook(Receiver):
    """One webhook; `secret` (or the file that holds it) signs what it is sent."""

    url: str
    secret: SecretStr = NOTHING
    secret_file: Path | None = None
    ca_file: str = ""
    allow_hosts: tuple[str, ...] = ()


class Grafana(Receiver):
    """One Grafana, in which alerts become annotations; the token is that of a service account."""

    url: str
    token: SecretStr = NOTHING
    token_file: Path | None = None
    ca_file: str = ""
    allow_hosts: tuple[str, ...] = ()
    dashboard_uid: str = ""  # empty = for every dashboard that asks for annotations by tag
    tags: tuple[str, ...] = ()


class Chat(Receiver):
    """One service of `apprise`, as its URL says (slack://..., mailtos://...); nearly all of it is secret."""

    url: SecretStr = NOTHING
    url_file: Path | None = None
    allow_hosts: tuple[str, ...] = ()


class Templates(Table):
    """What chats, mails and annotations say, as Jinja templates; empty = as shipped."""

    title: str = ""
    body: str = ""


def _as_table(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class Notify(Table):
    """Whom to tell of alerts, and how often."""

    alertmanagers: tuple[Annotated[Alertmanager, BeforeValidator(_as_table)], ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    grafana: tuple[Grafana, ...] = ()
    chats: tuple[Chat, ...] = ()
    templates: Templates = Templates()
    runbooks_url: WebAddress = ""  # where the pages of deploy/runbooks are served; empty = alerts lead to none
    resend_seconds: Positive = 30.0
    hold_seconds: NotNegative = 0.0  # how long an alert below critical must last before it fires
    # Alertmanager tells nobody of what fires and is over within its group_wait, 30 s unless it is set: it hears of an
    # end only after it has known the alert as firing for so long.
    hold_resolved_seconds: NotNegative = 45.0

    @model_validator(mode="after")
    def _ends_before_it_expires(self) -> Self:
        if self.hold_resolved_seconds >= RESENDS_TO_LIVE * self.resend_seconds:
            raise ValueError(
                f"hold_resolved_seconds: {self.hold_resolved_seconds:g} must be below {RESENDS_TO_LIVE} times "
                f"resend_seconds, {RESENDS_TO_LIVE * self.resend_seconds:g}: then Alertmanager ends an alert by itself"
            )
        return self


TABLES: Mapping[str, type[BaseModel]] = {
    "notify": Notify,
    "alertmanagers": Alertmanager,
    "webhooks": Webhook,
    "grafana": Grafana,
    "chats": Chat,
    "templates": Templates,
}
