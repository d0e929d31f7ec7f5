"""From the settings to what each part is told: whom to notify, how to judge, how much to export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from seismograd_server.alerts.asking import CapturePolicy
from seismograd_server.alerts.lifecycle import LifecyclePolicy
from seismograd_server.config import Kept, Settings, secret_of
from seismograd_server.detect.align import Patience
from seismograd_server.errors import ConfigError
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.ingest.log import LogSettings
from seismograd_server.instruments import Instruments
from seismograd_server.maintenance import Chore
from seismograd_server.maintenance.compaction import Compaction, CompactionSettings
from seismograd_server.maintenance.downsampling import Downsampling
from seismograd_server.maintenance.retention import Keep, Retention, RetentionPolicy
from seismograd_server.maintenance.summarising import Summarising
from seismograd_server.metrics import ExportLimits
from seismograd_server.metrics.otlp import OtlpExport, OtlpSettings, Outcome
from seismograd_server.model import Snapshot
from seismograd_server.notify import DeliveryPolicy, Target, TargetConfig, Words, build_targets
from seismograd_server.pipeline import FailurePoint, PipelineSettings
from seismograd_server.rules.file import RulesFile, read_rules
from seismograd_server.rules.ruleset import Rules
from seismograd_server.store.database import Database

# A fast run is judged five times a second: well within the second in which an alert is told.
_PACE_SECONDS = 0.2


def pipeline_settings(settings: Settings, rules: RulesFile | None) -> PipelineSettings:
    """How steps are closed and alerts judged."""
    shipped = Rules()
    return PipelineSettings(
        patience=Patience(close_wait_seconds=settings.close_wait_seconds),
        lost_after_seconds=settings.lost_after_seconds,
        checkpoint_seconds=settings.checkpoint_seconds,
        view_seconds=settings.export.ended_seconds,
        view_layers=settings.export.layers is not None,
        rules=(lambda: shipped) if rules is None else rules.current,
        policy=LifecyclePolicy(hold_seconds=settings.notify.hold_seconds),
        pace_seconds=_PACE_SECONDS,
        standing_bytes=settings.standing_bytes,
        capture=CapturePolicy(
            automatic=settings.capture.automatic,
            steps_before=settings.capture.steps_before,
            steps_after=settings.capture.steps_after,
            steps_an_hour=settings.capture.steps_an_hour,
        ),
    )


def target_configs(settings: Settings) -> list[TargetConfig]:
    """Whom to notify.

    Raises:
        ConfigError: a secret that cannot be read.
    """
    configs = [
        TargetConfig(
            kind="alertmanager",
            url=each.url,
            name=each.name,
            bearer_token=secret_of(each.bearer_token, each.bearer_token_file, "notify.alertmanagers.bearer_token"),
            ca_file=each.ca_file,
            labels=each.labels,
            projects=each.projects,
        )
        for each in settings.notify.alertmanagers
    ]
    configs += [
        TargetConfig(
            kind="webhook",
            url=hook.url,
            name=hook.name,
            secret=secret_of(hook.secret, hook.secret_file, "notify.webhooks.secret"),
            ca_file=hook.ca_file,
            allow_hosts=hook.allow_hosts,
            projects=hook.projects,
        )
        for hook in settings.notify.webhooks
    ]
    configs += [
        TargetConfig(
            kind="grafana",
            url=each.url,
            name=each.name,
            bearer_token=secret_of(each.token, each.token_file, "notify.grafana.token"),
            ca_file=each.ca_file,
            allow_hosts=each.allow_hosts,
            tags=each.tags,
            dashboard_uid=each.dashboard_uid,
            projects=each.projects,
        )
        for each in settings.notify.grafana
    ]
    configs += [
        TargetConfig(
            kind="chat",
            url=secret_of(each.url, each.url_file, "notify.chats.url"),
            name=each.name,
            allow_hosts=each.allow_hosts,
            projects=each.projects,
        )
        for each in settings.notify.chats
    ]
    return configs


def notification_targets(settings: Settings) -> list[Target]:
    """Whom to notify, each ready to be told.

    Raises:
        ConfigError: one that cannot be used, or a template that is wrong.
    """
    notify = settings.notify
    words = Words(notify.templates.title, notify.templates.body)
    return build_targets(target_configs(settings), notify.resend_seconds, notify.hold_resolved_seconds, words)


def try_out(settings: Settings) -> None:
    """Make what a start makes of the configuration, and throw it away: nothing listens, and nothing is stored.

    Raises:
        ConfigError: a target, a template, a secret, a collector's address or rules with which no server would start.
    """
    notification_targets(settings)
    otlp_settings(settings)
    if settings.rules.file is not None:
        read_rules(settings.rules.file)


def log_settings(settings: Settings) -> LogSettings:
    """How frames are collected, and what a client may send."""
    limits = IngestLimits(max_frame_bytes=settings.max_frame_bytes)
    limits = replace(limits, max_message_bytes=max(limits.max_message_bytes, limits.max_frame_bytes))
    return LogSettings(settings.tick_milliseconds / 1000, settings.max_inflight_bytes, limits)


def delivery_policy(settings: Settings) -> DeliveryPolicy:
    """How patient deliveries are."""
    return DeliveryPolicy(resend_seconds=settings.notify.resend_seconds)


def export_limits(settings: Settings) -> ExportLimits:
    """How much `/metrics` shows."""
    export = settings.export
    return ExportLimits(runs=export.runs, ended_seconds=export.ended_seconds, layers=export.layers)


def otlp_export(
    settings: Settings, snapshot: Callable[[], Snapshot], clock: Callable[[], float], instruments: Instruments
) -> OtlpExport | None:
    """What pushes to a collector; None = nobody asked for it.

    Raises:
        ConfigError: as `otlp_settings`, or the library is not there.
    """
    found = otlp_settings(settings)
    if found is None:
        return None
    pushes = instruments.otlp_pushes

    def count(outcome: Outcome) -> None:
        pushes.labels(result=outcome).inc()

    return OtlpExport(found, snapshot, export_limits(settings), clock, count)


def otlp_settings(settings: Settings) -> OtlpSettings | None:
    """To which collector the metrics are pushed; None = to none.

    Raises:
        ConfigError: an address that is none, or a file of headers that cannot be read.
    """
    otlp = settings.export.otlp
    if not otlp.endpoint:
        return None
    parts = urlsplit(otlp.endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not parts.path.strip("/"):
        example = "http://collector:4318/v1/metrics"
        raise ConfigError(f"export.otlp.endpoint: {otlp.endpoint!r} is no whole address such as {example}")
    headers = {} if otlp.headers_file is None else _headers(otlp.headers_file)
    return OtlpSettings(otlp.endpoint, otlp.interval_seconds, otlp.timeout_seconds, headers, otlp.ca_file)


def _headers(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"export.otlp.headers_file {path} cannot be read: {error}") from error
    headers = {}
    for number, line in enumerate(lines, start=1):
        name, colon, value = line.partition(":")
        if line.strip() and (not colon or not name.strip() or not value.strip()):
            # The line is not repeated: it may be a secret.
            raise ConfigError(f"export.otlp.headers_file {path}: line {number} is not `name: value`")
        if line.strip():
            headers[name.strip()] = value.strip()
    return headers


def retention_policy(settings: Settings) -> RetentionPolicy:
    """What is kept of each project."""
    every = settings.retention

    def keep(own: Kept) -> Keep:
        days = every.keep_days if own.keep_days is None else own.keep_days
        size_bytes = every.keep_bytes if own.keep_bytes is None else own.keep_bytes
        detail_days = every.detail_days if own.detail_days is None else own.detail_days
        return Keep(days or None, size_bytes or None, detail_days or None)

    return RetentionPolicy(keep(Kept()), {name: keep(each) for name, each in every.projects.items()})


def chores(
    database: Database, settings: Settings, instruments: Instruments, failure_point: FailurePoint
) -> list[Chore]:
    """What is done to stored data, in the order in which it is done: summaries see what compaction rounds later."""
    return [
        Retention(database, retention_policy(settings), instruments, failure_point),
        Summarising(database, failure_point),
        Downsampling(database, retention_policy(settings), instruments, failure_point),
        Compaction(database, instruments, compaction_settings(settings), failure_point),
    ]


def compaction_settings(settings: Settings) -> CompactionSettings:
    """How exact norms are kept."""
    storage = settings.storage
    return CompactionSettings(storage.mantissa_bits, frozenset(storage.lossless_projects))
