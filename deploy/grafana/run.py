"""The dashboard of one run: what its gradients do, and since when."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deploy.grafana.panels import FLEET, RUN, annotated, board, filled, graph, number, project, variable


def run() -> dashboard.Dashboard:
    """The norm with its baseline, the loss, what was broken, skipped and clipped, layers, ranks, the client's cost."""
    made = board(
        "seismograd-run",
        "Seismograd / Run",
        "One run. Its page in seismograd has layers, ranks and the report.",
        project(),
        variable("run", "Run", f"seismograd_run_info{{{FLEET}}}", "run"),
    )
    made = annotated(made, f"seismograd_run_signature_active{{{RUN}}} > 0", "Signatures")
    name = "{{run}}"
    return filled(
        made,
        [
            (
                "Now",
                [
                    number(
                        "Severity",
                        "Of the worst alert: 0 none, 1 info, 2 warning, 3 critical.",
                        (f"max by (run) (seismograd_run_signature_active{{{RUN}}})", name),
                        warn=2,
                        alarm=3,
                    ),
                    number("Step", "Last closed step.", (f"max by (run) (seismograd_run_step{{{RUN}}})", name)),
                    number(
                        "Over baseline",
                        "Gradient norm over its baseline.",
                        (f"max by (run) (seismograd_run_grad_norm_deviation_ratio{{{RUN}}})", name),
                        warn=4,
                        alarm=10,
                    ),
                    number("Loss", "Latest, mean over ranks.", (f"max by (run) (seismograd_run_loss{{{RUN}}})", name)),
                    number(
                        "Silent for",
                        "Since the latest record arrived.",
                        (f"time() - max by (run) (seismograd_run_last_record_timestamp_seconds{{{RUN}}})", name),
                        unit="s",
                        warn=60,
                        alarm=600,
                    ),
                    number(
                        "Age",
                        "Since the run began.",
                        (f"time() - min by (run) (seismograd_run_start_timestamp_seconds{{{RUN}}})", name),
                        unit="s",
                    ),
                ],
            ),
            (
                "Gradient",
                [
                    graph(
                        "Gradient norm",
                        "Before clipping and after unscaling. The window's maximum holds a spike of one step for five minutes.",
                        (f"seismograd_run_grad_norm{{{RUN}}}", "norm {{run}}"),
                        (f"seismograd_run_grad_norm_baseline{{{RUN}}}", "baseline {{run}}"),
                        (f"seismograd_run_grad_norm_window_max{{{RUN}}}", "maximum of 5 min {{run}}"),
                        log=True,
                        span=16,
                    ),
                    graph(
                        "Over baseline",
                        "Gradient norm over its baseline: usual is around 1.",
                        (f"seismograd_run_grad_norm_deviation_ratio{{{RUN}}}", name),
                        log=True,
                    ),
                    graph(
                        "Signatures",
                        "Severity of what fires: 1 info, 2 warning, 3 critical.",
                        (
                            f"max by (run, signature) (seismograd_run_signature_active{{{RUN}}})",
                            "{{signature}} {{run}}",
                        ),
                    ),
                    graph(
                        "Largest element",
                        "Largest finite gradient element, when sampled.",
                        (f"seismograd_run_grad_norm_max{{{RUN}}}", name),
                        log=True,
                    ),
                    graph(
                        "Update over weight",
                        "Norm of the sampled update over that of the weights; 0.001 is common.",
                        (f"seismograd_run_update_ratio{{{RUN}}}", name),
                        log=True,
                    ),
                ],
            ),
            (
                "Training",
                [
                    graph("Loss", "Mean over ranks; a gap where it is NaN.", (f"seismograd_run_loss{{{RUN}}}", name)),
                    graph("Learning rate", "Of the first optimizer.", (f"seismograd_run_learning_rate{{{RUN}}}", name)),
                    graph(
                        "Steps a second",
                        "Closed steps.",
                        (f"sum by (run) (rate(seismograd_run_steps_total{{{RUN}}}[$__rate_interval]))", name),
                        unit="ops",
                    ),
                    graph(
                        "Broken, skipped, clipped",
                        "Share of the steps.",
                        *(
                            (
                                f"sum by (run) (rate(seismograd_run_{kind}_steps_total{{{RUN}}}[$__rate_interval])) / sum by (run) (rate(seismograd_run_steps_total{{{RUN}}}[$__rate_interval]))",
                                f"{kind} {{{{run}}}}",
                            )
                            for kind in ("nonfinite", "skipped", "clipped")
                        ),
                        unit="percentunit",
                    ),
                    graph(
                        "Loss scale",
                        "Of the scaler; halves at each overflow.",
                        (f"seismograd_run_loss_scale{{{RUN}}}", name),
                        log=True,
                    ),
                    graph(
                        "Alerts opened",
                        "Since the run began, by signature.",
                        (
                            f"max by (run, signature) (seismograd_run_signatures_total{{{RUN}}})",
                            "{{signature}} {{run}}",
                        ),
                    ),
                ],
            ),
            (
                "Layers and ranks",
                [
                    graph(
                        "Layers",
                        'Gradient norms of the exported layers ([export] layers = "top_k:8").',
                        (f"seismograd_run_layer_grad_norm{{{RUN}}}", "{{layer}}"),
                        log=True,
                    ),
                    graph(
                        "Layers over usual",
                        "Gradient norm of a layer over what is usual for it.",
                        (f"seismograd_run_layer_grad_norm_deviation_ratio{{{RUN}}}", "{{layer}}"),
                        log=True,
                    ),
                    graph(
                        "Spread over ranks",
                        "Largest over median of the ranks' own norms, when sampled.",
                        (f"seismograd_run_grad_norm_rank_spread_ratio{{{RUN}}}", name),
                    ),
                    graph(
                        "Ranks",
                        "Which report, and how many there are.",
                        (f"seismograd_run_ranks_reporting{{{RUN}}}", "reporting {{run}}"),
                        (f"seismograd_run_world_size{{{RUN}}}", "all {{run}}"),
                    ),
                    graph(
                        "Missing records",
                        "Records that closed steps had to do without.",
                        (
                            f"sum by (run) (increase(seismograd_run_missing_records_total{{{RUN}}}[$__rate_interval]))",
                            name,
                        ),
                    ),
                    graph(
                        "Clocks and cost",
                        "Clock of the rank that is furthest off (s), and the share of step time that watching takes.",
                        (f"seismograd_client_clock_skew_seconds{{{RUN}}}", "clock {{run}}"),
                        (f"seismograd_client_capture_ratio{{{RUN}}}", "cost {{run}}"),
                    ),
                ],
            ),
        ],
    )
