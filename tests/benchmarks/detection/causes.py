"""Whether post-mortems of exploding runs name the cause: among their first two, what was really done to the run.

    python -m tests.benchmarks.detection.causes [--traces DIR --manifest FILE]

The table says for each family of runs, of ours and of other collections in the same format, what was done. Where two
names mean the same (a rate that is too high from the first step on is also a missing warm-up), both are right. A family
that is not in it is told apart by its fault.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from seismograd_server.alerts import lifecycle
from seismograd_server.model import Alert, ClosedBlock, Run, RunKey, RunState
from seismograd_server.reading.history import History, LayerWindow, NonfiniteHit, RankWindow, Series
from seismograd_server.reading.layers import WEIGHTS_BEFORE, samples_of
from seismograd_server.report.build import build
from seismograd_server.report.contents import Cause, CauseKind
from seismograd_server.report.focus import find_focus
from seismograd_server.rules.backtest import backtest
from seismograd_server.rules.ruleset import RunRules
from seismograd_server.transfer.trace_blocks import blocks
from seismograd_server.transfer.traces import Trace, read_trace
from tests.benchmarks.detection.__main__ import SHIPPED_CADENCE
from tests.benchmarks.detection.catalogue import runs
from tests.benchmarks.detection.generating import cache_folder, generate_once
from tests.benchmarks.detection.scoring import Labelled, read_manifest
from tests.benchmarks.measure import table

RATE, WARM_UP, INIT = CauseKind.LEARNING_RATE, CauseKind.MISSING_WARM_UP, CauseKind.INITIALISATION
RECURRENCE, BATCH, WEIGHTS = CauseKind.RECURRENT_GAIN, CauseKind.BAD_BATCH, CauseKind.WEIGHT_CORRUPTION
PRECISION, TARGET, BOOTSTRAP = (
    CauseKind.PRECISION_OVERFLOW,
    CauseKind.TARGET_OUTLIER,
    CauseKind.BOOTSTRAPPED_TARGETS,
)

# What was done to the runs of a family.
FAMILIES: Mapping[str, frozenset[CauseKind]] = {
    # A rate that is raised, at once or over hundreds of steps, or that a warm-up leads too high.
    **dict.fromkeys(
        ("x_rate_bump", "x_rate_ramp", "x_high_rate", "x_lr_bump", "x_lr_ramp", "x_mom_slow", "x_slow_mom", "x_edge"),
        frozenset({RATE}),
    ),
    **dict.fromkeys(("x_lstm_highlr", "x_tf_highlr", "x_bigtf_sgdramp", "x_long_late"), frozenset({RATE})),
    **dict.fromkeys(("x_after_decay", "x_lm_lrbump", "x_rnn_bump"), frozenset({RATE})),
    "x_loose_clip": frozenset({CauseKind.LOOSE_CLIPPING, TARGET}),
    "x_summed": frozenset({RATE, TARGET}),  # a loss that is summed is a rate that is as many times as high
    "x_rnn_highlr": frozenset({RATE, RECURRENCE}),
    "x_no_warm_up": frozenset({WARM_UP, RATE}),
    "x_bigtf_nowarm": frozenset({WARM_UP, RATE}),
    "x_init": frozenset({INIT}),
    "x_init_mlp": frozenset({INIT}),
    "x_rnn_rec": frozenset({RECURRENCE}),
    "x_recurrent": frozenset({RECURRENCE, RATE}),  # both: a gain of one, under a rate that rises
    "x_td": frozenset({BOOTSTRAP}),
    "x_td_slow": frozenset({BOOTSTRAP}),
    "x_bootstrap": frozenset({BOOTSTRAP}),
    # Half precision, and what drives it over its edge.
    "x_amp": frozenset({PRECISION, RATE}),
    "x_overflow": frozenset({PRECISION, TARGET}),
}
# What a fault does, in families that are not in the table.
FAULTS: Mapping[str, frozenset[CauseKind]] = {
    "lr_bump": frozenset({RATE}),
    "bad_batch": frozenset({BATCH}),
    "rank_grad_scale": frozenset({BATCH}),
    "bad_target": frozenset({TARGET}),
    "weight_scale": frozenset({WEIGHTS}),
    "loss_sum": frozenset({TARGET}),
}


def truth(run: Labelled) -> frozenset[CauseKind]:
    """What was done to a run; empty = not known."""
    if run.family in FAMILIES:
        return FAMILIES[run.family]
    return frozenset().union(*(FAULTS.get(fault, frozenset()) for fault in run.faults.split("+")))


def causes_of(trace: Trace, thin: int) -> tuple[Cause, ...]:
    """The causes that the post-mortem of a run names, written from what a server would have stored of it."""
    return build(history_of(trace, thin), float(trace.count)).causes


def history_of(trace: Trace, thin: int) -> History:
    """A trace as a report reads it: its closed steps, the alerts that the detectors raised, the window around them."""
    (block,) = blocks(trace, thin=thin, length=trace.count)
    run = _run(trace)
    alerts = _alerts(block, run)
    series = _series(block)
    focus = find_focus(series, alerts)
    rows = slice(max(0, series.row(focus.first_step)), series.row(focus.last_step) + 1)
    before = slice(max(0, rows.start - WEIGHTS_BEFORE), rows.stop)
    return History(
        run=run,
        series=series,
        layers=_layers(block, rows),
        weights=samples_of(block.layout.names, block.steps[before], block.weight_norms[before]),
        rank_window=_ranks(block, rows),
        nonfinite=tuple(
            NonfiniteHit(
                int(block.steps[each.row]),
                block.layout.names[each.layer],
                each.rank,
                each.nan_count,
                each.positive_inf_count,
                each.negative_inf_count,
            )
            for each in block.nonfinite_layers
            if rows.start <= each.row < rows.stop
        ),
        alerts=alerts,
    )


def _run(trace: Trace) -> Run:
    return Run(
        run_id=1,
        key=RunKey("benchmark", trace.name),
        state=RunState.FAILED,
        started_at=0.0,
        last_record_at=float(trace.count),
        ended_at=float(trace.count),
        failure_reason="",
        config_json="",
        tags={},
        framework="",
        strategy="",
        attempts=1,
        world_size=len(trace.local_norms),
        last_step=trace.count - 1,
        closed_steps=trace.count,
    )


def _alerts(block: ClosedBlock, run: Run) -> tuple[Alert, ...]:
    found = backtest([block], RunRules()).findings
    alerts: dict[str, Alert] = {}
    for transition in lifecycle.advance((), (), found, run, float(block.count)):
        alerts[transition.alert.alert_id] = transition.alert
    return tuple(sorted(alerts.values(), key=lambda alert: alert.opened_step))


def _series(block: ClosedBlock) -> Series:
    return Series(
        steps=block.steps,
        times=block.times,
        attempts=np.ones(block.count, np.int64),
        norm=block.global_norm,
        nonfinite=block.nonfinite,
        flags=block.flags,
        sources=block.sources,
        loss=block.loss,
        loss_known=block.loss_known,
        learning_rate=block.learning_rate,
        loss_scale=block.loss_scale,
        clip_threshold=block.clip_threshold,
        clip_coefficient=block.clip_coefficient,
        step_seconds=block.step_seconds,
        ranks_present=block.ranks_present.sum(axis=1).astype(np.int64),
    )


def _layers(block: ClosedBlock, rows: slice) -> LayerWindow:
    layout = block.layout
    return LayerWindow(
        names=layout.names,
        module_types=layout.module_types,
        depths=layout.depths,
        numels=layout.numels,
        steps=block.steps[rows],
        norms=block.layer_norms[rows],
        weight_norms=block.weight_norms[rows],
        update_norms=block.update_norms[rows],
    )


def _ranks(block: ClosedBlock, rows: slice) -> RankWindow:
    return RankWindow(block.steps[rows], block.rank_loss[rows], block.rank_loss_known[rows], block.rank_norm[rows])


def print_scores(labelled: Iterable[Labelled], traces: Mapping[str, Trace], thin: int) -> None:
    """How often the cause is first, and among the first two; and what was named instead."""
    first = second = 0
    by_family: dict[str, Counter[str]] = defaultdict(Counter)
    judged = [run for run in labelled if run.label == "exploding" and truth(run)]
    for run in judged:
        named = [cause.kind for cause in causes_of(traces[run.run_id], thin)]
        place = next((place for place, kind in enumerate(named) if kind in truth(run)), len(named))
        first, second = first + (place < 1), second + (place < 2)
        by_family[run.family]["right" if place < 2 else "+".join(named[:2]) or "nothing"] += 1
    table(
        f"Causes of {len(judged)} explosions, samples every {thin} steps: "
        f"first {first / len(judged):.2f}, among the first two {second / len(judged):.2f}",
        ["family", "what was done", "runs", "right", "named instead"],
        [
            [
                family,
                ", ".join(sorted(truth(next(run for run in judged if run.family == family)))),
                f"{counts.total()}",
                f"{counts['right']}",
                ", ".join(name for name in counts if name != "right"),
            ]
            for family, counts in sorted(by_family.items())
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, with every sample and with those that clients ship."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=cache_folder())
    parser.add_argument("--manifest", type=Path)
    options = parser.parse_args(arguments)
    manifest = options.manifest or generate_once(runs(), options.traces)[0]
    labelled = read_manifest(manifest)
    traces = {run.run_id: read_trace(options.traces / f"{run.run_id}.npz") for run in labelled}
    for thin in (1, SHIPPED_CADENCE):
        print_scores(labelled, traces, thin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
