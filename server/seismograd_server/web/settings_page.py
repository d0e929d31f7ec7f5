"""The page of the settings: what this server was told, and how its store is."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.display.numbers import byte_size
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns
from seismograd_server.web.rendering import Renderer
from seismograd_server.web.settings import WebSettings


class SettingsPage:
    """The route."""

    def __init__(
        self, database: Database, ready: Callable[[], bool], renderer: Renderer, settings: WebSettings, *, turns: Turns
    ) -> None:
        self._database = database
        self._ready = ready
        self._renderer = renderer
        self._settings = settings
        self._turns = turns

    async def shown(self, _request: Request) -> Response:
        """GET /settings: every setting with its value, secrets left out, and the state of the store."""
        return await self._turns(lambda: self._renderer.page("settings.html", self._values()))

    def _values(self) -> dict[str, Any]:
        free = self._database.free_bytes()
        with self._database.read() as transaction:
            states = transaction.runs.states()
        return {
            "title": "Settings",
            "here": "settings",
            "refresh": None,
            "tables": self._settings.tables,
            "facts": [
                ("Version", version("seismograd")),
                ("Takes records", "yes" if self._ready() else "no"),
                ("Training jobs ship to", self._settings.grpc_address),
                ("Database", f"{self._database.kind}, {self._database.name}"),
                ("Size", byte_size(self._database.size_bytes())),
                ("Free on its disk", "not known" if free is None else byte_size(free)),
                ("Runs", f"{sum(states.values()):,}"),
            ],
        }
