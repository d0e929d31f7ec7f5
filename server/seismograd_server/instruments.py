"""The server's own instruments: every counter, gauge and histogram about the server itself, declared in one place.

Families about runs are not here: they are rendered from the snapshot of live runs (`metrics/`). Labels known in
advance are initialised to 0, so that a rate exists before the first event.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# `_created` series double the number of series and no rule of ours reads them.
disable_created_metrics()

# Requests are ticks of 20 ms when all is well and a few seconds when the disk is not.
_DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From record to durable: half a second of client batching is normal, minutes mean a spool being delivered.
_DELAY_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 3600.0)


class ProjectSummary(Collector):
    """Counts and sums by project, added to by totals: clients report running totals and not each of their steps.

    METRICS would like a histogram; of totals, count and sum are what is known.
    """

    def __init__(self, name: str, documentation: str, registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._totals: dict[str, tuple[int, float]] = {}
        registry.register(self)

    def add(self, project: str, count: int, seconds: float) -> None:
        """Add to a project's totals."""
        known_count, known_seconds = self._totals.get(project, (0, 0.0))
        self._totals[project] = (known_count + count, known_seconds + seconds)

    def collect(self) -> Iterable[Metric]:
        """The family, for the registry; from any thread."""
        family = SummaryMetricFamily(self._name, self._documentation, labels=["project"])
        for project, (count, seconds) in list(self._totals.items()):
            family.add_metric([project], count, seconds)
        yield family


class Instruments:
    """One instance per server process, on a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.otlp_pushes = Counter(
            "seismograd_otlp_pushes_total",
            "Pushes of the metrics of runs to an OpenTelemetry collector, by what became of them.",
            ["result"],
            registry=registry,
        )
        self.build_info = Gauge(
            "seismograd_build_info",
            "Version of the server; always 1.",
            ["version", "storage", "python"],
            registry=registry,
        )
        self.ingest_requests = Counter(
            "seismograd_ingest_requests_total",
            "Requests and frames of the ingest service by status.",
            ["method", "code"],
            registry=registry,
        )
        self.ingest_records = Counter(
            "seismograd_ingest_records_total", "Records by what became of them.", ["result"], registry=registry
        )
        self.ingest_request_duration = Histogram(
            "seismograd_ingest_request_duration_seconds",
            "Time from a frame's arrival to its durable ack.",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.ingest_record_delay = Histogram(
            "seismograd_ingest_record_delay_seconds",
            "Time from a record's own stamp to its being durable.",
            buckets=_DELAY_BUCKETS,
            registry=registry,
        )
        self.ingest_inflight_bytes = Gauge(
            "seismograd_ingest_inflight_bytes", "Bytes received and not yet durable.", registry=registry
        )
        self.ingest_limit_bytes = Gauge(
            "seismograd_ingest_limit_bytes",
            "Bytes that may be in flight before clients are asked to wait.",
            registry=registry,
        )
        self.ingest_standing_bytes = Gauge(
            "seismograd_ingest_standing_bytes",
            "Bytes that live runs, their ranks and open streams hold, about.",
            registry=registry,
        )
        self.ingest_standing_limit_bytes = Gauge(
            "seismograd_ingest_standing_limit_bytes",
            "Bytes that live runs, their ranks and open streams may hold before newcomers are refused.",
            registry=registry,
        )
        self.ingest_refusals = Counter(
            "seismograd_ingest_refusals_total",
            "What was refused for want of memory, to come back later.",
            ["what"],
            registry=registry,
        )
        self.storage_commit_duration = Histogram(
            "seismograd_storage_commit_duration_seconds",
            "Duration of the ingest transaction.",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.storage_size_bytes = Gauge("seismograd_storage_size_bytes", "Size of the database.", registry=registry)
        self.storage_free_bytes = Gauge(
            "seismograd_storage_free_bytes", "Free bytes on the database's volume.", registry=registry
        )
        self.storage_errors = Counter(
            "seismograd_storage_errors_total", "Failed storage operations.", ["op"], registry=registry
        )
        self.storage_writable = Gauge(
            "seismograd_storage_writable",
            "Whether the database takes records: 0 while a full or failing disk refuses them.",
            registry=registry,
        )
        self.maintenance_duration = Histogram(
            "seismograd_maintenance_duration_seconds",
            "Duration of one piece of maintenance.",
            ["chore"],
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.maintenance_failures = Counter(
            "seismograd_maintenance_failures_total",
            "Pieces of maintenance that failed, to be tried again.",
            ["chore"],
            registry=registry,
        )
        self.retention_deleted_runs = Counter(
            "seismograd_retention_deleted_runs_total",
            "Runs that were deleted because they were too old, or their project too large.",
            ["reason"],
            registry=registry,
        )
        self.retention_downsampled_runs = Counter(
            "seismograd_retention_downsampled_runs_total",
            "Runs of whose single steps only those around incidents were kept, beside summaries.",
            registry=registry,
        )
        self.retention_oldest = Gauge(
            "seismograd_retention_oldest_run_timestamp_seconds",
            "When the oldest run that is kept ended; now, when none has.",
            registry=registry,
        )
        self.compaction_rows = Counter(
            "seismograd_compaction_rows_total",
            "Stored rows that became part of larger ones.",
            ["kind"],
            registry=registry,
        )
        self.compaction_bytes = Counter(
            "seismograd_compaction_bytes_total",
            "Bytes of rows before they were merged and after.",
            ["kind", "when"],
            registry=registry,
        )
        self.storage_damaged = Counter(
            "seismograd_storage_damaged_total",
            "Stored rows found whose bytes are not what was written.",
            ["what"],
            registry=registry,
        )
        self.detector_lag = Gauge(
            "seismograd_detector_lag_seconds",
            "Age of the oldest durable record that no detector has judged.",
            ["shard"],
            registry=registry,
        )
        self.detector_evaluations = Counter(
            "seismograd_detector_evaluations_total", "Closed steps judged by the detectors.", registry=registry
        )
        self.detector_failures = Counter(
            "seismograd_detector_failures_total",
            "Detectors that raised and were quarantined for a run.",
            ["signature"],
            registry=registry,
        )
        self.rules_reloads = Counter(
            "seismograd_rules_reloads_total",
            "Changes of the file of rules by result; after a refused one, the rules before it stay.",
            ["result"],
            registry=registry,
        )
        self.rules_refused = Gauge(
            "seismograd_rules_refused",
            "1 while the file of rules, as it is now, cannot be used: a restart would fail.",
            registry=registry,
        )
        self.log_pending_messages = Gauge(
            "seismograd_log_pending_messages", "Frames waiting in the log.", ["partition"], registry=registry
        )
        self.notifications = Counter(
            "seismograd_notifications_total",
            "Notifications by target and result.",
            ["target", "result"],
            registry=registry,
        )
        self.notifications_pending = Gauge(
            "seismograd_notifications_pending", "Notifications waiting for delivery.", registry=registry
        )
        self.notification_latency = Histogram(
            "seismograd_notification_latency_seconds",
            "Time from detection to first delivery.",
            buckets=_DELAY_BUCKETS,
            registry=registry,
        )
        self.auth_failures = Counter(
            "seismograd_auth_failures_total", "Refused credentials.", ["reason"], registry=registry
        )
        self.client_dropped_records = Counter(
            "seismograd_client_dropped_records_total",
            "Records that clients dropped, as they reported.",
            ["project", "reason"],
            registry=registry,
        )
        self.client_spool_bytes = Gauge(
            "seismograd_client_spool_bytes",
            "Bytes in clients' spools, as they reported.",
            ["project"],
            registry=registry,
        )
        self.client_hook_duration = ProjectSummary(
            "seismograd_client_hook_duration_seconds",
            "Time that watching took of the training threads, per hooked step, as clients reported.",
            registry,
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """What is known in advance has a series before its first event, so that a rate sees that event."""
        kinds = ("step", "detail", "closed")
        known: list[tuple[Counter, Iterable[tuple[str, ...]]]] = [
            (self.ingest_requests, product(("OpenRun", "StreamSteps", "CloseRun"), ("OK", "INTERNAL", "UNAVAILABLE"))),
            (self.ingest_records, product(("accepted", "duplicate", "rejected"))),
            (self.ingest_refusals, product(("run", "rank", "stream", "catalog"))),
            (self.storage_errors, product(("ingest", "detect", "read", "notify"))),
            (self.rules_reloads, product(("loaded", "refused"))),
            (self.otlp_pushes, product(("exported", "failed"))),
            (self.retention_deleted_runs, product(("age", "size"))),
            (self.maintenance_failures, product(("retention", "summarise", "downsample", "compaction"))),
            (self.compaction_rows, product(kinds)),
            (self.compaction_bytes, product(kinds, ("before", "after"))),
            (self.storage_damaged, product(("segment", "closed_block", "summary"))),
        ]
        for counter, labels in known:
            for values in labels:
                counter.labels(*values)
        self.storage_writable.set(1)
        self.detector_lag.labels(shard="0").set(0)
        self.log_pending_messages.labels(partition="0").set(0)
