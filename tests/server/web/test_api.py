from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from seismograd_server.errors import StorageBusyError
from seismograd_server.model import Quantity, RecordKind, Snapshot, TensorColumn
from seismograd_server.pipeline import Arrival
from seismograd_server.reading import layer_columns, layers
from seismograd_server.reading.encoding import dumps
from seismograd_server.web import answers, api, series_api
from tests.support.reading import Stocked
from tests.support.synthetic import (
    LAYERS,
    NOW,
    SyntheticRun,
    exploding_norms,
    healthy_norms,
    make_batch,
    nonfinite,
)

Connect = Callable[..., httpx.AsyncClient]


def ask(app: Starlette, connect: Connect, method: str, path: str, **settings: Any) -> httpx.Response:
    """One request to the application."""

    async def request() -> httpx.Response:
        async with connect(app) as client:
            return await client.request(method, path, **settings)

    return asyncio.run(request())


@pytest.fixture
def get(stocked: Stocked, connect: Connect) -> Callable[..., httpx.Response]:
    app = stocked.app()

    def request(path: str, method: str = "GET", **settings: Any) -> httpx.Response:
        return ask(app, connect, method, path, **settings)

    return request


Get = Callable[..., httpx.Response]


def test_runs_are_listed_newest_first_with_their_severity(get: Get) -> None:
    runs = get("/api/v1/runs").json()["runs"]
    assert [run["run"] for run in runs] == ["healthy", "exploding"]
    assert runs[1]["severity"] == "critical"
    assert runs[1]["state"] == "finished"
    assert runs[1]["closed_steps"] == 200
    assert runs[0]["severity"] == ""
    assert runs[0]["url"] == "/runs/mt/healthy"


def test_runs_page_by_token_and_filter_by_project_and_state(get: Get) -> None:
    first = get("/api/v1/runs?limit=1").json()
    assert [run["run"] for run in first["runs"]] == ["healthy"]
    second = get(f"/api/v1/runs?limit=1&before={first['next']}").json()
    assert [run["run"] for run in second["runs"]] == ["exploding"]
    assert second["next"] is None
    assert [run["run"] for run in get("/api/v1/runs?state=running").json()["runs"]] == ["healthy"]
    assert get("/api/v1/runs?project=other").json()["runs"] == []


def test_a_run_shows_its_attempts_ranks_and_detectors(get: Get) -> None:
    run = get("/api/v1/runs/mt/healthy").json()
    assert [launch["attempt"] for launch in run["launches"]] == [1]
    assert [rank["hostname"] for rank in run["ranks"]] == ["node-0"]
    assert run["detectors"]
    assert run["grad_norm"] == pytest.approx(1.7, rel=0.5)


def test_an_unknown_run_is_a_404_that_names_the_nearest_one(get: Get) -> None:
    response = get("/api/v1/runs/mt/explodin")
    assert response.status_code == 404
    assert "mt/exploding" in response.json()["error"]


@pytest.mark.parametrize("suffix", ["", "/series", "/layers", "/alerts", "/postmortem"])
def test_every_part_of_an_unknown_run_is_a_404(get: Get, suffix: str) -> None:
    assert get(f"/api/v1/runs/mt/nothing{suffix}").status_code == 404


def test_the_series_holds_every_closed_step_with_its_norm_and_loss(get: Get) -> None:
    answer = get("/api/v1/runs/mt/exploding/series").json()
    assert answer["count"] == answer["closed_steps"] == 200
    assert answer["thinned"] is False
    assert answer["series"]["step"] == list(range(200))
    expected = np.sqrt((exploding_norms(200, 150).astype(np.float64) ** 2).sum(axis=1))
    np.testing.assert_allclose(answer["series"]["grad_norm"], expected, rtol=1e-6)
    assert answer["series"]["learning_rate"] == [None] * 200
    assert answer["series"]["ranks_present"] == [2] * 200


def test_a_series_in_fewer_points_has_the_extremes_of_every_stretch(get: Get) -> None:
    whole = get("/api/v1/runs/mt/exploding/series").json()["series"]
    answer = get("/api/v1/runs/mt/exploding/series?points=40").json()
    assert (answer["thinned"], answer["resolution"], answer["count"], answer["closed_steps"]) == (True, 8, 25, 200)
    series = answer["series"]
    assert (series["step"][1], series["last_step"][1], series["steps"][1]) == (8, 15, 8)
    norms = np.array(whole["grad_norm"]).reshape(25, 8)
    assert series["grad_norm_max"] == norms.max(axis=1).tolist()
    assert series["grad_norm_min"] == norms.min(axis=1).tolist()
    np.testing.assert_allclose(series["grad_norm_mean"], norms.mean(axis=1))
    assert series["loss_max"] == np.array(whole["loss"]).reshape(25, 8).max(axis=1).tolist()
    assert series["learning_rate_mean"] == [None] * 25
    assert series["ranks_present_min"] == [2.0] * 25
    assert series["nonfinite"] == series["clipped"] == series["loss_nonfinite"] == [0] * 25


def test_a_range_of_steps_is_cut_exactly(get: Get) -> None:
    answer = get("/api/v1/runs/mt/exploding/series?first_step=10&last_step=19").json()
    assert answer["series"]["step"] == list(range(10, 20))


def test_layers_are_composed_again_from_the_records(get: Get) -> None:
    answer = get("/api/v1/runs/mt/exploding/layers?first_step=145&last_step=160").json()
    assert answer["layers"] == ["embed.weight", "rnn.weight_hh_l0", "head.weight"]
    assert answer["steps"] == list(range(145, 161))
    np.testing.assert_allclose(np.array(answer["grad_norm"]), exploding_norms(200, 150)[145:161], rtol=1e-6)


def test_layers_of_too_many_steps_show_the_largest_of_each_column(get: Get) -> None:
    answer = get("/api/v1/runs/mt/exploding/layers?first_step=0&last_step=199&columns=10").json()
    assert answer["resolution"] == 32
    assert answer["steps"] == list(range(0, 200, 32))
    assert answer["last_steps"] == [31, 63, 95, 127, 159, 191, 199]
    norms = np.array_split(exploding_norms(200, 150), range(32, 200, 32))
    np.testing.assert_allclose(answer["grad_norm"], [some.max(axis=0) for some in norms], rtol=1e-6)
    np.testing.assert_allclose(answer["grad_norm_min"], [some.min(axis=0) for some in norms], rtol=1e-6)
    np.testing.assert_allclose(answer["grad_norm_mean"], [some.mean(axis=0) for some in norms], rtol=1e-6)
    assert answer["nonfinite_steps"] == [[0, 0, 0]] * 7


def sampled_run(store: Stocked) -> None:
    run = SyntheticRun(store.pipeline, name="sampled", launch="sampled", norms=healthy_norms(20)).open()
    rows, columns = np.array([0, 10], np.uint32), np.array([1], np.uint32)

    def tensor(first: float, second: float) -> TensorColumn:
        return TensorColumn(rows, columns, np.array([[first], [second]], np.float32))

    for rank, own in enumerate((3.0, 300.0)):
        tensors = {Quantity.LOCAL_GRADIENT_NORM: tensor(own, np.inf)}
        if rank == 0:
            tensors |= {Quantity.SPECTRAL_GAIN: tensor(1.1, 2.4), Quantity.MAX_ABS: tensor(0.5, 1e38)}
        store.pipeline.ingest([Arrival(batches=(run.batch(rank, 0, 20, tensors=tensors),))], NOW)
    store.pipeline.detect(NOW + 20)
    run.close(NOW + 21)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("quantity=spectral_gain", [1.1, 2.4]),
        ("quantity=max_abs", [0.5, 1e38]),
        ("quantity=local_gradient_norm", [3.0, "Infinity"]),
        ("quantity=local_gradient_norm&rank=1", [300.0, "Infinity"]),
        ("quantity=weight_norm", [None, None]),
    ],
)
def test_every_sampled_number_of_the_layers_can_be_read(
    stocked: Stocked, get: Get, query: str, expected: list[object]
) -> None:
    sampled_run(stocked)
    answer = get(f"/api/v1/runs/mt/sampled/layers?{query}").json()
    values = answer[query.removeprefix("quantity=").partition("&")[0]]
    assert len(values) == 20
    found = [values[row][1] for row in (0, 10)]
    assert found == [each if not isinstance(each, float) else pytest.approx(each) for each in expected]
    others = [number for row, numbers in enumerate(values) for number in numbers if row not in (0, 10)]
    assert set(others) == {None}


def test_alerts_of_a_run_carry_their_evidence(get: Get) -> None:
    alerts = get("/api/v1/runs/mt/exploding/alerts").json()["alerts"]
    critical = [alert for alert in alerts if alert["severity"] == "critical"]
    assert critical
    assert {"value", "baseline", "threshold", "doubling_time_steps", "leading_layer", "details"} <= set(
        critical[0]["evidence"]
    )
    assert get("/api/v1/runs/mt/healthy/alerts").json()["alerts"] == []


def test_an_alert_has_a_history_and_can_be_acknowledged_once(get: Get) -> None:
    alert_id = get("/api/v1/alerts?state=firing").json()["alerts"][0]["alert_id"]
    assert get(f"/api/v1/alerts/{alert_id}").json()["history"][0]["before"] is None
    acknowledged = get(f"/api/v1/alerts/{alert_id}/ack", "POST", json={"by": "Ada"}).json()
    assert acknowledged["acknowledged_by"] == "Ada"
    assert acknowledged["acknowledged_at"] == NOW + 300.0
    assert get(f"/api/v1/alerts/{alert_id}/ack", "POST", json={"by": "Bob"}).json()["acknowledged_by"] == "Ada"


def test_the_history_of_an_alert_says_who_did_what_and_why(get: Get) -> None:
    alert_id = get("/api/v1/runs/mt/exploding/alerts").json()["alerts"][0]["alert_id"]
    judged = get(
        f"/api/v1/alerts/{alert_id}/verdict", "POST", json={"by": "Ada", "verdict": "wrong", "note": "planned"}
    )
    assert judged.json()["verdict"] == "wrong"
    last = get(f"/api/v1/alerts/{alert_id}").json()["history"][-1]
    assert (last["cause"], last["by"], last["note"], last["told"]) == ("called wrong", "Ada", "planned", False)
    (found,) = get("/api/v1/precision?project=mt").json()["precision"]
    assert (found["right"], found["wrong"], found["precision"]) == (0, 1, 0.0)
    assert get("/api/v1/precision?project=other").json()["precision"] == []


def test_a_silence_is_made_listed_and_ended(get: Get) -> None:
    wanted = {
        "by": "Ada",
        "seconds": 60,
        "project": "mt",
        "run": "sweep-*",
        "signature": "spike",
        "reason": "a restart",
    }
    made = get("/api/v1/silences", "POST", json=wanted).json()
    assert (made["active"], made["expires_at"], made["by"]) == (True, NOW + 360.0, "Ada")
    assert get("/api/v1/silences?active=1").json()["silences"] == [made]
    ended = get(f"/api/v1/silences/{made['silence_id']}/expire", "POST", json={"by": "Bob"}).json()
    assert (ended["active"], ended["ended_by"]) == (False, "Bob")
    assert get("/api/v1/silences?active=1").json()["silences"] == []
    assert get("/api/v1/silences").json()["silences"] == [ended]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"by": "Ada", "project": "mt"}, "seconds"),
        ({"by": "Ada", "project": "mt", "seconds": True}, "seconds"),
        ({"by": "Ada", "project": "mt", "seconds": -1}, "seconds"),
        ({"by": "Ada", "seconds": 60}, "say of what"),
        ({"project": "mt", "seconds": 60}, "by"),
        ({"by": "Ada", "seconds": 60, "signature": "runawy"}, "did you mean runaway"),
        ({"by": "Ada", "seconds": 60, "run": 7}, "run"),
        ({"by": "Ada", "seconds": 60, "run": "\ud800"}, "run"),
    ],
)
def test_a_silence_that_cannot_be_meant_is_refused_by_name(get: Get, body: dict[str, Any], named: str) -> None:
    answer = get("/api/v1/silences", "POST", content=json.dumps(body).encode())
    assert answer.status_code == 400
    assert named in answer.json()["error"]


def test_a_verdict_is_one_of_two_words(get: Get) -> None:
    alert_id = get("/api/v1/runs/mt/exploding/alerts").json()["alerts"][0]["alert_id"]
    answer = get(f"/api/v1/alerts/{alert_id}/verdict", "POST", json={"by": "Ada", "verdict": "maybe"})
    assert answer.json()["error"] == "verdict: write right or wrong"
    assert get("/api/v1/alerts/nothing/verdict", "POST", json={"by": "Ada", "verdict": "right"}).status_code == 404


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"by": ""}', b'{"by": 3}', b"x" * 5000, b'{"by": "' + b"y" * 201 + b'"}']
)
def test_an_acknowledgement_without_a_person_is_refused(get: Get, body: bytes) -> None:
    alert_id = get("/api/v1/alerts").json()["alerts"][0]["alert_id"]
    assert get(f"/api/v1/alerts/{alert_id}/ack", "POST", content=body).status_code == 400


@pytest.mark.parametrize(
    "query", ["runs?limit=0", "runs?limit=-1", "runs?limit=x", "runs?state=asleep", "runs?before=1e9", "alerts?state=x"]
)
def test_a_parameter_that_cannot_be_used_is_named(get: Get, query: str) -> None:
    response = get(f"/api/v1/{query}")
    assert response.status_code == 400
    assert response.json()["error"].startswith(query.split("?")[1].split("=", maxsplit=1)[0])


@pytest.mark.parametrize("number", ["9" * 20, "-" + "9" * 19, "9" * 400])
def test_a_number_beyond_every_column_does_not_break_the_server(get: Get, number: str) -> None:
    for path in ("runs?before=", "runs/mt/exploding/series?first_step=", "runs/mt/exploding/series?optimizer="):
        assert get(f"/api/v1/{path}{number}").status_code in {200, 400}


def test_a_run_that_still_goes_cannot_be_deleted_and_one_that_ended_can(get: Get) -> None:
    refused = get("/api/v1/runs/mt/healthy", "DELETE")
    assert refused.status_code == 409
    assert "still running" in refused.json()["error"]
    assert get("/api/v1/runs/mt/exploding", "DELETE").json()["deleted"] is True
    assert get("/api/v1/runs/mt/exploding").status_code == 404
    assert get("/api/v1/alerts").json()["alerts"] == []


@pytest.mark.parametrize(
    ("file_format", "media_type", "beginning"),
    [("html", "text/html", b"<!doctype html>"), ("md", "text/markdown", b"# mt"), ("json", "application/json", b"{")],
)
def test_a_post_mortem_comes_in_three_formats(get: Get, file_format: str, media_type: str, beginning: bytes) -> None:
    response = get(f"/api/v1/runs/mt/exploding/postmortem?format={file_format}")
    assert response.headers["content-type"].startswith(media_type)
    assert response.content.startswith(beginning)
    assert response.headers["content-disposition"] == f'inline; filename="postmortem-mt-exploding.{file_format}"'


def test_another_format_is_refused(get: Get) -> None:
    assert get("/api/v1/runs/mt/exploding/postmortem?format=pdf").status_code == 400


def test_the_post_mortem_of_a_real_store_names_the_onset_and_the_layers(get: Get) -> None:
    report = get("/api/v1/runs/mt/exploding/postmortem?format=json").json()
    assert report["verdict"] == "exploded"
    assert 148 <= report["onset_step"] <= 158
    assert report["layers"]
    assert report["heatmap"]["layers"] == ["embed.weight", "rnn.weight_hh_l0", "head.weight"]


def test_a_lone_surrogate_in_a_configuration_reaches_the_reader(stocked: Stocked, connect: Connect) -> None:

    run = SyntheticRun(stocked.pipeline, name="odd", launch="odd", world_size=1)
    stocked.pipeline.open_rank(run.identity(0, config_json='{"name": "\\ud800", "x": NaN}'), [], NOW)
    app = stocked.app()
    answer = ask(app, connect, "GET", "/api/v1/runs/mt/odd")
    assert answer.json()["config"] == {"name": "\ud800", "x": "NaN"}
    assert ask(app, connect, "GET", "/runs/mt/odd").status_code == 200
    assert ask(app, connect, "GET", "/runs/mt/odd/postmortem").status_code == 200


def test_health_is_always_good_and_readiness_is_what_the_server_says(stocked: Stocked, connect: Connect) -> None:
    app = stocked.app(ready=lambda: False)
    health = ask(app, connect, "GET", "/healthz")
    assert health.status_code == 200
    assert {"status", "version", "time"} <= set(health.json())
    assert ask(app, connect, "GET", "/readyz").status_code == 503
    assert ask(stocked.app(), connect, "GET", "/readyz").status_code == 200


def test_the_metrics_page_negotiates_by_accept(stocked: Stocked, connect: Connect) -> None:
    app = stocked.app(metrics_page=lambda accept: (accept.encode(), "application/openmetrics-text; version=1.0.0"))
    response = ask(app, connect, "GET", "/metrics", headers={"accept": "application/openmetrics-text"})
    assert response.content == b"application/openmetrics-text"
    assert response.headers["content-type"] == "application/openmetrics-text; version=1.0.0"


def test_a_busy_store_is_a_503_and_a_crash_a_500_without_its_details(stocked: Stocked, connect: Connect) -> None:
    def busy() -> Snapshot:
        raise StorageBusyError("busy")

    def broken() -> Snapshot:
        raise RuntimeError("secret details")

    assert ask(stocked.app(snapshot=busy), connect, "GET", "/api/v1/runs/mt/healthy").status_code == 503
    response = ask(stocked.app(snapshot=broken), connect, "GET", "/api/v1/runs/mt/healthy")
    assert response.status_code == 500
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("series?points=20001", "points: 20001 is not from 1 to 20000: ask for less, or in several ranges of steps"),
        ("series?points=0", "points: 0 is not from 1 to 20000"),
        ("layers?columns=1001", "columns: 1001 is not from 1 to 1000"),
        ("series?first_step=9&last_step=3", "last_step: 3 is below first_step, which is 9: swap them"),
        ("layers?first_step=9&last_step=3", "last_step: 3 is below first_step"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_what_to_do(get: Get, query: str, reason: str) -> None:
    response = get(f"/api/v1/runs/mt/exploding/{query}")
    assert response.status_code == 400
    assert response.json()["error"].startswith(reason)


@pytest.mark.parametrize(
    ("asked", "module", "read"),
    [
        ("series", series_api, "step_pages"),
        ("layers", series_api, "summary_pages"),
        ("layers?quantity=max_abs", layer_columns, "composed_blocks"),
    ],
)
def test_nothing_more_is_read_for_somebody_who_has_gone(
    stocked: Stocked, monkeypatch: pytest.MonkeyPatch, asked: str, module: Any, read: str
) -> None:
    path, _, query = asked.partition("?")
    real = getattr(module, read)

    def endless(*arguments: Any, **options: Any) -> Iterator[Any]:
        while True:
            yield from real(*arguments, **options)

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr(module, read, endless)
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/api/v1/runs/mt/exploding/{path}",
        "raw_path": f"/api/v1/runs/mt/exploding/{path}".encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
    }
    asyncio.run(stocked.app()(scope, gone, send))  # it would never return
    assert sent[0]["status"] == 408


def test_a_sampled_quantity_of_more_steps_than_memory_should_hold_is_read_to_its_end(
    stocked: Stocked, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = np.ones(200, np.float32)
    largest[[30, 187]] = 5.0, 1e6
    run = SyntheticRun(stocked.pipeline, name="wide", launch="wide", world_size=1, norms=healthy_norms(200)).open()
    for first in range(0, 200, 20):
        column = TensorColumn(
            np.arange(20, dtype=np.uint32), np.array([1], np.uint32), largest[first : first + 20, None]
        )
        batch = run.batch(0, first, first + 20, tensors={Quantity.MAX_ABS: column})
        stocked.pipeline.ingest([Arrival(batches=(batch,))], NOW)
        stocked.pipeline.detect(NOW + first)
    monkeypatch.setattr(layers, "_SPAN_STEPS", 16)
    monkeypatch.setattr(layers, "_WINDOW_VALUES", 3 * 64)
    answer = get("/api/v1/runs/mt/wide/layers?quantity=max_abs&first_step=0&last_step=199&columns=50").json()
    assert answer["steps"] == list(range(0, 200, 4))
    assert [row[1] for row in answer["max_abs"]] == largest.reshape(50, 4).max(axis=1).tolist()
    one = get("/api/v1/runs/mt/wide/layers?quantity=max_abs&first_step=0&last_step=199&columns=1").json()
    assert (one["steps"], one["max_abs"]) == ([0], [[None, 1e6, None]])


def test_one_point_of_steps_on_both_sides_of_0_is_two(
    stocked: Stocked, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = healthy_norms(20)
    run = SyntheticRun(stocked.pipeline, name="around", launch="around", world_size=1, norms=norms).open()
    batch = run.batch(0, 0, 20, steps=np.arange(-10, 10, dtype=np.int64))
    stocked.pipeline.ingest([Arrival(batches=(batch,))], NOW)
    stocked.pipeline.detect(NOW + 20)
    series = get("/api/v1/runs/mt/around/series?points=1").json()
    assert (series["series"]["step"], series["series"]["last_step"]) == ([-10, 0], [-1, 9])
    monkeypatch.setattr(series_api, "_MOST_VALUES", 1)
    answer = get("/api/v1/runs/mt/around/layers?columns=1&first_step=-10").json()
    assert (answer["steps"], answer["last_steps"]) == ([-10, 0], [-1, 9])
    np.testing.assert_allclose(answer["grad_norm"], [norms[:10].max(axis=0), norms[10:].max(axis=0)], rtol=1e-6)


def test_layers_of_a_model_of_very_many_layers_are_bounded(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_api, "_MOST_VALUES", 12)
    window = get("/api/v1/runs/mt/healthy/layers").json()
    assert len(window["layers"]) == 3
    assert len(window["steps"]) == 4


def test_answers_are_written_off_the_event_loop(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set[int]()

    def dumps_and_note(value: Any) -> str:
        threads.add(threading.get_ident())
        return dumps(value)

    monkeypatch.setattr(answers, "dumps", dumps_and_note)
    assert get("/api/v1/runs/mt/healthy/series").status_code == 200
    assert threads
    assert threading.get_ident() not in threads


def test_the_metrics_come_however_many_pages_are_being_made(stocked: Stocked, connect: Connect) -> None:
    gate = threading.Event()

    def slow(*_arguments: Any) -> Any:
        gate.wait(60)
        raise StorageBusyError("slow")

    app = stocked.app(postmortem=slow)

    async def story() -> None:
        async with connect(app) as client, asyncio.timeout(60):
            pages = [asyncio.create_task(client.get("/runs/mt/healthy/postmortem")) for _ in range(64)]
            await asyncio.sleep(0)
            assert (await client.get("/metrics")).status_code == 200
            assert not any(page.done() for page in pages)
            gate.set()
            assert {(await page).status_code for page in pages} == {503}

    asyncio.run(story())


def test_a_run_is_deleted_in_parts_and_its_space_given_back(
    empty_store: Stocked, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_DELETED_AT_ONCE", 1)
    monkeypatch.setattr(api, "_RECLAIMED_AT_ONCE", 2**14)
    run = SyntheticRun(empty_store.pipeline, name="old", world_size=1, norms=healthy_norms(512)).open()
    for first in range(0, 512, 16):
        run.send(first, first + 16)
    run.close(NOW)
    begins: list[int] = []
    begin = empty_store.database.begin

    def begin_and_count() -> Any:
        begins.append(1)
        return begin()

    monkeypatch.setattr(empty_store.database, "begin", begin_and_count)
    assert ask(empty_store.app(), connect, "DELETE", "/api/v1/runs/mt/old").json()["deleted"] is True
    assert len(begins) >= 33, "32 segments, one at a time, and the rest"
    with empty_store.database.read() as transaction:
        assert transaction.connection.exec_driver_sql("PRAGMA freelist_count").scalar_one() == 0
        assert transaction.connection.exec_driver_sql("SELECT count(*) FROM segments").scalar_one() == 0


def test_a_job_is_asked_and_the_run_tells_what_became_of_it(stocked: Stocked, connect: Connect) -> None:
    run = SyntheticRun(stocked.pipeline, name="asked", launch="launch-asked")
    run.capabilities = ("stop", "capture_more")
    run.open(NOW)
    app, path = stocked.app(), "/api/v1/runs/mt/asked"

    def post(**body: Any) -> httpx.Response:
        return ask(app, connect, "POST", f"{path}/directives", json=body)

    answer = post(kind="stop", by=" Ada ", reason="too dear").json()
    assert (answer["kind"], answer["asked_by"], answer["first_step"]) == ("stop", "Ada", None)
    (asked,) = ask(app, connect, "GET", path).json()["directives"]
    assert asked == answer
    assert [(each["rank"], each["sent_at"], each["outcome"]) for each in asked["ranks"]] == [
        (0, None, None),
        (1, None, None),
    ]
    capture = post(kind="capture", by="Ada", first_step=-5, last_step=5).json()
    assert (capture["first_step"], capture["last_step"]) == (-5, 5)
    assert [each["rank"] for each in capture["ranks"]] == [0], "the other one is a replica of the same"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"kind": "stop"}, 400, "by:"),
        ({"by": "Ada"}, 400, "kind:"),
        ({"kind": "explode", "by": "Ada"}, 400, "kind:"),
        ({"kind": ["stop"], "by": "Ada"}, 400, "kind:"),
        ({"kind": "stop", "by": "Ada", "reason": 5}, 400, "reason:"),
        ({"kind": "stop", "by": "Ada", "reason": "x" * 501}, 400, "reason:"),
        ({"kind": "capture", "by": "Ada", "first_step": "5"}, 400, "first_step:"),
        ({"kind": "capture", "by": "Ada", "last_step": True}, 400, "last_step:"),
        ({"kind": "capture", "by": "Ada", "last_step": 2**63}, 400, "last_step:"),
        ({"kind": "capture", "by": "Ada", "all_ranks": 1}, 400, "all_ranks:"),
        ({"kind": "stop", "by": "Ada"}, 409, "understands"),
        ([1], 400, "kind:"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(get: Get, body: Any, status: int, words: str) -> None:
    response = get("/api/v1/runs/mt/healthy/directives", "POST", json=body)
    assert (response.status_code, words in response.json()["error"]) == (status, True), response.text
    assert get("/api/v1/runs/mt/healthy").json()["directives"] == []


def test_nothing_is_asked_of_a_run_that_is_over_or_unknown(get: Get) -> None:
    body = {"kind": "stop", "by": "Ada"}
    assert get("/api/v1/runs/mt/exploding/directives", "POST", json=body).status_code == 409
    assert get("/api/v1/runs/mt/nothing/directives", "POST", json=body).status_code == 404


def test_the_recorder_of_one_rank_shows_what_it_handed_over(stocked: Stocked, connect: Connect) -> None:
    run = SyntheticRun(stocked.pipeline, name="recorded", launch="launch-recorded", norms=exploding_norms(60, 40))
    run.open(NOW)
    run.send(0, 60, NOW)
    rows = run.norms[20:50].copy()
    rows[5, 1] = np.nan
    gains = TensorColumn(np.array([2], np.uint32), np.array([1], np.uint32), np.array([[1.5]], np.float32))
    first = make_batch(
        run.handle(1),
        0,
        rows[:20],
        kind=RecordKind.DETAIL,
        steps=np.arange(20, 40),
        tensors={Quantity.SPECTRAL_GAIN: gains},
        nonfinite=nonfinite((5, 1, 3)),
    )
    second = make_batch(run.handle(1), 20, rows[20:], kind=RecordKind.DETAIL, steps=np.arange(40, 50))
    stocked.pipeline.ingest([Arrival(batches=(second, first))], NOW)
    path = "/api/v1/runs/mt/recorded/recorder?rank=1"

    whole = ask(stocked.app(), connect, "GET", path).json()
    assert (whole["rank"], whole["layers"], whole["steps"]) == (1, list(LAYERS), list(range(20, 50)))
    assert whole["grad_norm"][5][1] is None, "not captured"
    assert np.array(whole["grad_norm"][29], np.float32).tolist() == rows[29].tolist()
    assert whole["nonfinite"].index(True) == 5
    assert (whole["spectral_gain"][2], whole["spectral_gain"][3]) == ([None, 1.5, None], [None] * 3)
    assert whole["update_norm"] == []
    report = ask(stocked.app(), connect, "GET", "/api/v1/runs/mt/recorded/postmortem?format=json").json()
    (told,) = report["recorded"]
    assert (told["rank"], told["first_step"], told["last_step"], told["steps"]) == (1, 20, 49, 30)
    assert (told["largest_step"], told["nonfinite_step"], told["layer"] in LAYERS) == (49, 25, True)
    part = ask(stocked.app(), connect, "GET", f"{path}&first_step=45&last_step=46").json()
    assert part["steps"] == [45, 46]
    nothing = ask(stocked.app(), connect, "GET", path.replace("rank=1", "rank=0")).json()
    assert (nothing["steps"], nothing["layers"]) == ([], [])


def test_rules_are_tried_on_a_stored_run(get: Get) -> None:
    path = "/api/v1/runs/mt/exploding/backtest"
    answer = get(path, "POST", json={"rules": "signature.runaway.mute = true"}).json()
    assert {each["verdict"] for each in answer["findings"] if each["signature"] == "runaway"} == {"gone"}
    assert {each["verdict"] for each in get(path, "POST").json()["findings"]} == {"same"}
    refused = get(path, "POST", json={"rules": "signature.runaway.mute = 1"})
    assert (refused.status_code, refused.json()["error"]) == (
        400,
        "rules: line 1: signature.runaway.mute must be true or false, not 1",
    )
    assert get(path, "POST", json={"rules": 3}).status_code == 400
    assert get(path, "POST", content=b"#" * 200_000).status_code == 400
    assert get("/api/v1/runs/mt/nobody/backtest", "POST").status_code == 404
