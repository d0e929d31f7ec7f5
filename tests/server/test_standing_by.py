"""A standby in this process: what it answers while it waits, and that it serves as soon as the database is free."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest

from seismograd_server.app import Server
from seismograd_server.config import load_settings
from seismograd_server.errors import StartError
from seismograd_server.store.database import Database
from tests.support.processes import free_port

# A take-over is promised within three seconds.
TAKE_OVER_SECONDS = 9.0


def test_a_standby_is_well_but_not_ready_until_it_has_the_database(tmp_path: Path) -> None:
    asyncio.run(stand_by_and_take_over(tmp_path))


async def stand_by_and_take_over(data_dir: Path) -> None:
    grpc_port = free_port()
    settings = load_settings(
        data_dir=data_dir, grpc_listen=f"127.0.0.1:{grpc_port}", http_listen="127.0.0.1:0", standby=True
    )
    active = Database.open(settings.database, owner="the active server")
    standby = Server(settings)
    starting = asyncio.create_task(standby.start())
    try:
        await asyncio.sleep(0)  # it listens before it waits for anything
        url = f"http://127.0.0.1:{standby.http_address.port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            health, readiness = await client.get("/healthz"), await client.get("/readyz")
            runs = await client.get("/api/v1/runs")
            assert (health.status_code, health.json()["status"]) == (200, "ok")
            assert (readiness.status_code, readiness.json()) == (503, {"status": "standby"})
            assert (runs.status_code, runs.json()) == (503, {"error": "this server stands by: ask the active one"})
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", grpc_port)).close()
            assert not starting.done()

            active.close()
            await asyncio.wait_for(starting, TAKE_OVER_SECONDS)
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/api/v1/runs")).json()["runs"] == []
        socket.create_connection(("127.0.0.1", grpc_port)).close()
    finally:
        active.close()
        await standby.stop()


def test_a_standby_that_could_never_serve_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "seismograd.db").write_text("dear diary, " * 1000)
    settings = load_settings(data_dir=tmp_path, http_listen="127.0.0.1:0", standby=True)

    with pytest.raises(StartError, match="not a SQLite database"):
        asyncio.run(Server(settings).start())
