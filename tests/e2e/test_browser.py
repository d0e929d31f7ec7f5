"""The pages in a real browser: seen, read out, zoomed, followed live, acted upon, and broken into by nobody."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from seismograd_server.store.database import Database
from seismograd_server.web.links import segment
from tests.screenshots.__main__ import PICTURES, exploded, take
from tests.support.browser import Visit
from tests.support.reading import Stocked
from tests.support.seismograd import SeismogradServer, Training
from tests.support.synthetic import exploding_losses, exploding_norms, new_pipeline

Begin = Callable[..., Visit]
RUN = "/runs/mt/exploding"
COMPARED = "/compare?run=mt/healthy&run=mt/exploding"
PAGES = [
    "/",
    RUN,
    f"{RUN}/postmortem",
    f"{RUN}?first_step=120&last_step=199",
    "/runs/mt/healthy",
    "/compare",
    COMPARED,
    "/rules",
    "/settings",
    "/nowhere",
]
HOSTILE = ["<img src=x onerror=alert(1)>", "'\"><script>alert(1)</script>", "{{ 7*7 }}", "a/b?#%", "snow ☃ \u202egnp"]


@pytest.fixture
def served(tmp_path: Path, start_seismograd: Callable[..., SeismogradServer]) -> SeismogradServer:
    """A real server with a run that has just exploded, so that its alerts still fire, and a healthy one."""
    folder = tmp_path / "served"
    folder.mkdir()
    with Database.open(f"sqlite:///{folder / 'seismograd.db'}", owner="tests") as database:
        store = Stocked(database, new_pipeline(database))
        started = time.time() - 300.0
        losses = exploding_losses(200, 150)
        store.add("exploding", world_size=2, norms=exploding_norms(200, 150), losses=losses, started=started)
        store.add("healthy", finish=False, started=started)
    return start_seismograd(data_dir=folder)


def chart(page: Page, name: str = "norm") -> Any:
    return page.locator(f"svg.chart:has(> #{name}-title)")


def drag(page: Page, start: float, end: float) -> None:
    """Drags over a part of the norm's chart, given as shares of its width."""
    box = chart(page).bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + (start + end) / 2 * box["width"], y)
    page.mouse.move(box["x"] + end * box["width"], y)
    page.mouse.up()


def shown_steps(page: Page) -> tuple[int, int]:
    """What the page says it shows."""
    found = re.fullmatch(r"Steps ([\d,]+) to ([\d,]+)", page.locator(".ranges b").inner_text())
    assert found is not None
    first, last = (int(each.replace(",", "")) for each in found.groups())
    return first, last


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_asks_nobody_else_for_anything(
    served: SeismogradServer, visit: Begin, scheme: str
) -> None:
    seen = visit(served.http, color_scheme=scheme)
    for path in PAGES:
        page = seen.open(path)
        page.wait_for_load_state("networkidle")
        found = Axe().run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
    # What the browser itself says of a page that is not there.
    seen.complaints = [each for each in seen.complaints if "404" not in each]
    seen.assert_clean()
    with_a_chart = seen.received[RUN] + sum(size for path, size in seen.received.items() if path.startswith("/static"))
    print(f"page weight of a run: {with_a_chart / 1024:.0f} KiB, its script {seen.received['/static/seismograd.js']} B")
    assert with_a_chart < 512 * 1024


def test_a_chart_says_what_is_under_the_pointer_and_to_the_keyboard(served: SeismogradServer, visit: Begin) -> None:
    seen = visit(served.http)
    page = seen.open(RUN)
    told = page.locator("figure", has=chart(page)).locator(".readout")
    chart(page).hover()
    expect(told).to_contain_text(re.compile(r"step \d+ · gradient norm [\d.]"))
    chart(page).focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    before = told.inner_text()
    page.keyboard.press("ArrowLeft")
    expect(told).not_to_have_text(before)
    assert page.evaluate("document.querySelectorAll('.cursor').length") > 1, (
        "every chart of these steps shows the place"
    )
    page.keyboard.press("Escape")
    expect(told).to_have_text("")
    seen.assert_clean()


def test_a_drag_zooms_in_the_address_follows_and_back_leads_back(served: SeismogradServer, visit: Begin) -> None:
    seen = visit(served.http)
    page = seen.open(RUN)
    assert shown_steps(page) == (0, 199)
    page.evaluate("window.here = true")
    drag(page, 0.7, 0.9)
    expect(page.locator(".ranges b")).not_to_have_text("Steps 0 to 199")
    first, last = shown_steps(page)
    assert 120 <= first < last <= 190
    query = parse_qs(urlsplit(page.url).query)
    assert (query["first_step"], query["last_step"]) == ([str(first)], [str(last)])
    chart(page).focus()
    page.keyboard.press("-")
    expect(page.locator(".ranges b")).not_to_have_text(f"Steps {first:,} to {last:,}")
    page.keyboard.press("Home")
    expect(page.locator(".ranges b")).to_have_text("Steps 0 to 199")
    page.go_back()
    page.go_back()
    expect(page.locator(".ranges b")).to_have_text(f"Steps {first:,} to {last:,}")
    assert page.evaluate("window.here") is True, "the page was never loaded again"
    page.reload()
    assert shown_steps(page) == (first, last)
    seen.assert_clean()


def test_ranges_work_without_a_script_and_a_live_page_loads_itself_again(
    served: SeismogradServer, visit: Begin
) -> None:
    page = visit(served.http, java_script_enabled=False).open(RUN)
    page.get_by_role("link", name="narrower").click()
    assert shown_steps(page) == (49, 149)
    page.get_by_role("link", name="all steps").click()
    assert shown_steps(page) == (0, 199)
    expect(page.locator(".scripted")).to_be_hidden()


def test_a_page_follows_a_real_training_without_being_loaded_again(
    start_seismograd: Callable[..., SeismogradServer],
    start_training: Callable[..., Training],
    visit: Begin,
) -> None:
    server = start_seismograd("close_wait_seconds = 0.5")
    seen = visit(server.http)
    page = seen.open("/")
    expect(page.get_by_text("No run yet")).to_be_visible()
    page.evaluate("window.here = true")
    training = start_training(server.grpc, "live", "--steps", "400", "--step-seconds", "0.01", linger=True)
    page.get_by_role("link", name="live").click()
    page.evaluate("window.here = true")
    expect(page.locator(".facts")).to_contain_text("running")
    page.locator("#silence summary").click()
    page.locator("#silence input[name=by]").fill("Ada")
    expect(page.locator(".facts")).to_contain_text(re.compile(r"Step\s*399"))
    assert page.evaluate("window.here") is True
    assert page.locator("#silence input[name=by]").input_value() == "Ada", "nobody's writing is lost to a refresh"
    training.let_go()
    training.finish()
    expect(page.locator(".facts")).to_contain_text("finished")
    seen.assert_clean()


def test_the_list_of_runs_keeps_its_pictures_while_it_follows(served: SeismogradServer, visit: Begin) -> None:
    seen = visit(served.http)
    page = seen.open("/")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth === 120)")
    assert page.evaluate("(window.picture = document.images[0]) !== undefined")
    page.evaluate("window.before = document.querySelector('[data-part=runs]')")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function("() => document.querySelector('[data-part=runs]') !== window.before")
    assert page.evaluate("document.images[0] === window.picture")
    seen.assert_clean()


def test_a_page_says_that_the_server_is_away_and_goes_on_when_it_is_back(
    start_seismograd: Callable[..., SeismogradServer], visit: Begin
) -> None:
    server = start_seismograd()
    seen = visit(server.http)
    page = seen.open("/")
    expect(page.get_by_text("No run yet")).to_be_visible()
    server.process.kill()
    expect(page.get_by_role("status")).to_contain_text("The server has not answered")
    server.restart()
    expect(page.get_by_role("status")).to_have_text("")


def test_an_alert_is_acknowledged_and_the_name_is_remembered(served: SeismogradServer, visit: Begin) -> None:
    seen = visit(served.http)
    page = seen.open(RUN)
    form = page.locator("form[action$='/ack']").first
    form.get_by_label("your name").fill("Ada")
    form.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_text("acknowledged by Ada").first).to_be_visible()
    assert urlsplit(page.url).path == RUN
    page.locator("#silence summary").click()
    expect(page.locator("#silence input[name=by]")).to_have_value("Ada")
    seen.assert_clean()


def test_other_rules_are_tried_on_stored_runs_and_bad_ones_are_explained(
    served: SeismogradServer, visit: Begin
) -> None:
    seen = visit(served.http)
    page = seen.open("/rules")
    page.get_by_label("rules").fill("[signature.runaway]\nmute = true\n")
    page.get_by_role("button", name="Judge them again").click()
    expect(page.get_by_text("2 runs judged again")).to_be_visible()
    gone = page.locator("tr", has_text="runaway")
    expect(gone).to_contain_text("gone")
    page.get_by_label("rules").fill("[signature.runawya]\nmute = true\n")
    page.get_by_role("button", name="Judge them again").click()
    expect(page.get_by_text("did you mean")).to_be_visible()
    seen.complaints = [each for each in seen.complaints if "400" not in each]
    seen.assert_clean()


def test_the_page_and_the_report_of_an_incident_are_accessible_and_lead_to_its_runs(
    tmp_path: Path, start_seismograd: Callable[..., SeismogradServer], visit: Begin
) -> None:
    folder = tmp_path / "incident"
    folder.mkdir()
    with Database.open(f"sqlite:///{folder / 'seismograd.db'}", owner="tests") as database:
        store, started = Stocked(database, new_pipeline(database)), time.time() - 200.0
        for name in ("one", "two", "three"):
            norms, losses = exploding_norms(90, 70), exploding_losses(90, 70)
            store.add(name, norms=norms, losses=losses, started=started)
    seen = visit(start_seismograd(data_dir=folder).http)
    page = seen.open("/")
    page.get_by_role("link", name="3 runs fired runaway").click()
    for button in ("", "Compare its runs", "Post-mortem"):
        if button:
            page.get_by_role("link", name=button).click()
        page.wait_for_load_state("networkidle")
        found = Axe().run(page)
        assert found.violations_count == 0, f"{page.url}: {found.generate_report()}"
        for name in ("one", "two", "three"):
            expect(page.locator("main")).to_contain_text(name)
        if button == "Compare its runs":
            page.go_back()
    seen.assert_clean()


def test_a_saved_report_reads_its_charts_out_without_any_server(
    served: SeismogradServer, visit: Begin, tmp_path: Path
) -> None:
    saved = tmp_path / "postmortem.html"
    saved.write_text(served.page(f"{RUN}/postmortem", "text/html"))
    seen = visit("")
    page = seen.open(saved.as_uri())
    chart(page).hover()
    told = page.locator("figure", has=chart(page)).locator(".readout")
    expect(told).to_contain_text(re.compile(r"step \d+ · gradient norm [\d.]"))
    chart(page).focus()
    before = told.inner_text()
    page.keyboard.press("ArrowLeft")
    expect(told).not_to_have_text(before)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    seen.assert_clean()


def test_the_pictures_of_the_readme_can_be_taken_anew(
    served: SeismogradServer, chromium: Browser, tmp_path: Path
) -> None:
    assert exploded(served.http) == RUN
    pictures = take(chromium, served.http, RUN, tmp_path)
    readme = (PICTURES.parents[1] / "README.md").read_text()
    assert {f"tests/screenshots/{each.name}" for each in pictures} == set(re.findall(r"\((tests/.*?\.png)\)", readme))
    for each in pictures:
        assert (PICTURES / each.name).read_bytes()[:8] == each.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def hostile(tmp_path: Path, start_seismograd: Callable[..., SeismogradServer]) -> SeismogradServer:
    """A server with runs whose names, layers and reasons want to be code."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    with Database.open(f"sqlite:///{folder / 'seismograd.db'}", owner="tests") as database:
        store = Stocked(database, new_pipeline(database))
        for name in HOSTILE:
            store.add(name, steps=20)
    return start_seismograd(data_dir=folder)


def test_a_hostile_name_is_text_in_the_browser_too(hostile: SeismogradServer, visit: Begin) -> None:
    seen = visit(hostile.http)
    for name in HOSTILE:
        page = seen.open(f"/runs/mt/{segment(name)}")
        expect(page.locator("h1")).to_have_text(name.replace("\u202e", "\\u202e"))
        page.get_by_role("link", name="narrower").click()
        expect(page.locator(".ranges b")).not_to_have_text("Steps 0 to 19")
    page = seen.open("/?search=%3Cimg")
    expect(page.locator("tbody tr")).to_have_count(1)
    seen.assert_clean()
