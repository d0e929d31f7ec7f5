"""What the pages and the API are told by the composition root, in small types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from seismograd_server.model import AskedDirective, RunKey
from seismograd_server.pipeline import Request
from seismograd_server.reading.encoding import Json


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """One setting in words."""

    name: str
    value: str
    default: str
    changed: bool


@dataclass(frozen=True, slots=True)
class SettingsTable:
    """The settings of one table of the configuration."""

    name: str
    entries: tuple[ShownSetting, ...]


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What the web needs to know of the configuration.

    Attributes:
        allowed_hosts: host names that may stand in a request's Host header, without port, beside addresses, which
            always may; `*.example.org` covers a domain, `*` everything. Any other name is answered with 400, which is
            what stops DNS rebinding.
        grpc_address: host and port that clients ship to, as the pages show it.
        external_url: where people reach this server, without a slash at the end; empty = relative links only.
        tables: every setting of the server as people are shown it, without secrets.
    """

    allowed_hosts: tuple[str, ...] = ("localhost",)
    grpc_address: str = "localhost:7450"
    external_url: str = ""
    tables: tuple[SettingsTable, ...] = ()


class Document(Protocol):
    """A rendered file, as the report writes it."""

    @property
    def body(self) -> bytes:
        """The bytes of the file."""

    @property
    def media_type(self) -> str:
        """As in Content-Type, with its charset."""

    @property
    def file_name(self) -> str:
        """A safe name to save it under: ASCII letters, digits, dot, dash, underscore."""

    @property
    def content_security_policy(self) -> str:
        """The policy under which the file works, for its header; empty = the one of the pages."""


class Postmortem(Protocol):
    """Writes the post-mortem of a run; `seismograd_server.report.PostmortemWriter` is the one there is."""

    def __call__(self, key: RunKey, file_format: str, now: float) -> Document:
        """Give the report as "html", "md" or "json". Blocks. Raises NotFoundError, UsageError, StorageError."""

    def incident(self, incident_id: str, file_format: str, now: float) -> Document:
        """Give the report of an incident, likewise."""


class ClipAdvice(Protocol):
    """Studies the clipping of a run; `seismograd_server.report.ClipAdviser` is the one there is."""

    def __call__(self, key: RunKey, thresholds: Sequence[float] = (), most_steps: int | None = None) -> Json:
        """What its norms say, as JSON values, or those of a sample. Blocks. Raises NotFoundError, StorageError."""


class Compare(Protocol):
    """Holds runs against each other; `seismograd_server.report.RunComparer` is the one there is."""

    def __call__(self, names: Sequence[str], align: str = "step") -> Json:
        """Runs named project/run, as JSON values. Blocks. Raises NotFoundError, UsageError, StorageError."""


class Ask(Protocol):
    """Asks something of a job; the log hands it to the pipeline."""

    async def __call__(self, key: RunKey, request: Request) -> AskedDirective:
        """Store it and have it told. Raises NotFoundError, ConflictError, UsageError, StorageError."""
