"""The dashboard of the server: whether it takes what comes, keeps it, judges it in time and tells it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, timeseries

from deploy.grafana.panels import JOB, SERVER, annotated, board, filled, graph, number, variable


def server() -> dashboard.Dashboard:
    """Ingest, storage, detection, notifications, the process."""
    made = board(
        "seismograd-server",
        "Seismograd / Server",
        "The server itself.",
        variable("instance", "Instance", f"seismograd_build_info{{{JOB}}}", "instance"),
    )
    made = annotated(made, f"changes(process_start_time_seconds{{{SERVER}}}[$__interval]) > 0", "Restarts")
    here = "{{instance}}"

    def rate(family: str, by: str = "instance") -> str:
        return f"sum by ({by}) (rate(seismograd_{family}{{{SERVER}}}[$__rate_interval]))"

    def quantile(share: float, family: str) -> str:
        return f"histogram_quantile({share}, {rate(f'{family}_bucket', 'le')})"

    def latency(title: str, says: str, family: str, *, exemplars: bool = False) -> timeseries.Panel:
        return graph(
            title,
            says,
            *((quantile(share, family), f"p{round(share * 100)}") for share in (0.5, 0.9, 0.99)),
            unit="s",
            exemplars=exemplars,
        )

    return filled(
        made,
        [
            (
                "Now",
                [
                    number(
                        "Version",
                        "Of each server.",
                        (
                            f"max by (instance, version, storage) (seismograd_build_info{{{SERVER}}})",
                            "{{instance}} {{version}} {{storage}}",
                        ),
                    ),
                    number(
                        "Takes records",
                        "0 while a full or failing disk refuses them.",
                        (f"min(seismograd_storage_writable{{{SERVER}}})", "writable"),
                    ),
                    number(
                        "Detection behind",
                        "Age of the oldest record that waits to be judged.",
                        (f"max(seismograd_detector_lag_seconds{{{SERVER}}})", "lag"),
                        unit="s",
                        warn=5,
                        alarm=30,
                    ),
                    number(
                        "Notifications waiting",
                        "Not yet delivered.",
                        (f"sum(seismograd_notifications_pending{{{SERVER}}})", "pending"),
                        warn=10,
                    ),
                    number(
                        "Size",
                        "Of the database.",
                        (f"max(seismograd_storage_size_bytes{{{SERVER}}})", "size"),
                        unit="bytes",
                    ),
                    number(
                        "Damaged rows",
                        "Since the start; left out, the rest goes on.",
                        (f"sum(seismograd_storage_damaged_total{{{SERVER}}})", "rows"),
                        warn=1,
                    ),
                ],
            ),
            (
                "Ingest",
                [
                    graph(
                        "Requests",
                        "By status.",
                        (rate("ingest_requests_total", "method, code"), "{{method}} {{code}}"),
                        unit="reqps",
                    ),
                    graph(
                        "Records",
                        "By what became of them; duplicates are a resent spool.",
                        (rate("ingest_records_total", "result"), "{{result}}"),
                        unit="ops",
                    ),
                    graph(
                        "Failed requests",
                        "Share that failed for reasons of the server.",
                        (
                            'instance:seismograd_ingest_requests_failed_per_requests:ratio_rate5m{instance=~"$instance"}',
                            "5 min {{instance}}",
                        ),
                        (
                            'instance:seismograd_ingest_requests_failed_per_requests:ratio_rate1h{instance=~"$instance"}',
                            "1 h {{instance}}",
                        ),
                        unit="percentunit",
                    ),
                    latency(
                        "Frame to durable",
                        "Exemplars lead to the run that sent a slow one.",
                        "ingest_request_duration_seconds",
                        exemplars=True,
                    ),
                    latency(
                        "Record to durable",
                        "From a record's own stamp: with the client's batching and spool.",
                        "ingest_record_delay_seconds",
                    ),
                    graph(
                        "In flight",
                        "Bytes received and not yet durable, and how many may be.",
                        (f"seismograd_ingest_inflight_bytes{{{SERVER}}}", "in flight {{instance}}"),
                        (f"seismograd_ingest_limit_bytes{{{SERVER}}}", "limit {{instance}}"),
                        unit="bytes",
                    ),
                    graph(
                        "Standing",
                        "Bytes that live runs, their ranks and streams hold, about, and how many may be; beyond, newcomers are refused.",
                        (f"seismograd_ingest_standing_bytes{{{SERVER}}}", "standing {{instance}}"),
                        (f"seismograd_ingest_standing_limit_bytes{{{SERVER}}}", "limit {{instance}}"),
                        unit="bytes",
                    ),
                    graph(
                        "Waiting frames",
                        "In the log.",
                        (f"seismograd_log_pending_messages{{{SERVER}}}", "{{instance}} {{partition}}"),
                    ),
                    graph(
                        "Steps a second by project",
                        "Each project's share of the load.",
                        (
                            f"sum by (project) (rate(seismograd_run_steps_total{{{JOB}}}[$__rate_interval]))",
                            "{{project}}",
                        ),
                        unit="ops",
                    ),
                    graph(
                        "Time in hooks",
                        "Seconds of training threads that watching took, per hooked step.",
                        (
                            f"sum by (project) (rate(seismograd_client_hook_duration_seconds_sum{{{SERVER}}}[$__rate_interval])) / sum by (project) (rate(seismograd_client_hook_duration_seconds_count{{{SERVER}}}[$__rate_interval]))",
                            "{{project}}",
                        ),
                        unit="s",
                    ),
                ],
            ),
            (
                "Storage",
                [
                    latency("Commit", "Duration of the ingest transaction.", "storage_commit_duration_seconds"),
                    graph(
                        "Size and room",
                        "Of the database and its volume; dashed, what is left in four hours at this pace.",
                        (f"seismograd_storage_size_bytes{{{SERVER}}}", "size {{instance}}"),
                        (f"seismograd_storage_free_bytes{{{SERVER}}}", "free {{instance}}"),
                        (
                            f"predict_linear(seismograd_storage_free_bytes{{{SERVER}}}[$__range], 4 * 3600)",
                            "free in 4 h {{instance}}",
                        ),
                        unit="bytes",
                    ),
                    graph("Errors", "Failed operations.", (rate("storage_errors_total", "op"), "{{op}}"), unit="ops"),
                    graph(
                        "Maintenance",
                        "Seconds of chores in a second.",
                        (rate("maintenance_duration_seconds_sum", "chore"), "{{chore}}"),
                        unit="percentunit",
                    ),
                    graph(
                        "Compaction",
                        "Rows merged in a second.",
                        (rate("compaction_rows_total", "kind"), "{{kind}}"),
                        unit="ops",
                    ),
                    graph(
                        "Retention",
                        "Runs deleted, by reason.",
                        (rate("retention_deleted_runs_total", "reason"), "{{reason}}"),
                        unit="ops",
                    ),
                ],
            ),
            (
                "Detection and notification",
                [
                    graph("Steps judged", "A second.", (rate("detector_evaluations_total"), here), unit="ops"),
                    graph(
                        "Detection behind",
                        "Age of the oldest record that waits.",
                        (f"seismograd_detector_lag_seconds{{{SERVER}}}", "{{instance}} {{shard}}"),
                        unit="s",
                    ),
                    graph(
                        "Detectors set aside",
                        "Faults of seismograd; none is usual.",
                        (
                            f"sum by (signature) (seismograd_detector_failures_total{{{SERVER}}}) or vector(0)",
                            "{{signature}}",
                        ),
                    ),
                    graph(
                        "Notifications",
                        "By target and result.",
                        (rate("notifications_total", "target, result"), "{{target}} {{result}}"),
                        unit="ops",
                    ),
                    latency("Detected to delivered", "First delivery.", "notification_latency_seconds"),
                    graph(
                        "Refused credentials",
                        "By reason; none is usual.",
                        (f"{rate('auth_failures_total', 'reason')} or vector(0)", "{{reason}}"),
                        unit="ops",
                    ),
                ],
            ),
            (
                "Process",
                [
                    graph(
                        "CPU", "Cores in use.", (f"rate(process_cpu_seconds_total{{{SERVER}}}[$__rate_interval])", here)
                    ),
                    graph("Memory", "Resident.", (f"process_resident_memory_bytes{{{SERVER}}}", here), unit="bytes"),
                    graph(
                        "Descriptors",
                        "Open, and how many may be.",
                        (f"process_open_fds{{{SERVER}}}", "open {{instance}}"),
                        (f"process_max_fds{{{SERVER}}}", "limit {{instance}}"),
                    ),
                ],
            ),
        ],
    )
