from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from seismograd_server.model import Run, RunKey, RunState
from seismograd_server.report import PostmortemWriter
from seismograd_server.report.nearest import difference_rows, nearest_healthy
from tests.support.histories import make_run
from tests.support.reading import Stocked, connect, empty_store
from tests.support.synthetic import NOW, exploding_losses, exploding_norms

__all__ = ["connect", "empty_store"]  # fixtures


def run(name: str, run_id: int, **config: Any) -> Run:
    values = {"lr": 0.1, "width": 8, "run": name} | config
    made = make_run(state=RunState.FINISHED, closed_steps=500)
    return replace(made, run_id=run_id, key=RunKey("mt", name), config_json=json.dumps(values))


BAD = run("bad", 9, lr=40)


def test_the_run_with_the_fewest_differences_is_chosen_and_of_several_the_latest() -> None:
    others = [run("far", 1, lr=0.2, width=9), run("near", 2), run("nearer", 3), run("other", 4, width=9), BAD]
    found = nearest_healthy(BAD, others, struck=())
    assert found is not None
    assert found.key.run == "nearer"
    assert difference_rows(found) == [("lr", "0.1", "40")], "that each has its own name is no difference"
    assert found.reason == "Of 4 healthy runs of the project, this one differs least: in 1 setting."


@pytest.mark.parametrize(
    "changes",
    [{"state": RunState.FAILED}, {"state": RunState.LOST}, {"closed_steps": 3}],
    ids=["failed", "lost", "short"],
)
def test_a_run_that_failed_or_has_shown_nothing_is_no_example(changes: dict[str, Any]) -> None:
    assert nearest_healthy(BAD, [replace(run("a", 1), **changes)], struck=()) is None


def test_a_run_that_had_a_critical_alert_is_no_example_and_without_any_there_is_none() -> None:
    assert nearest_healthy(BAD, [run("a", 1)], struck={1}) is None
    assert nearest_healthy(BAD, [BAD], struck=()) is None


def test_the_post_mortem_says_what_was_different_when_it_went_well_and_where_the_two_part(
    empty_store: Stocked, connect: Callable[..., httpx.AsyncClient]
) -> None:
    empty_store.add("well", steps=200)
    losses = exploding_losses(200, 150)
    empty_store.add("<bad>", norms=exploding_norms(200, 150), losses=losses)
    writer = PostmortemWriter(empty_store.database)
    key = RunKey("mt", "<bad>")
    told = json.loads(writer(key, "json", NOW + 300).body)["nearest_healthy_run"]
    assert (told["run"], told["candidates"]) == ("well", 1)
    (parting,) = [each for each in told["partings"] if "norms" in each]
    assert "part at step" in parting
    for file_format in ("html", "md"):
        text = writer(key, file_format, NOW + 300).body.decode()
        assert "Beside the nearest healthy run" in text
        assert "<bad>" not in text.replace("\\<bad\\>", "")
    healthy = json.loads(writer(RunKey("mt", "well"), "json", NOW + 300).body)
    assert healthy["nearest_healthy_run"] is None, "there is nothing to explain"
