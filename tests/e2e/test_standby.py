"""Two servers on one database: one is killed or stopped under load, the other takes over within seconds.

What was acknowledged by either is stored, once; and a server that comes back from a pause finds that it was replaced.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.faults.outcome import outcome_in
from tests.faults.shipping import STEPS, Shipper, ship_all, shippers
from tests.support.processes import ProcessStarter, RunningProcess, answers, eventually, free_port
from tests.support.seismograd import PROGRAM

# Three times what is promised: three seconds when the active server is dead, twelve when it only hangs.
AFTER_DEATH_SECONDS = 9.0
AFTER_SILENCE_SECONDS = 36.0


@dataclass
class Site:
    """A server that is active or stands by."""

    process: RunningProcess
    grpc_port: int
    http: str

    def is_ready(self) -> bool:
        return answers(f"{self.http}/readyz")()


@pytest.fixture
def start_site(start_process: ProcessStarter, tmp_path: Path) -> Callable[..., Site]:
    def start(url: str, *, standby: bool = False, grpc_port: int | None = None) -> Site:
        grpc_port, http = grpc_port or free_port(), f"127.0.0.1:{free_port()}"
        config = tmp_path / "seismograd.toml"
        # Nothing but completeness may close a step, and nothing but a farewell end a run.
        config.write_text("close_wait_seconds = 600\nlost_after_seconds = 600\ncheckpoint_seconds = 0.2\n")
        command: list[str | Path] = [
            PROGRAM,
            "serve",
            "--config",
            config,
            "--database-url",
            url,
            "--data-dir",
            tmp_path,
        ]
        command += ["--grpc-listen", f"127.0.0.1:{grpc_port}", "--http-listen", http]
        command += ["--standby"] if standby else []
        ready = answers(f"http://{http}/{'healthz' if standby else 'readyz'}")
        return Site(
            start_process("standby" if standby else "active", command, ready=ready), grpc_port, f"http://{http}"
        )

    return start


class Fleet:
    """Clients that ship to whichever server takes what they have, until all is durable."""

    def __init__(self, *ports: int) -> None:
        self.shippers: list[Shipper] = shippers(0)
        self._ports = ports
        self._thread = threading.Thread(target=self._ship, daemon=True)
        self._thread.start()

    def acknowledged(self) -> int:
        return sum(shipper.journal for shipper in self.shippers)

    def finish(self) -> None:
        self._thread.join(timeout=120)
        assert all(shipper.done for shipper in self.shippers)
        assert sum(shipper.lost for shipper in self.shippers) == 0
        assert self.acknowledged() == len(self.shippers) * STEPS

    def _ship(self) -> None:
        deadline = time.monotonic() + 120
        while not all(shipper.done for shipper in self.shippers) and time.monotonic() < deadline:
            for port in self._ports:
                ship_all(self.shippers, port)
            time.sleep(0.02)


@pytest.mark.parametrize("kind", ["postgresql-18", "sqlite"])
@pytest.mark.timeout(240)
def test_when_the_active_server_is_killed_the_standby_serves_within_seconds_and_nothing_is_lost(
    kind: str, store_url: Callable[[str], str], start_site: Callable[..., Site]
) -> None:
    url = store_url(kind)
    active = start_site(url)
    standby = start_site(url, standby=True, grpc_port=active.grpc_port)
    assert httpx.get(f"{standby.http}/readyz", trust_env=False).json() == {"status": "standby"}
    fleet = Fleet(active.grpc_port)
    eventually(lambda: fleet.acknowledged() > 100, 60, "some records are acknowledged")

    active.process.kill()
    eventually(standby.is_ready, AFTER_DEATH_SECONDS, "the standby serves")
    fleet.finish()
    assert standby.process.stop() == 0
    assert "runaway" in repr(outcome_in(url))


@pytest.mark.timeout(240)
def test_a_server_that_hangs_is_replaced_and_ends_itself_when_it_goes_on(
    store_url: Callable[[str], str], start_site: Callable[..., Site]
) -> None:
    url = store_url("postgresql-18")
    active = start_site(url)
    standby = start_site(url, standby=True)
    fleet = Fleet(active.grpc_port, standby.grpc_port)
    eventually(lambda: fleet.acknowledged() > 100, 60, "some records are acknowledged")

    active.process.process.send_signal(signal.SIGSTOP)
    eventually(standby.is_ready, AFTER_SILENCE_SECONDS, "the standby serves")
    active.process.process.send_signal(signal.SIGCONT)
    assert active.process.process.wait(timeout=30) == 1
    assert "another server has taken it over" in active.process.log()
    assert "this server must exit" in active.process.log()
    fleet.finish()
    assert standby.process.stop() == 0
    assert "runaway" in repr(outcome_in(url))
