"""A store with a run in it, made by the real pipeline, and a web application over it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from seismograd_server.model import AskedDirective, RunKey, Transition
from seismograd_server.pipeline import Pipeline, Request
from seismograd_server.pipeline.people import People
from seismograd_server.report import ClipAdviser, PostmortemWriter, RunComparer
from seismograd_server.store.database import Database
from seismograd_server.store.outbox import OutboxEntry
from seismograd_server.web import WebSettings, create_app
from tests.support.synthetic import NOW, SyntheticRun, exploding_losses, exploding_norms, healthy_norms, new_pipeline


@dataclass
class Stocked:
    """A database that a pipeline has filled: mt/exploding (2 ranks, finished), mt/healthy (still running)."""

    database: Database
    pipeline: Pipeline

    def add(
        self,
        name: str,
        *,
        steps: int = 60,
        world_size: int = 1,
        finish: bool = True,
        started: float = NOW,
        **changes: Any,
    ) -> None:
        """Record another run under project mt, a record a second."""
        norms = changes.pop("norms", healthy_norms(steps))
        run = SyntheticRun(
            self.pipeline,
            name=name,
            world_size=world_size,
            launch=f"launch-{name}",
            norms=norms,
            started=started,
            **changes,
        ).open(started)
        run.send(0, len(norms), started + len(norms))
        self.pipeline.detect(started + len(norms))
        if finish:
            run.close(started + len(norms) + 1.0)

    def app(self, **changes: Any) -> Starlette:
        """The web application over it; the clock stands at NOW + 300."""
        values: dict[str, Any] = {
            "database": self.database,
            "snapshot": self.pipeline.snapshot,
            "metrics_page": _metrics_page,
            "ready": lambda: True,
            "postmortem": PostmortemWriter(self.database),
            "clip_advice": ClipAdviser(self.database),
            "compare": RunComparer(self.database),
            "ask": self._ask,
            "people": People(self.database, _nobody, lambda: NOW + 300.0),
            "settings": WebSettings(grpc_address="127.0.0.1:7450"),
            "clock": lambda: NOW + 300.0,
        }
        return create_app(**(values | changes))

    async def _ask(self, key: RunKey, request: Request) -> AskedDirective:
        return self.pipeline.asking.ask(key, request, NOW + 300.0)


def _nobody(_transition: Transition, _now: float) -> list[OutboxEntry]:
    return []


def _metrics_page(_accept: str) -> tuple[bytes, str]:
    return b"# metrics\n", "text/plain"


@pytest.fixture
def empty_store() -> Iterator[Stocked]:
    """A store with nothing in it."""
    with Database.open("sqlite://", owner="tests") as database:
        yield Stocked(database, new_pipeline(database))


@pytest.fixture(scope="session")
def stocked_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with two runs in it: filled once, because judging 260 steps for every test takes its time."""
    path = tmp_path_factory.mktemp("stocked") / "seismograd.db"
    with Database.open(f"sqlite:///{path}", owner="tests") as database:
        store = Stocked(database, new_pipeline(database))
        losses = exploding_losses(200, 150)
        store.add("exploding", world_size=2, norms=exploding_norms(200, 150), losses=losses)
        store.add("healthy", finish=False)
    return path


@pytest.fixture
def stocked(stocked_file: Path, tmp_path: Path) -> Iterator[Stocked]:
    """A store of its own with those two runs in it, taken up by a new pipeline."""
    path = shutil.copy(stocked_file, tmp_path / "seismograd.db")
    with Database.open(f"sqlite:///{path}", owner="tests") as database:
        yield Stocked(database, new_pipeline(database))


EXPLODING = RunKey("mt", "exploding")


@pytest.fixture
def connect() -> Callable[[Starlette], httpx.AsyncClient]:
    """Makes a client of an application, without a socket; errors of the application are answers, as in a server."""

    def client(app: Starlette, **settings: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", **settings)

    return client
