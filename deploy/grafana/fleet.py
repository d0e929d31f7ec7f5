"""The dashboard of all runs: which of them need somebody."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.panels import FLEET, annotated, board, filled, graph, number, project, rows


def fleet() -> dashboard.Dashboard:
    """Runs by state, the table of runs, what has been found, who is missing."""
    made = board("seismograd-fleet", "Seismograd / Fleet", "All runs: which of them need somebody.", project())
    made = annotated(
        made,
        f"sum by (project, run, signature) (changes(seismograd_run_signatures_total{{{FLEET}}}[$__interval])) > 0",
        "Alerts opened",
    )
    running = f'seismograd_run_state{{{FLEET},seismograd_run_state="running"}}'
    by_run = "by (project, run)"
    return filled(
        made,
        [
            (
                "Now",
                [
                    number(
                        "Runs",
                        "Runs on the metrics page, by state.",
                        (
                            f"sum by (seismograd_run_state) (seismograd_run_state{{{FLEET}}})",
                            "{{seismograd_run_state}}",
                        ),
                        span=8,
                    ),
                    number(
                        "Runs that fire",
                        "Runs with an alert of at least a warning.",
                        (f"count(max {by_run} (seismograd_run_signature_active{{{FLEET}}}) >= 2) or vector(0)", "runs"),
                        warn=1,
                        alarm=3,
                    ),
                    number(
                        "Steps a second",
                        "Closed steps of all runs.",
                        (f"sum(rate(seismograd_run_steps_total{{{FLEET}}}[$__rate_interval]))", "steps"),
                        unit="ops",
                    ),
                    number(
                        "Ranks missing",
                        "Ranks that the last closed steps had to do without.",
                        (
                            f"sum(seismograd_run_world_size{{{FLEET}}} - seismograd_run_ranks_reporting{{{FLEET}}})",
                            "ranks",
                        ),
                        warn=1,
                    ),
                    number(
                        "Runs not exported",
                        "Beyond the limit of the metrics page; the rules cannot see them.",
                        ('sum(seismograd_exporter_truncated_runs{job=~"$job"})', "runs"),
                        warn=1,
                    ),
                ],
            ),
            (
                "Runs",
                [
                    rows(
                        "Live runs",
                        "Severity: 0 none, 1 info, 2 warning, 3 critical.",
                        (f"max {by_run} (seismograd_run_step{{{FLEET}}})", "Step"),
                        (f"max {by_run} (seismograd_run_grad_norm{{{FLEET}}})", "Gradient norm"),
                        (f"max {by_run} (seismograd_run_grad_norm_deviation_ratio{{{FLEET}}})", "Over baseline"),
                        (f"max {by_run} (seismograd_run_signature_active{{{FLEET}}})", "Severity"),
                        (f"max {by_run} (seismograd_run_loss{{{FLEET}}})", "Loss"),
                        (
                            f"time() - max {by_run} (seismograd_run_last_record_timestamp_seconds{{{FLEET}}})",
                            "Silent for (s)",
                        ),
                    ),
                ],
            ),
            (
                "Over time",
                [
                    graph(
                        "Signatures an hour",
                        "Alerts opened within an hour, by signature.",
                        (
                            f"sum by (signature) (increase(seismograd_run_signatures_total{{{FLEET}}}[1h]))",
                            "{{signature}}",
                        ),
                    ),
                    graph(
                        "Furthest above their baseline",
                        "The ten runs whose norm is the most times its baseline.",
                        (
                            f"topk(10, max {by_run} (seismograd_run_grad_norm_deviation_ratio{{{FLEET}}}))",
                            "{{project}}/{{run}}",
                        ),
                        log=True,
                    ),
                    graph(
                        "Runs by state",
                        "Ended runs leave after a quarter of an hour.",
                        (
                            f"sum by (seismograd_run_state) (seismograd_run_state{{{FLEET}}})",
                            "{{seismograd_run_state}}",
                        ),
                    ),
                    graph(
                        "Steps a second",
                        "By project.",
                        (
                            f"sum by (project) (rate(seismograd_run_steps_total{{{FLEET}}}[$__rate_interval]))",
                            "{{project}}",
                        ),
                        unit="ops",
                    ),
                    graph(
                        "Broken steps",
                        "Share of steps with NaN or Inf, by run.",
                        (
                            f"project_run:seismograd_run_nonfinite_steps_per_steps:ratio_rate5m{{{FLEET}}}",
                            "{{project}}/{{run}}",
                        ),
                        unit="percentunit",
                    ),
                    graph(
                        "Silence",
                        "How long ago the latest record of a running run arrived.",
                        (
                            f"time() - max {by_run} (seismograd_run_last_record_timestamp_seconds{{{FLEET}}}) and on (project, run) max {by_run} ({running}) == 1",
                            "{{project}}/{{run}}",
                        ),
                        unit="s",
                    ),
                    graph(
                        "Records that clients dropped",
                        "Nothing is what should be here.",
                        (
                            f"sum by (project, reason) (increase(seismograd_client_dropped_records_total{{{FLEET}}}[$__rate_interval])) or vector(0)",
                            "{{project}} {{reason}}",
                        ),
                    ),
                    graph(
                        "Clients' spools",
                        "Bytes that wait on the disks of training hosts.",
                        (f"sum by (project) (seismograd_client_spool_bytes{{{FLEET}}})", "{{project}}"),
                        unit="bytes",
                    ),
                    graph(
                        "Cost of watching",
                        "Share of the step time that capturing takes, of the rank whom it costs most.",
                        (f"topk(10, max {by_run} (seismograd_client_capture_ratio{{{FLEET}}}))", "{{project}}/{{run}}"),
                        unit="percentunit",
                    ),
                ],
            ),
        ],
    )
