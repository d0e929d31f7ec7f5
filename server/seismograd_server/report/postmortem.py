"""Reads a run from the store and writes its post-mortem: the one part of `report/` that does I/O."""

from __future__ import annotations

from dataclasses import dataclass

from seismograd_server.model import RunKey
from seismograd_server.store.database import Database


@dataclass(frozen=True, slots=True)
class ReportDocument:
    """A rendered report; `content_security_policy` is the one that its page also carries itself."""

    body: bytes
    media_type: str
    file_name: str
    content_security_policy: str = ""


class PostmortemWriter:
    """Writes post-mortems of the runs in one database."""

    def __init__(self, database: Database, external_url: str = "") -> None:
        self._database = database
        self._external_url = external_url

    def __call__(self, key: RunKey, file_format: str, now: float) -> ReportDocument:
        """Give the report as "html", "md" or "json". Blocks. Raises NotFoundError, UsageError, StorageError."""
        raise NotImplementedError
