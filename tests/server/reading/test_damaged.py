"""What a disk has spoilt is missing from what is shown, said to be missing, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
from sqlalchemy import select, update
from starlette.applications import Starlette

from seismograd_server.model import RunKey
from seismograd_server.report import PostmortemWriter
from seismograd_server.store.schema import closed_blocks, segments
from tests.support.reading import Stocked, connect
from tests.support.synthetic import NOW

__all__ = ["connect"]

RUN = "/api/v1/runs/mt/exploding"
SENTENCE = "Steps 0 to 199 of run mt/exploding are damaged on disk: what cannot be read is left out."


def spoil(stocked: Stocked, name: str) -> None:
    """Change one bit in every row of a table that belongs to a run."""
    with stocked.database.begin() as transaction:
        run = transaction.runs.get(RunKey("mt", name))
        (launch,) = transaction.runs.launches(run.run_id)
        for table, key in ((segments, segments.c.segment_id), (closed_blocks, closed_blocks.c.ordinal)):
            own = select(key, table.c.payload).where(table.c.launch_row == launch.launch_row)
            for row, payload in transaction.connection.execute(own).all():
                at = len(payload) // 2
                changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
                transaction.connection.execute(update(table).where(key == row).values(payload=changed))


def test_a_run_whose_rows_are_all_damaged_is_shown_without_them(
    stocked: Stocked, connect: Callable[[Starlette], httpx.AsyncClient]
) -> None:
    async def ask() -> tuple[httpx.Response, ...]:
        async with connect(stocked.app()) as client:
            before = await client.get("/api/v1/runs/mt/healthy/series")
            spoil(stocked, "exploding")
            urls = (f"{RUN}/series", f"{RUN}/layers", "/runs/mt/exploding", "/api/v1/runs/mt/healthy/series")
            return before, *[await client.get(url, headers={"accept": "text/html"}) for url in urls]

    before, series, layers, page, after = asyncio.run(ask())
    assert series.json()["count"] == 0
    assert series.json()["damaged"] == layers.json()["damaged"] == [{"first_step": 0, "last_step": 199}]
    assert page.status_code == 200
    assert SENTENCE in page.text
    assert after.json() == before.json()
    assert after.json()["damaged"] == []


def test_the_post_mortem_names_the_gap(stocked: Stocked) -> None:
    spoil(stocked, "exploding")
    report = PostmortemWriter(stocked.database).report(RunKey("mt", "exploding"), NOW)
    assert SENTENCE in report.gaps
