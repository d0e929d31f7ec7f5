"""What every test may use: real programs as processes, and an endpoint that receives what is posted to it."""

from __future__ import annotations

import os
import uuid

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = [
    "tests.support.processes",
    "tests.support.browser",
    "tests.support.receiver",
    "tests.support.monitoring",
    "tests.support.postgresql",
    "tests.support.seismograd",
    "tests.support.trainers",
]


if "CI" not in os.environ:  # there hypothesis has a profile of its own, which asks for no speed either
    settings.register_profile("at any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("at any speed")


@pytest.fixture(autouse=True)
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one has left in the spool, nor what this user's own jobs have."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state" / uuid.uuid4().hex))
