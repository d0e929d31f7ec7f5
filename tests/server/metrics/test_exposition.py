"""What scrapers read: held against prometheus-client, checked by promtool, scraped by a real Prometheus."""

from __future__ import annotations

import math
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge
from prometheus_client.core import Sample
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from seismograd_server.display.text import printable
from seismograd_server.instruments import Instruments
from seismograd_server.metrics import ExportLimits, new_registry, page, parse_layers
from seismograd_server.metrics.exposition import OPENMETRICS, TEXT, wants_openmetrics
from seismograd_server.metrics.families import RUN_FAMILIES, SERIES_PER_RUN
from seismograd_server.metrics.layers import LAYERS_PER_RUN
from seismograd_server.model import (
    DetectorStatus,
    LayerLevels,
    RunState,
    RunView,
    Severity,
    Signature,
    Snapshot,
    Tally,
    Visibility,
)
from tests.support.monitoring import Prometheus
from tests.support.processes import eventually, require_program
from tests.support.views import NOW, run_view

ASK_OPENMETRICS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
)


def twin(views: Sequence[RunView]) -> CollectorRegistry:
    """The same families, built with prometheus-client."""
    registry = CollectorRegistry()
    names = ["project", "run"]

    def gauge(name: str, help_text: str, value: Callable[[RunView], float | None]) -> None:
        metric = Gauge(name, help_text, names, registry=registry)
        for view in views:
            if (known := value(view)) is not None:
                metric.labels(printable(view.run.key.project), printable(view.run.key.run)).set(known)

    def counter(name: str, help_text: str, extra: list[str], values: Callable[[RunView], dict[Any, float]]) -> None:
        metric = Counter(name, help_text, [*names, *extra], registry=registry)
        for view in views:
            for labels, value in values(view).items():
                metric.labels(printable(view.run.key.project), printable(view.run.key.run), *labels).inc(value)

    help_of = {family.name: family.help for family in RUN_FAMILIES}
    Gauge("seismograd_exporter_truncated_runs", "Runs that are not on this page because of the limit on exported runs.",
          registry=registry)  # fmt: skip
    info = Gauge("seismograd_run_info", help_of["seismograd_run_info"],
                 [*names, "name", "framework", "strategy", "dtype", "attempt"], registry=registry)  # fmt: skip
    state = Enum("seismograd_run_state", help_of["seismograd_run_state"], names,
                 states=[each.value for each in RunState], registry=registry)  # fmt: skip
    for view in views:
        run = view.run
        key = [printable(run.key.project), printable(run.key.run)]
        info.labels(*key, printable(run.tags["name"]), run.framework, run.strategy, run.tags["dtype"],
                    str(run.attempts)).set(1)  # fmt: skip
        state.labels(*key).state(run.state.value)
    plain: dict[str, Callable[[RunView], float | None]] = {
        "seismograd_run_step": lambda view: view.tally.step,
        "seismograd_run_start_timestamp_seconds": lambda view: view.run.started_at,
        "seismograd_run_last_record_timestamp_seconds": lambda view: view.run.last_record_at,
        "seismograd_run_world_size": lambda view: view.run.world_size,
        "seismograd_run_ranks_reporting": lambda view: view.tally.ranks_reporting,
        "seismograd_run_lowest_missing_rank": lambda view: view.tally.lowest_missing_rank,
        "seismograd_run_grad_norm": lambda view: view.tally.grad_norm,
        "seismograd_run_grad_norm_max": lambda view: view.tally.grad_norm_max,
        "seismograd_run_grad_norm_baseline": lambda view: view.tally.grad_norm_baseline,
        "seismograd_run_grad_norm_deviation_ratio": lambda _: 5.0,
        "seismograd_run_grad_norm_window_max": lambda _: 77.0,
        "seismograd_run_grad_norm_rank_spread_ratio": lambda view: view.tally.rank_spread_ratio,
        "seismograd_run_loss": lambda view: view.tally.loss,
        "seismograd_run_loss_scale": lambda view: view.tally.loss_scale,
        "seismograd_run_learning_rate": lambda view: view.tally.learning_rate,
        "seismograd_run_update_ratio": lambda view: view.tally.update_ratio,
    }
    for name, value in plain.items():
        gauge(name, help_of[name], value)
    counted: dict[str, tuple[list[str], Callable[[RunView], dict[Any, float]]]] = {
        "seismograd_run_steps_total": ([], lambda view: {(): view.tally.steps}),
        "seismograd_run_nonfinite_steps_total": ([], lambda view: {(): view.tally.nonfinite_steps}),
        "seismograd_run_skipped_steps_total": (["reason"], lambda _: {("found_inf",): 2, ("user",): 1}),
        "seismograd_run_clipped_steps_total": ([], lambda view: {(): view.tally.clipped_steps}),
        "seismograd_run_missing_records_total": ([], lambda view: {(): view.tally.missing_records}),
        "seismograd_run_signatures_total": (
            ["signature"],
            lambda _: {("runaway",): 1, ("spike",): 2, ("nonfinite",): 0},
        ),
    }
    for name, (extra, values) in counted.items():
        counter(name, help_of[name], extra, values)
    active = Gauge("seismograd_run_signature_active", help_of["seismograd_run_signature_active"],
                   [*names, "signature"], registry=registry)  # fmt: skip
    for view in views:
        for signature, severity in {"runaway": 3, "spike": 0, "nonfinite": 0}.items():
            active.labels(printable(view.run.key.project), printable(view.run.key.run), signature).set(severity)
    return registry


def content(families: Any) -> dict[str, tuple[str, str, set[str]]]:
    """Kind, help and samples by family, in a form in which NaN equals NaN."""

    def flat(sample: Sample) -> str:
        return repr((sample.name, sorted(sample.labels.items()), float(sample.value)))

    return {each.name: (each.type, each.documentation, {flat(sample) for sample in each.samples}) for each in families}


def instruments() -> Instruments:
    return Instruments(CollectorRegistry())


def text_page(views: Sequence[RunView], accept: str = "", limits: ExportLimits | None = None) -> str:
    own = Instruments(CollectorRegistry())
    body, _ = page(accept, Snapshot(NOW, tuple(views)), own, NOW, limits or ExportLimits())
    return body.decode()


def run_samples(text: str) -> list[Sample]:
    return [
        sample
        for family in read_text(text)
        for sample in family.samples
        if family.name.startswith("seismograd_run_") or family.name == "seismograd_exporter_truncated_runs"
    ]


HOSTILE = 'a"b\\c\nd} 1\nevil{x="y"} 2'


@pytest.mark.parametrize("run", ["lstm-7", HOSTILE, "δ run ✓", "\\", '"', "a\x00b", "\udc80lone", "{}", " "])
def test_the_text_page_says_what_prometheus_client_would_say(run: str) -> None:
    views = [run_view(run=run), run_view(project=run, run="other", state=RunState.FAILED, ended_at=NOW - 1)]
    ours = content(read_text(text_page(views)))
    theirs = content(read_text(generate_text(twin(views)).decode()))
    assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize("run", ["lstm-7", HOSTILE, "δ run ✓", "\\", '"', "a\x00b", "\udc80lone", "{}", " "])
def test_the_openmetrics_page_says_what_prometheus_client_would_say(run: str) -> None:
    views = [run_view(run=run), run_view(project=run, run="other", state=RunState.FAILED, ended_at=NOW - 1)]
    text = text_page(views, ASK_OPENMETRICS)
    assert text.endswith("# EOF\n")
    assert text.count("# EOF\n") == 1
    ours = content(read_openmetrics(text))
    theirs = content(read_openmetrics(generate_openmetrics(twin(views)).decode()))
    assert {name: ours[name] for name in theirs} == theirs


@settings(max_examples=150, deadline=None)
@given(project=st.text(max_size=20), run=st.text(st.characters(), max_size=20), name=st.text(max_size=8))
def test_no_name_can_break_the_page_or_add_a_sample(project: str, run: str, name: str) -> None:
    expected = len(run_samples(text_page([run_view()])))
    view = run_view(project, run, tags={"name": name, "dtype": "x"}, framework=name)
    samples = run_samples(text_page([view]))
    assert len(samples) == expected
    openmetrics = text_page([view], ASK_OPENMETRICS)
    assert {sample.labels.get("run") for sample in samples} == {printable(run), None}
    assert sum(1 for family in read_openmetrics(openmetrics) for _ in family.samples) > expected


def test_a_lone_surrogate_in_an_instrument_does_not_cost_the_page() -> None:
    own = instruments()
    own.client_dropped_records.labels(project="\udc80", reason="queue_full").inc()
    for accept in ("", ASK_OPENMETRICS):
        body, _ = page(accept, Snapshot(NOW), own, NOW)
        assert rb'project="\\udc80"' in body


def test_every_value_is_written_so_that_it_reads_back() -> None:
    for value in (math.inf, -math.inf, 5e-324, 1.7976931348623157e308, -0.0, 1e16, 0.1):
        view = run_view()
        text = text_page([replace(view, tally=replace(view.tally, loss=value))])
        (found,) = [sample.value for sample in run_samples(text) if sample.name == "seismograd_run_loss"]
        assert repr(found) == repr(value)


def test_an_unknown_number_has_no_series_but_keeps_its_help() -> None:
    view = replace(run_view(last_record_at=None), tally=Tally(), active={}, statuses=())
    text = text_page([view])
    names = {sample.name for sample in run_samples(text)}
    assert "seismograd_run_grad_norm" not in names
    assert "seismograd_run_last_record_timestamp_seconds" not in names
    assert "# TYPE seismograd_run_grad_norm gauge" in text
    assert {"seismograd_run_steps_total", "seismograd_run_state", "seismograd_run_info"} <= names


def test_a_run_that_has_every_signature_stays_within_its_share_of_series() -> None:
    view = replace(
        run_view(),
        active=dict.fromkeys(Signature, Severity.WARNING) | {Signature.SPIKE: Severity.CRITICAL},
        statuses=tuple(DetectorStatus(each, Visibility.ARMED, "") for each in Signature),
    )
    samples = [sample for sample in run_samples(text_page([view])) if "project" in sample.labels]
    assert len(samples) <= SERIES_PER_RUN
    active = {sample.labels["signature"] for sample in samples if sample.name == "seismograd_run_signature_active"}
    assert active == {each.value for each in Signature}


def test_two_names_that_look_the_same_are_one_run_on_the_page() -> None:
    samples = run_samples(text_page([run_view(run="a\x00b"), run_view(run="a\\x00b")]))
    assert len([sample for sample in samples if sample.name == "seismograd_run_step"]) == 1


def layered(names: Sequence[str], norms: Sequence[float], usual: Sequence[float]) -> RunView:
    levels = LayerLevels(tuple(names), np.array(norms, dtype=np.float32), np.array(usual))
    return replace(run_view(), layers=levels)


def layer_samples(view: RunView, choice: str) -> dict[str, dict[str, float]]:
    """Values by layer, of each family of layers."""
    limits = ExportLimits(layers=parse_layers(choice))
    found: dict[str, dict[str, float]] = {"grad_norm": {}, "grad_norm_deviation_ratio": {}}
    for sample in run_samples(text_page([view], limits=limits)):
        if sample.name.startswith("seismograd_run_layer_"):
            found[sample.name.removeprefix("seismograd_run_layer_")][sample.labels["layer"]] = sample.value
    return found


def test_layers_are_exported_when_asked_for_with_their_deviation_where_it_is_known() -> None:
    view = layered(["in", "rnn", "out", "new"], [1.0, 8.0, 2.0, math.nan], [0.5, 2.0, math.nan, 1.0])
    assert layer_samples(view, "off") == {"grad_norm": {}, "grad_norm_deviation_ratio": {}}
    everything = layer_samples(view, "all")
    assert everything["grad_norm"] == {"in": 1.0, "rnn": 8.0, "out": 2.0}
    assert everything["grad_norm_deviation_ratio"] == {"in": 2.0, "rnn": 4.0}
    assert layer_samples(view, "top_k:1")["grad_norm"] == {"rnn": 8.0}
    assert layer_samples(view, "match:^(in|out)$")["grad_norm"] == {"in": 1.0, "out": 2.0}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=6), st.floats(width=32)), max_size=200))
def test_layers_are_capped_and_their_names_break_nothing(layers: list[tuple[str, float]]) -> None:
    view = layered([name for name, _ in layers], [norm for _, norm in layers], [1.0] * len(layers))
    shown = layer_samples(view, "all")["grad_norm"]
    known = sorted((norm for _, norm in layers if not math.isnan(norm)), reverse=True)
    assert len(shown) <= LAYERS_PER_RUN
    assert len(known) == 0 or max(shown.values()) == known[0]
    assert set(shown) <= {printable(name) for name, _ in layers}
    read = text_page([view], ASK_OPENMETRICS, ExportLimits(layers=parse_layers("all")))
    assert sum(family.name == "seismograd_run_layer_grad_norm" for family in read_openmetrics(read)) == 1


@pytest.mark.parametrize(
    "text", ["top_k", "top_k:0", "top_k:65", "top_k:-1", "top_k:³", "match:", "match:(", "some", "ALL"]
)
def test_a_choice_of_layers_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write off, top_k:N|this is none"):
        parse_layers(text)


def test_runs_over_the_bound_are_counted_and_firing_ones_come_first() -> None:
    calm = [replace(run_view(run=f"calm-{each}"), active={}) for each in range(5)]
    warned = replace(run_view(run="warned"), active={Signature.SPIKE: Severity.WARNING})
    exploded = run_view(run="exploded", state=RunState.FAILED, ended_at=NOW - 20 * 3600)
    samples = run_samples(text_page([*calm, warned, exploded], limits=ExportLimits(runs=2)))
    assert {sample.labels["run"] for sample in samples if "run" in sample.labels} == {"warned", "exploded"}
    assert [sample.value for sample in samples if sample.name == "seismograd_exporter_truncated_runs"] == [5.0]


def test_an_ended_run_leaves_the_page_after_a_quarter_of_an_hour_unless_it_fires() -> None:
    def exported(**fields: Any) -> bool:
        active = {Signature.RUNAWAY: Severity.CRITICAL} if fields.pop("fires", False) else {}
        view = replace(run_view(**fields), active=active)
        return any(sample.labels.get("run") == "lstm-7" for sample in run_samples(text_page([view])))

    assert exported(state=RunState.FINISHED, ended_at=NOW - 899)
    assert not exported(state=RunState.FINISHED, ended_at=NOW - 901)
    assert exported(state=RunState.FINISHED, ended_at=NOW - 901, fires=True)
    assert exported(state=RunState.LOST, last_record_at=NOW - 899)
    assert not exported(state=RunState.LOST, last_record_at=NOW - 901)
    assert exported(last_record_at=NOW - 7200)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (ASK_OPENMETRICS, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=2.0.0", False),
        ("text/plain;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
        (";;;,,=,", False),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(accept: str, expected: bool) -> None:
    assert wants_openmetrics(accept) is expected
    _, content_type = page(accept, Snapshot(NOW), instruments(), NOW)
    assert content_type == (OPENMETRICS if expected else TEXT)


def test_a_full_page_satisfies_promtool() -> None:
    promtool = require_program("promtool", "prometheus")
    own = Instruments(new_registry())
    own.build_info.labels(version="0.1.0", storage="sqlite", python="3.11").set(1)
    own.notifications.labels(target="alertmanager:a", result="delivered").inc()
    body, _ = page("", Snapshot(NOW, (run_view(), run_view(run=HOSTILE))), own, NOW)
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, check=False, timeout=60)
    # Python's own families (python_gc_..., process_...) are named by prometheus-client.
    complaints = [line for line in (checked.stdout + checked.stderr).decode().splitlines() if "seismograd" in line]
    assert complaints == []
    assert checked.returncode == 0, (checked.stdout, checked.stderr)


def test_no_family_is_on_the_page_twice() -> None:
    lines = text_page([run_view()]).splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE ")]
    assert len(names) == len(set(names))


@contextmanager
def served(make: Callable[[str], tuple[bytes, str]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body, content_type = make(self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_real_prometheus_scrapes_runs_whatever_they_are_called(
    start_prometheus: Callable[[str], Prometheus],
) -> None:
    own = Instruments(new_registry())
    views = tuple(run_view(run=name) for name in ("lstm-7", HOSTILE, "a\x00b", "\udc80", "δ ✓"))
    asked: list[str] = []

    def make(accept: str) -> tuple[bytes, str]:
        asked.append(accept)
        return page(accept, Snapshot(NOW, views), own, NOW)

    with served(make) as url:
        prometheus = start_prometheus(url)
        found = eventually(
            lambda: prometheus.query("seismograd_run_grad_norm"), 60.0, "Prometheus has seismograd_run_grad_norm"
        )
        (up,) = prometheus.query("up")
        (states,) = prometheus.query('sum(seismograd_run_state{run="lstm-7"})')
    assert {sample["metric"]["run"] for sample in found} == {printable(view.run.key.run) for view in views}
    assert {sample["value"][1] for sample in found} == {"12.5"}
    assert up["value"][1] == "1"
    assert states["value"][1] == "1"
    assert wants_openmetrics(asked[0])
