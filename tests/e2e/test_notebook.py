"""A notebook on a real server: what its cells show of runs, and of a server that is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import seismograd
from seismograd_server.store.database import Database
from tests.support.reading import Stocked
from tests.support.seismograd import SeismogradServer
from tests.support.synthetic import exploding_losses, exploding_norms, new_pipeline

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def server(tmp_path: Path, start_seismograd: Callable[..., SeismogradServer]) -> SeismogradServer:
    """A real server with a run that has exploded and one with a hostile name."""
    folder = tmp_path / "served"
    folder.mkdir()
    with Database.open(f"sqlite:///{folder / 'seismograd.db'}", owner="tests") as database:
        store, started = Stocked(database, new_pipeline(database)), time.time() - 300.0
        losses = exploding_losses(200, 150)
        store.add("exploding", world_size=2, norms=exploding_norms(200, 150), losses=losses, started=started)
        store.add(HOSTILE, steps=20, finish=False, started=started)
    return start_seismograd(data_dir=folder)


def cell(shown: Any) -> str:
    """What a notebook would render, which must be well-formed."""
    text: str = shown._repr_html_()
    ET.fromstring(f"<div>{text}</div>")
    return text


def test_cells_show_runs_and_their_alerts_and_a_picture_marks_these(
    server: SeismogradServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    with seismograd.connect(server.grpc) as client:
        listed = cell(client)
        assert "exploding" in listed
        assert "&lt;script&gt;" in listed
        assert HOSTILE not in cell(client.run("mt", HOSTILE))
        run = client.run("mt", "exploding")
        shown = cell(run)
        assert "runaway" in shown
        assert "<svg" in shown
        figure = run.plot()
        above, below = figure.axes
        marked = {line.get_xdata()[0] for line in above.get_lines() if line.get_linestyle() == "--"}
        assert marked == {alert.opened_step for alert in run.alerts() if alert.severity != "info"}
        assert (above.get_ylabel(), below.get_ylabel()) == ("gradient norm", "loss")
        figure.canvas.draw()
        plt.close(figure)
        assert "no run" in cell(client.run("mt", "nothing"))


def test_a_cell_says_that_no_server_answers() -> None:
    with seismograd.connect("127.0.0.1:1", timeout_seconds=2.0) as client:
        assert "no answer from 127.0.0.1:1" in cell(client)
        assert "no answer from" in cell(client.run("a", "b"))
