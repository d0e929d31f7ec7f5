from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin
from xml.etree import ElementTree as ET

import httpx
import pytest
from starlette.applications import Starlette

from seismograd_server.alerts.silencing import literal
from seismograd_server.display.numbers import figure
from seismograd_server.model import Checkpoint, DirectiveKind, RunKey, RunState, Snapshot
from seismograd_server.pipeline import Arrival, Request
from seismograd_server.store.detectors import DetectorCheckpoint
from seismograd_server.web.links import segment
from seismograd_server.web.tallies import Tallies
from seismograd_server.web.trail_picture import trail_path
from tests.support.histories import make_run
from tests.support.reading import Stocked
from tests.support.synthetic import NOW, SyntheticRun, exploding_losses, exploding_norms, healthy_norms

Connect = Callable[..., httpx.AsyncClient]
SCRIPTS = ["/static/readout.js", "/static/seismograd.js"]
NOTHING_LIVE = Snapshot(NOW)
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "a/b",
    "100%/50%25",
    "what?#x&y=z",
    "snow ☃ é \u202egnp",
    "{{ 7*7 }}",
    "..%2F..",
    "series",
]


def get(app: Starlette, connect: Connect, path: str, method: str = "GET", **settings: Any) -> httpx.Response:
    """One request of a browser to the application."""

    async def request() -> httpx.Response:
        async with connect(app, headers={"accept": "text/html"}) as client:
            return await client.request(method, path, **settings)

    return asyncio.run(request())


class Page(HTMLParser):
    """The elements and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.scripts: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.scripts += [dict(attrs).get("src")] if tag == "script" else []
        self.pictures += [dict(attrs).get("src") or ""] if tag == "img" else []
        self.links += [value or "" for name, value in attrs if name == "href" and tag == "a"]


def test_an_empty_fleet_teaches_the_next_step(empty_store: Stocked, connect: Connect) -> None:
    page = get(empty_store.app(), connect, "/").text
    assert "No run yet" in page
    assert "seismograd.watch(model, optimizer" in page
    assert "127.0.0.1:7450" in page
    assert "seismograd demo" in page


def test_a_run_without_a_step_says_what_it_waits_for(empty_store: Stocked, connect: Connect) -> None:

    SyntheticRun(empty_store.pipeline, name="new", launch="new").open()
    page = get(empty_store.app(), connect, "/runs/mt/new").text
    assert "No step yet" in page
    assert "2 ranks" in page


def test_the_fleet_shows_what_fires_above_everything_else(stocked: Stocked, connect: Connect) -> None:
    page = get(stocked.app(), connect, "/").text
    assert page.index("exploding") < page.index(">mt /</span> healthy")
    assert "2 runs, 1 running, 1 firing" in page


def test_a_page_with_something_live_loads_itself_again_and_one_without_does_not(
    stocked: Stocked, connect: Connect
) -> None:
    app = stocked.app()
    assert 'http-equiv="refresh"' in get(app, connect, "/runs/mt/healthy").text
    assert 'http-equiv="refresh"' not in get(app, connect, "/runs/mt/exploding").text


def test_a_run_page_shows_norm_layers_alerts_and_the_way_to_the_post_mortem(stocked: Stocked, connect: Connect) -> None:
    text = get(stocked.app(), connect, "/runs/mt/exploding").text
    page = Page(text)
    assert page.tags.count("svg") >= 3
    assert "rnn.weight_hh_l0" in text
    assert "/runs/mt/exploding/postmortem" in page.links
    assert "Acknowledge" in text


def test_an_alert_is_acknowledged_by_the_form_and_the_page_says_by_whom(stocked: Stocked, connect: Connect) -> None:
    app = stocked.app()
    with stocked.database.read() as transaction:
        alert = transaction.alerts.list(run="exploding")[0]
    answer = get(app, connect, f"/alerts/{alert.alert_id}/ack", "POST", data={"by": "Ada <b>"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/runs/mt/exploding"
    assert "acknowledged by Ada &lt;b&gt;" in get(app, connect, "/runs/mt/exploding").text


def test_an_alert_is_called_wrong_by_the_form_and_the_first_page_tells_the_precision(
    stocked: Stocked, connect: Connect
) -> None:
    app = stocked.app()
    with stocked.database.read() as transaction:
        alert = transaction.alerts.list()[0]
    said = {"by": "Ada", "verdict": "wrong", "note": "<i>planned"}
    answer = get(app, connect, f"/alerts/{alert.alert_id}/verdict", "POST", data=said)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/mt/exploding")
    assert "called wrong" in get(app, connect, "/runs/mt/exploding").text
    assert "How often alerts were right" in get(app, connect, "/").text
    assert get(app, connect, f"/alerts/{alert.alert_id}/verdict", "POST", data={"by": "Ada"}).status_code == 400


def test_a_run_is_silenced_by_the_form_of_its_page_and_the_silence_ended_on_the_first(
    stocked: Stocked, connect: Connect
) -> None:
    app = stocked.app()
    wanted = {"by": "Ada <b>", "hours": "1.5", "project": "mt", "run": "healthy", "reason": ""}
    assert get(app, connect, "/silences", "POST", data=wanted).headers["location"] == "/runs/mt/healthy"
    assert "silenced for 1" in get(app, connect, "/runs/mt/healthy").text
    assert "silenced for" not in get(app, connect, "/runs/mt/exploding").text
    page = get(app, connect, "/").text
    assert "by Ada &lt;b&gt;" in page
    with stocked.database.read() as transaction:
        (silence,) = transaction.silences.list()
    assert silence.expires_at - silence.created_at == 5400.0
    ended = get(app, connect, f"/silences/{silence.silence_id}/expire", "POST", data={"by": "Bob"})
    assert (ended.status_code, ended.headers["location"]) == (303, "/")
    assert "Silences" not in get(app, connect, "/").text
    for hours in ("", "soon", "nan", "-1", "1e9"):
        assert get(app, connect, "/silences", "POST", data=wanted | {"hours": hours}).status_code == 400, hours


def test_the_form_silences_a_run_by_its_very_name() -> None:
    for name in ("sweep[1]*", "a?b", "plain", "[!x]", "]"):
        assert fnmatchcase(name, literal(name))
        assert not fnmatchcase(name + "x", literal(name))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_run_name_is_text_and_its_links_lead_to_it(stocked: Stocked, connect: Connect, name: str) -> None:
    stocked.add(name, steps=12)
    app = stocked.app()
    fleet = Page(get(app, connect, "/").text)
    path = f"/runs/mt/{segment(name)}"
    assert path in fleet.links
    response = get(app, connect, path)
    assert response.status_code == 200
    run = Page(response.text)
    assert not {"img", "iframe"} & set(run.tags)
    assert "iframe" not in fleet.tags
    assert f"{path}/trail.svg?steps=12" in fleet.pictures
    assert all(re.fullmatch(r"/runs/[^/]+/[^/]+/trail\.svg\?steps=\d+", each) for each in fleet.pictures)
    assert get(app, connect, f"{path}/trail.svg").headers["content-type"] == "image/svg+xml"
    assert fleet.scripts == run.scripts == SCRIPTS
    assert not [key for key, _ in fleet.attributes + run.attributes if key.startswith("on")]
    assert "49" not in response.text.split("<h1>")[1].split("</h1>")[0]
    report = get(app, connect, urljoin(f"http://localhost{path}", f"{path}/postmortem"))
    assert report.status_code == 200
    api = get(app, connect, f"/api/v1{path}/series")
    assert api.json()["run"] == name


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "x\u202ey", "a/b"])
def test_a_hostile_unknown_name_is_harmless_in_the_error_page(stocked: Stocked, connect: Connect, name: str) -> None:
    response = get(stocked.app(), connect, f"/runs/mt/{segment(name)}")
    assert response.status_code == 404
    assert Page(response.text).scripts == SCRIPTS
    assert "\u202e" not in response.text


def test_a_page_that_is_not_there_is_a_page_for_browsers_and_json_for_programs(
    stocked: Stocked, connect: Connect
) -> None:
    app = stocked.app()
    assert "All runs" in get(app, connect, "/nowhere").text
    assert get(app, connect, "/nowhere", headers={"accept": "*/*"}).json() == {"error": "there is no such page"}
    assert get(app, connect, "/api/v1/nowhere").json() == {"error": "there is no such page"}


def test_static_files_come_from_their_folder_only(stocked: Stocked, connect: Connect) -> None:
    app = stocked.app()
    assert get(app, connect, "/static/seismograd.css").status_code == 200
    assert get(app, connect, "/static/look.css").headers["content-type"].startswith("text/css")
    for path in ("/static/../application.py", "/static/%2e%2e/application.py", "/static/..%2fapplication.py"):
        assert get(app, connect, path).status_code == 404


def test_the_post_mortem_is_served_under_its_own_policy(stocked: Stocked, connect: Connect) -> None:
    response = get(stocked.app(), connect, "/runs/mt/exploding/postmortem")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert policy.replace("'", "&#39;") in response.text or policy in response.text


def test_the_first_page_shows_the_course_of_each_run_that_has_steps(stocked: Stocked, connect: Connect) -> None:
    SyntheticRun(stocked.pipeline, name="waiting", launch="waiting", world_size=1).open(NOW)
    app = stocked.app()
    pictures = Page(get(app, connect, "/").text).pictures
    assert sorted(each.partition("/trail")[0] for each in pictures) == ["/runs/mt/exploding", "/runs/mt/healthy"]
    response = get(app, connect, next(each for each in pictures if "exploding" in each))
    assert response.headers["content-type"] == "image/svg+xml"
    assert response.headers["cache-control"] == "private, max-age=600"
    ET.fromstring(response.text)
    assert 'class="norm"' in response.text
    assert get(app, connect, "/runs/mt/nobody/trail.svg").status_code == 404


@pytest.mark.parametrize(
    ("state", "steps", "shown"),
    [("running", 99, 99), ("running", 1234, 1200), ("running", 1299, 1200), ("finished", 1299, 1299)],
)
def test_a_live_run_gets_a_new_picture_when_a_good_part_of_it_is_new(state: str, steps: int, shown: int) -> None:
    run = make_run(state=RunState(state), closed_steps=steps)
    assert trail_path(run).endswith(f"/trail.svg?steps={shown}")


def test_a_run_that_has_long_been_over_still_shows_its_last_numbers(stocked: Stocked, connect: Connect) -> None:
    app = stocked.app(snapshot=lambda: NOTHING_LIVE)
    api = get(app, connect, "/api/v1/runs/mt/exploding", headers={"accept": "*/*"}).json()
    assert api["grad_norm"] > 1000 * api["grad_norm_baseline"]
    for path in ("/", "/runs/mt/exploding"):
        assert figure(api["grad_norm"]) in get(app, connect, path).text


def test_steps_that_come_after_all_give_a_run_new_numbers(stocked: Stocked) -> None:
    tallies = Tallies(stocked.database, lambda: NOTHING_LIVE)

    def steps_told() -> int:
        with stocked.database.read() as transaction:
            run = transaction.runs.get(RunKey("mt", "twice"))
        return tallies.of([run])[run.run_id].steps

    for launch, steps in (("first", 40), ("second", 70)):
        run = SyntheticRun(stocked.pipeline, name="twice", launch=launch, norms=healthy_norms(steps), world_size=1)
        run.open(NOW).send(0, steps, NOW + steps)
        run.close(NOW + steps + 1.0)
        assert steps_told() == steps_told()
    assert steps_told() == 40 + 70


def test_a_run_whose_state_is_damaged_is_shown_without_numbers(stocked: Stocked, connect: Connect) -> None:
    with stocked.database.begin() as transaction:
        run = transaction.runs.get(RunKey("mt", "exploding"))
        transaction.detectors.save_all([DetectorCheckpoint(run.run_id, 0, 1, b"SGP2 no state")], NOW)
    app = stocked.app(snapshot=lambda: NOTHING_LIVE)
    response = get(app, connect, "/api/v1/runs/mt/exploding", headers={"accept": "*/*"})
    assert response.json()["grad_norm"] is None


def test_older_runs_are_on_the_next_page(stocked: Stocked, connect: Connect) -> None:

    for number in range(101):
        SyntheticRun(stocked.pipeline, name=f"run-{number}", launch=f"run-{number}", world_size=1).open(NOW)
    app = stocked.app()
    first = Page(get(app, connect, "/").text)
    (older,) = [link for link in first.links if "before=" in link]
    assert "/runs/mt/exploding" in Page(get(app, connect, older).text).links


def test_an_alert_on_a_run_page_names_the_checkpoint_and_the_data(empty_store: Stocked, connect: Connect) -> None:
    losses, norms = exploding_losses(220, 150), exploding_norms(220, 150)
    run = SyntheticRun(empty_store.pipeline, name="named", world_size=1, norms=norms, losses=losses).open(NOW)
    checkpoint = Checkpoint(run.handle(0), 140, "/<140>.pt", NOW)
    batch = run.batch(0, 0, 220, data_ids={row: f"shard <{row}>" for row in range(220)})
    empty_store.pipeline.ingest([Arrival(checkpoints=(checkpoint,), batches=(batch,))], NOW)
    while empty_store.pipeline.detect(NOW):
        pass
    page = get(empty_store.app(), connect, "/runs/mt/named").text
    assert "last good checkpoint: step 140 <code>/&lt;140&gt;.pt</code>" in page
    assert "<code>shard &lt;" in page


def test_a_run_page_says_what_the_job_was_asked_for(stocked: Stocked, connect: Connect) -> None:
    run = SyntheticRun(stocked.pipeline, name="asked", launch="launch-asked", capabilities=("stop",)).open(NOW)
    request = Request(DirectiveKind.STOP, "<Ada>", "too dear")
    stocked.pipeline.asking.ask(RunKey("mt", "asked"), request, NOW)
    page = get(stocked.app(), connect, "/runs/mt/asked").text
    assert "Asked of the job" in page
    assert "by &lt;Ada&gt;: too dear" in page
    assert "2 no answer" in page
    assert run.opened


def test_a_trial_of_rules_says_what_becomes_of_the_alerts_that_people_have_judged(
    stocked: Stocked, connect: Connect
) -> None:
    app = stocked.app()
    with stocked.database.read() as transaction:
        alerts = [each for each in transaction.alerts.list(run="exploding") if each.signature.value == "runaway"]
    get(app, connect, f"/alerts/{alerts[0].alert_id}/verdict", "POST", data={"by": "Ada", "verdict": "wrong"})
    page = get(app, connect, "/rules", "POST", data={"rules": "signature.runaway.mute = true\n", "search": "explod"})
    assert "Of the alerts that people have judged" in page.text
    assert re.search(r"runaway</td><td class=.number.>0<.*>0<.*>0<.*>1<.*>0 %<.*>–<", page.text)
    bad = get(app, connect, "/rules", "POST", data={"rules": "signature.runaway.mute = <3\n"})
    assert bad.status_code == 400
    assert "&lt;3" in bad.text
    assert "did you mean" in get(app, connect, "/rules", "POST", data={"rules": "signature.runawy.mute = true"}).text
