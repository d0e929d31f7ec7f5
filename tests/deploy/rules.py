"""Every alerting rule in both directions, as input series and what is expected of them. `test_rules.py` runs promtool.

Series are in promtool's notation ("0+1x10" counts up for ten minutes); one sample a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

from seismograd_server.model import Signature
from seismograd_server.notify.payloads import alert_name

RUN = 'project="mt",run="lstm-7"'
RUN_LABELS = {"project": "mt", "run": "lstm-7"}
SERVER = 'instance="a:7451",job="seismograd"'
SERVER_LABELS = {"instance": "a:7451"}


@dataclass(frozen=True)
class Case:
    """Series, the minute at which to look, and what must fire then: its labels and description; None = nothing."""

    alert: str
    series: dict[str, str]
    at: int
    labels: dict[str, str] | None = None
    description: str = ""


def run(family: str, labels: str = "") -> str:
    """A series of the run."""
    return f"seismograd_run_{family}{{{RUN}{labels}}}"


def server(family: str, labels: str = "") -> str:
    """A series of the server."""
    return f"seismograd_{family}{{{SERVER}{labels}}}"


RUNNING = {run("state", ',seismograd_run_state="running"'): "1x60"}


def _signatures() -> list[Case]:
    cases = []
    for signature in Signature:
        name, series = alert_name(signature.value), run("signature_active", f',signature="{signature.value}"')
        labels = {**RUN_LABELS, "signature": signature.value, "source": "prometheus"}
        says = f"mt/lstm-7: {signature.value}. The run's page shows the evidence."
        cases += [
            Case(name, {series: "0x5"}, 5),
            Case(name, {series: "0 3"}, 1, {**labels, "severity": "critical"}, says),
            Case(name, {series: "0 2"}, 1, {**labels, "severity": "warning"}, says),
            Case(name, {series: "0 1"}, 1, {**labels, "severity": "info"}, says),
            # A pause of four minutes is the same explosion; ten minutes later it is over.
            Case(name, {series: "3 0x20"}, 4, {**labels, "severity": "critical"}, says),
            Case(name, {series: "3 0x20"}, 12),
        ]
    return cases


def _runs() -> list[Case]:
    nonfinite, steps = run("nonfinite_steps_total"), run("steps_total")
    missing = run("lowest_missing_rank")
    silent = "mt/lstm-7: its processes are gone without a farewell, or have sent nothing for ten minutes."
    lost = run("state", ',seismograd_run_state="lost"')
    last = run("last_record_timestamp_seconds")
    stalled = {run("signature_active", ',signature="stalled"'): "2x60"}
    standing = {run("step"): "812x60", last: "0+60x60", **RUNNING}
    dropped = f'seismograd_client_dropped_records_total{{{SERVER},project="mt",reason="spool_full"}}'
    drops = {"project": "mt", "reason": "spool_full", "severity": "warning", "source": "prometheus"}
    skew = f"seismograd_client_clock_skew_seconds{{{RUN}}}"
    critical = {**RUN_LABELS, "severity": "critical", "source": "prometheus"}
    warning = {**RUN_LABELS, "severity": "warning", "source": "prometheus"}
    return [
        # One step with a NaN, between two scrapes.
        Case("SeismogradNonFiniteGradients", {nonfinite: "0 0 1x3", steps: "0+60x5"}, 3,
             {**critical, "signature": "nonfinite"}, "mt/lstm-7: non-finite gradients within the last five minutes."),
        Case("SeismogradNonFiniteGradients", {nonfinite: "7x10", steps: "0+60x10"}, 9),
        # The norm itself is calm at every scrape: only the window's maximum saw the spike of one step.
        Case("SeismogradGradNormSpike",
             {run("grad_norm"): "2x9", run("grad_norm_baseline"): "2x9", run("grad_norm_window_max"): "2 2 50x9",
              **RUNNING}, 3,
             {**warning, "signature": "spike"},
             "mt/lstm-7: the gradient norm reached 25 times its baseline within the last five minutes."),
        Case("SeismogradGradNormSpike",
             {run("grad_norm_baseline"): "2x10", run("grad_norm_window_max"): "19x10", **RUNNING}, 5),
        Case("SeismogradGradNormSpike",
             {run("grad_norm_baseline"): "0x10", run("grad_norm_window_max"): "0x10", **RUNNING}, 5),
        Case("SeismogradGradNormSpike", {run("grad_norm_baseline"): "2x10", run("grad_norm_window_max"): "50x10"}, 5),
        Case("SeismogradGradientVanishing", {run("grad_norm_baseline"): "1e-9x20", **RUNNING}, 11,
             {**warning, "signature": "vanishing"}, "mt/lstm-7: the usual gradient norm is 1e-09."),
        Case("SeismogradGradientVanishing", {run("grad_norm_baseline"): "1e-9x20"}, 11),
        Case("SeismogradGradientVanishing", {run("grad_norm_baseline"): "1e-7x20", **RUNNING}, 11),
        Case("SeismogradRunSilent", {lost: "0 1x5", last: "0x9"}, 2, critical, silent),
        Case("SeismogradRunSilent", {lost: "0x30", last: "0x30", **RUNNING}, 11, critical, silent),
        Case("SeismogradRunSilent", {run("start_timestamp_seconds"): "0x30", **RUNNING}, 11, critical, silent),
        Case("SeismogradRunSilent", {lost: "0x30", last: "0x30", **RUNNING}, 9),
        Case("SeismogradRunSilent", {lost: "0x30", last: "0+60x30", **RUNNING}, 25),
        # Seismograd has told of it itself: nobody is to hear of it a second time.
        Case("SeismogradRunSilent", {lost: "0x30", last: "0x30", **RUNNING, **stalled}, 25),
        Case("SeismogradRunStalled", standing, 20, warning,
             "mt/lstm-7: records arrive, and no step has closed for 15 minutes."),
        Case("SeismogradRunStalled", {**standing, run("step"): "812+1x60"}, 20),
        Case("SeismogradRunStalled", standing, 9),
        Case("SeismogradRunStalled", {**standing, **stalled}, 20),
        Case("SeismogradRanksMissing", {missing: "3x10", **RUNNING}, 6, warning,
             "mt/lstm-7: steps close without rank 3, the lowest that is missing."),
        Case("SeismogradRanksMissing", {missing: "0x10", **RUNNING}, 6, warning,
             "mt/lstm-7: steps close without rank 0, the lowest that is missing."),
        Case("SeismogradRanksMissing", {missing: "3x10", **RUNNING}, 4),
        Case("SeismogradRanksMissing", {missing: "3 3 stale", **RUNNING}, 9),
        Case("SeismogradRanksMissing", {missing: "3x10", **RUNNING, **stalled}, 6),
        Case("SeismogradClockSkew", {skew: "-3600x20"}, 11, {**RUN_LABELS, "severity": "info", "source": "prometheus"},
             "mt/lstm-7: a rank's clock is off by 1h 0m 0s."),
        Case("SeismogradClockSkew", {skew: "5x20"}, 11),
        Case("SeismogradClientsDroppingRecords", {dropped: "0x4 120x20"}, 8, drops,
             "Clients of project mt dropped 120 records within ten minutes (spool_full)."),
        Case("SeismogradClientsDroppingRecords", {dropped: "_x5 120x20"}, 8, drops,
             "Clients of project mt dropped 120 records within ten minutes (spool_full)."),
        Case("SeismogradClientsDroppingRecords", {dropped: "120x40"}, 30),
    ]  # fmt: skip


def _server() -> list[Case]:
    ok, bad = (server("ingest_requests_total", f',method="StreamSteps",code="{code}"') for code in ("OK", "INTERNAL"))
    hung_up = server("ingest_requests_total", ',method="StreamSteps",code="CANCELLED"')
    fast, slow, all_of_them = (
        server("ingest_request_duration_seconds_bucket", f',le="{le}"') for le in ("1.0", "2.5", "+Inf")
    )
    free, writable = server("storage_free_bytes"), server("storage_writable")
    notified = server("notifications_total", ',target="alertmanager:a",result="retried"')
    delivered = server("notifications_total", ',target="alertmanager:a",result="delivered"')
    pending, records = (
        server("log_pending_messages", ',partition="0"'),
        server("ingest_records_total", ',result="accepted"'),
    )
    critical = {**SERVER_LABELS, "severity": "critical", "source": "prometheus"}
    warning = {**SERVER_LABELS, "severity": "warning", "source": "prometheus"}
    refused = server("ingest_refusals_total", ',what="run"')
    inflight, limit = server("ingest_inflight_bytes"), server("ingest_limit_bytes")
    chore = server("maintenance_failures_total", ',chore="compaction"')
    return [
        Case("SeismogradDown", {f"up{{{SERVER}}}": "1 1 0x10"}, 5,
             {"severity": "critical", "source": "prometheus"},
             "No target of job seismograd has been up for two minutes. Clients keep their records and go on."),
        Case("SeismogradDown", {f"up{{{SERVER}}}": "1x10", 'up{instance="b:7451",job="seismograd"}': "0x10"}, 5),
        Case("SeismogradIngestErrors", {ok: "0+95x70", bad: "0+5x70"}, 65, critical,
             "a:7451: 5% of requests failed within the last hour."),
        Case("SeismogradIngestErrors", {ok: "0+9999x70", bad: "0+1x70"}, 65),
        Case("SeismogradIngestErrors", {ok: "0+95x70", bad: "0+5x60 300x10"}, 69),
        Case("SeismogradIngestErrors", {ok: "0+95x70", hung_up: "0+50x70"}, 65),
        Case("SeismogradIngestSlow", {fast: "0+90x30", slow: "0+100x30", all_of_them: "0+100x30"}, 20, warning,
             "a:7451: one frame of a hundred takes more than 2.35s."),
        Case("SeismogradIngestSlow", {fast: "0+100x30", slow: "0+100x30", all_of_them: "0+100x30"}, 20),
        Case("SeismogradNewcomersRefused", {refused: "0 0+3x20"}, 9, warning,
             "a:7451: runs, ranks or streams are refused. They keep their records and come back."),
        Case("SeismogradNewcomersRefused", {refused: "0 3x40"}, 20),
        Case("SeismogradIngestFull", {inflight: "95x10", limit: "100x10"}, 6, warning,
             "a:7451: 95% of the bytes that may be in flight are."),
        Case("SeismogradIngestFull", {inflight: "50x10", limit: "100x10"}, 6),
        Case("SeismogradStorageFillingUp", {free: "12000-100x100"}, 90,
             {"job": "seismograd", **warning},
             "a:7451: at the pace of the last hour the volume is full within four hours."),
        Case("SeismogradStorageFillingUp", {free: "12000-1x100"}, 90),
        Case("SeismogradStorageFillingUp", {free: "0x100"}, 90),
        Case("SeismogradStorageReadOnly", {writable: "1 0x5"}, 3, critical,
             "a:7451: records are refused for want of a writable database; clients keep them."),
        Case("SeismogradStorageReadOnly", {writable: "1x5"}, 3),
        Case("SeismogradStorageErrors", {server("storage_errors_total", ',op="ingest"'): "0 0 2x5"}, 4,
             {**warning, "op": "ingest"}, "a:7451: operations of kind ingest failed within ten minutes."),
        Case("SeismogradStorageErrors", {server("storage_errors_total", ',op="ingest"'): "2x20"}, 15),
        Case("SeismogradStorageDamaged", {server("storage_damaged_total", ',what="segment"'): "0 2x5"}, 3,
             {**warning, "what": "segment"}, "a:7451: 2 rows (segment) do not hold what was written."),
        Case("SeismogradStorageDamaged", {server("storage_damaged_total", ',what="segment"'): "0x5"}, 3),
        Case("SeismogradDetectorLagging", {server("detector_lag_seconds", ',shard="0"'): "90x10"}, 6,
             {**warning, "shard": "0"}, "a:7451: the oldest record that waits to be judged is 1m 30s old."),
        Case("SeismogradDetectorLagging", {server("detector_lag_seconds", ',shard="0"'): "90x2 1x10"}, 6),
        Case("SeismogradDetectorFailing", {server("detector_failures_total", ',signature="spike"'): "_ 1x5"}, 3,
             {**warning, "detector": "spike"}, "a:7451: 1 times the detector of spike was set aside for a run."),
        Case("SeismogradDetectorFailing", {server("detector_failures_total", ',signature="spike"'): "0x5"}, 3),
        Case("SeismogradNotificationsFailing", {notified: "0+1x20", delivered: "0x20"}, 8,
             {**critical, "target": "alertmanager:a"}, "a:7451: notifications to alertmanager:a fail."),
        Case("SeismogradNotificationsFailing", {notified: "3x20", delivered: "0+1x20"}, 15),
        Case("SeismogradLogPartitionStuck", {pending: "4x20", records: "100x20"}, 12,
             {**critical, "job": "seismograd", "partition": "0"}, "a:7451: 4 frames wait in partition 0."),
        Case("SeismogradLogPartitionStuck", {pending: "4x20", records: "0+100x20"}, 12),
        Case("SeismogradLogPartitionStuck", {pending: "0x20", records: "100x20"}, 12),
        Case("SeismogradRulesRefused", {server("rules_refused"): "0 1x200"}, 150, warning,
             "a:7451: the file of rules cannot be used. Those before it stay; a restart would fail."),
        Case("SeismogradRulesRefused", {server("rules_refused"): "0 1x5 0x10"}, 8),
        Case("SeismogradMaintenanceFailing", {chore: "0+1x60"}, 60, {**warning, "chore": "compaction"},
             "a:7451: compaction failed 60 times within an hour."),
        Case("SeismogradMaintenanceFailing", {chore: "0 0 1x60"}, 60),
        Case("SeismogradRunsTruncated", {server("exporter_truncated_runs"): "12x20"}, 16,
             {**SERVER_LABELS, "severity": "info", "source": "prometheus"},
             "a:7451: 12 runs are not exported; rules cannot see them."),
        Case("SeismogradRunsTruncated", {server("exporter_truncated_runs"): "0x20"}, 16),
    ]  # fmt: skip


CASES = [*_signatures(), *_runs(), *_server()]
