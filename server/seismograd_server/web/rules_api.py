"""The part of the JSON API that is about rules."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from seismograd_server.reading.backtest import backtest_stored
from seismograd_server.store.database import Database
from seismograd_server.web.answers import Turns, key_of
from seismograd_server.web.bodies import RULES_BYTES, rules_of, small_body


class RulesApi:
    """The routes; each reads the store in a worker thread."""

    def __init__(self, database: Database, *, turns: Turns) -> None:
        self._database = database
        self._turns = turns
        # Judging a long run takes seconds of a core: whoever backtests many must not keep readers waiting.
        self._one = asyncio.Semaphore(1)

    async def backtest(self, request: Request) -> Response:
        """POST .../backtest with {"rules"}: what these rules would have found in the run, and what was found."""
        key, rules = key_of(request), rules_of(await small_body(request, RULES_BYTES))
        async with self._one:
            return await self._turns.json(lambda: backtest_stored(self._database, key, rules))
