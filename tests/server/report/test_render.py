from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from seismograd_server.display.look import readout_script
from seismograd_server.model import (
    BY_ALERT,
    Addressee,
    AskedDirective,
    Directive,
    DirectiveKind,
    DirectiveOutcome,
    Evidence,
    RunKey,
)
from seismograd_server.reading.history import History, LayerWindow, Recorded
from seismograd_server.report.build import build
from seismograd_server.report.render_html import render_html
from seismograd_server.report.render_json import render_json
from seismograd_server.report.render_markdown import render_markdown
from tests.support.histories import (
    NOW,
    empty_history,
    exploding_history,
    healthy_history,
    healthy_norm,
    make_alert,
    make_run,
    make_series,
)

HOSTILE = [
    '<img src=x onerror="alert(1)">',
    "'\"><script>alert(1)</script>",
    "a/b?c#d%2F..",
    "snow ☃ \u202egnp.exe",
    "lone \ud800 surrogate",
    "{{ 7 * 7 }} {% raw %}",
    "]]>--><svg/onload=x>",
]


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside of style."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text.append(data)


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    return elements


def hostile_history(name: str) -> History:
    key = RunKey(name, name)
    layers = exploding_history().layers
    assert layers is not None
    named = LayerWindow(
        (name, *layers.names[1:]),
        (name, *layers.module_types[1:]),
        layers.depths,
        layers.numels,
        layers.steps,
        layers.norms,
        layers.weight_norms,
        layers.update_norms,
    )
    alert = make_alert(
        key=key,
        reason=name,
        scope=name,
        acknowledged_by=name,
        evidence=Evidence(value=1.0, leading_layer=name, details={name: name}),
    )
    run = make_run(
        key=key, failure_reason=name, tags={"team": name}, config_json=json.dumps({name: name}), strategy=name
    )
    return exploding_history(
        run=run, layers=named, alerts=(alert,), nonfinite=(), directives=(asked(name),), recorded=(recorded(name),)
    )


def asked(name: str = "Ada") -> AskedDirective:
    directive = Directive("d", 1, DirectiveKind.STOP, name, asked_at=NOW, expires_at=NOW + 60.0, reason=name)
    applied = Addressee(1, 0, NOW, DirectiveOutcome.APPLIED, name, step=190, answered_at=NOW)
    return AskedDirective(directive, (applied, Addressee(2, 1)))


def recorded(name: str = "rnn.weight") -> Recorded:
    return Recorded(1, name, 100, 163, 64, float("inf"), 161, name, 162)


def test_what_the_job_was_asked_for_and_what_its_recorders_held_is_in_every_format() -> None:
    capture = AskedDirective(
        Directive(
            "c",
            1,
            DirectiveKind.CAPTURE_MORE,
            BY_ALERT,
            NOW,
            NOW + 60.0,
            "runaway",
            "a",
            first_step=100,
            last_step=1163,
        ),
        (),
    )
    report = build(exploding_history(directives=(asked(), capture), recorded=(recorded(),)), NOW)
    for text in (html.unescape(render_html(report)), render_markdown(report).replace("\\", "")):
        assert "capture of steps 100 to 1,163" in text
        assert "an alert" in text
        assert "1 rank applied after step 190 (Ada); 1 rank: no answer" in text
        assert "64 of 100 to 163" in text
        assert "at step 161" in text
    values = json.loads(render_json(report))
    assert [each["kind"] for each in values["directives"]] == ["capture", "stop"], "oldest first"
    assert values["recorded"][0]["largest_norm"] == "Infinity"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_changes_nothing_in_the_structure_of_the_page(name: str) -> None:
    page = render_html(build(hostile_history(name), NOW), "https://example.org/")
    plain = render_html(build(hostile_history("plain"), NOW), "https://example.org/")
    shape = [(tag, sorted(attributes)) for tag, attributes in parsed(page).found]
    assert shape == [(tag, sorted(attributes)) for tag, attributes in parsed(plain).found]
    page.encode("utf-8")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_escaped_in_markdown_and_encodable_in_json(name: str) -> None:
    report = build(hostile_history(name), NOW)
    markdown = render_markdown(report)
    markdown.encode("utf-8")
    assert not re.search(r"(?<!\\)<", markdown)
    assert json.loads(render_json(report))["project"] == name


def test_the_page_fetches_nothing_and_its_only_script_is_the_one_that_reads_charts_out() -> None:
    page = render_html(build(exploding_history(), NOW), "https://example.org/run")
    elements = parsed(page)
    assert not {tag for tag, _ in elements.found} & {"img", "link", "iframe", "object", "embed", "base"}
    assert page.count("<script") == 1
    assert page.split("<script>", 1)[1].split("</script>", 1)[0] == readout_script()
    assert "</" not in readout_script(), "nothing in it ends it early"
    for tag, attributes in elements.found:
        assert "style" not in attributes, tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag == "a" or "href" not in attributes


def test_the_policy_allows_the_pages_own_style_sheet_and_script_and_nothing_else() -> None:
    page = render_html(build(exploding_history(), NOW))
    policy = next(
        attributes["content"]
        for tag, attributes in parsed(page).found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    own = {}
    for tag in ("style", "script"):
        text = page.split(f"<{tag}>", 1)[1].split(f"</{tag}>", 1)[0]
        own[tag] = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    allowed = f"style-src 'sha256-{own['style']}'; script-src 'sha256-{own['script']}'"
    assert policy == f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


def test_a_link_that_is_no_web_address_is_left_out() -> None:
    report = build(exploding_history(), NOW)
    assert "javascript:" not in render_html(report, "javascript:alert(1)")


def test_a_run_with_hundreds_of_layers_and_thousands_of_steps_stays_below_300_kilobytes() -> None:
    count, layers = 1500, 400
    steps = np.arange(9000, 9000 + count, dtype=np.int64)
    norms = np.exp(np.random.default_rng(1).normal(0, 2, (count, layers))).astype(np.float32)
    names = tuple(f"model.decoder.layers.{index}.self_attention.in_proj_weight" for index in range(layers))
    window = LayerWindow(
        names,
        ("Linear",) * layers,
        tuple(range(layers)),
        (10,) * layers,
        steps,
        norms,
        np.ones_like(norms),
        np.ones_like(norms),
    )
    norm = np.exp(np.random.default_rng(2).normal(0, 2, 60_000))
    alerts = tuple(make_alert(since_step=9000 + 9 * index, opened_step=9000 + 9 * index) for index in range(150))
    history = exploding_history(layers=window, alerts=alerts, series=make_series(norm), rank_window=None, nonfinite=())
    page = render_html(build(history, NOW))
    assert len(page.encode()) < 300_000


def test_every_charts_text_alternative_is_unique_and_referred_to() -> None:
    page = render_html(build(exploding_history(), NOW))
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    for labels in re.findall(r'aria-labelledby="([^"]+)"', page):
        assert set(labels.split()) <= set(identifiers)


def test_the_page_says_everything_that_the_report_says() -> None:
    report = build(exploding_history(), NOW)
    text = html.unescape(" ".join(parsed(render_html(report)).text))
    for sentence in (*report.summary, *(advice.title for advice in report.advice), *report.gaps, *report.blind):
        assert sentence in text
    for event in report.timeline:
        assert event.title in text


@pytest.mark.parametrize("history", [empty_history(), healthy_history(), healthy_history(series=make_series([1.0]))])
def test_runs_with_little_or_nothing_in_them_render_in_every_format(history: History) -> None:
    report = build(history, NOW)
    assert report.headline in html.unescape(render_html(report))
    assert "# mt/lstm" in render_markdown(report)
    assert json.loads(render_json(report))["verdict"] == report.verdict.value


def test_norms_that_are_all_zero_or_all_unknown_draw_an_empty_chart_without_failing() -> None:
    for norm in (np.zeros(50), np.full(50, np.nan)):
        render_html(build(healthy_history(series=make_series(norm)), NOW))


def test_the_json_report_has_its_promised_keys_and_no_bare_nan() -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    values = json.loads(render_json(build(exploding_history(), NOW)), parse_constant=refuse)
    assert {
        "project",
        "run",
        "verdict",
        "summary",
        "onset_step",
        "failure_step",
        "layers",
        "rank",
        "alerts",
        "checkpoint",
        "what_to_try",
        "gaps",
        "blind",
        "series",
        "heatmap",
        "timeline",
        "facts",
    } <= set(values)
    assert values["onset_step"] == 150
    assert values["alerts"][0]["evidence"]["details"]["loss"] == "NaN"
    assert values["layers"][0]["layer"] == "rnn.weight_hh_l0"
    assert len(values["series"]["step"]) == len(values["series"]["grad_norm"])


def test_a_healthy_page_shows_no_onset_and_no_alert() -> None:
    page = render_html(build(healthy_history(series=make_series(healthy_norm())), NOW))
    assert "Around the onset" not in page
    assert "No detector raised an alert." in page
