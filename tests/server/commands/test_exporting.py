"""What an export of a run makes of steps of which only summaries are left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from seismograd_server.commands.exporting import _Reader
from seismograd_server.commands.remote import Remote
from seismograd_server.model import RunKey
from tests.server.reading.test_resolution import forget, old
from tests.support.reading import Stocked, connect

__all__ = ["connect", "old"]  # fixtures, used by name


class InProcess:
    """A server to ask, without a network."""

    def __init__(self, store: Stocked, connect: Callable[..., Any]) -> None:
        self._store, self._connect = store, connect

    def json(self, method: str, path: str, *, params: dict[str, Any]) -> Any:
        async def answered() -> Any:
            async with self._connect(self._store.app()) as client:
                response = await client.request(method, path, params=params)
                assert response.status_code == 200, response.text
                return response.json()

        return asyncio.run(answered())


@pytest.fixture
def reader(old: Stocked, connect: Callable[..., Any]) -> _Reader:
    forget(old, 700)
    return _Reader(cast("Remote", InProcess(old, connect)), RunKey("mt", "old"))


def test_every_single_step_that_is_left_is_written_and_the_others_are_named(reader: _Reader, tmp_path: Path) -> None:
    assert reader.write_steps(tmp_path / "run.csv", None, None) == 800
    assert pd.read_csv(tmp_path / "run.csv")["step"].tolist() == list(range(700, 1500))
    assert reader.notes == ["of steps 0 to 699 only summaries are kept: left out"]


def test_so_is_every_norm_of_a_layer(reader: _Reader, tmp_path: Path) -> None:
    assert reader.write_layers(tmp_path / "run.csv", 300, 900) == 201 * 3
    assert sorted(set(pd.read_csv(tmp_path / "run.csv")["step"])) == list(range(700, 901))
    assert reader.notes == ["of the layers of steps 300 to 699 only summaries are kept: left out"]


def test_a_range_of_which_all_is_left_is_written_without_a_word(reader: _Reader, tmp_path: Path) -> None:
    assert reader.write_steps(tmp_path / "run.csv", 1000, 1200) == 201
    assert reader.notes == []
