"""The families about runs: each name that is promised, its help, and the series that one run gives to it.

Labels are `project` and `run`, and where said one more. Never a rank (there may be ten thousand); a layer only in the
two families of layers, which are empty unless they are asked for.
A number that is not known has no series, because 0 would be a lie and NaN is data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from seismograd_server.detect.tally import window_max
from seismograd_server.display.text import printable
from seismograd_server.model import RunState, RunView, Signature, Tally, Visibility

# Beyond this a run would cost its Prometheus more than its worth. What is fixed needs 32, and each signature two: a
# test holds the sum against it.
SERIES_PER_RUN = 64

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
# Made once, because a page of a hundred thousand series has no time for it.
_INFO = ("name", "framework", "strategy", "dtype", "attempt")
_STATES = [(state, f',seismograd_run_state="{state.value}"') for state in RunState]
_SIGNATURES = [(f',signature="{signature.value}"', signature) for signature in Signature]
_ARMED = Visibility.ARMED  # to look it up in its class costs more than to compare

# A series of one run in a family: its labels beyond `project` and `run` as they stand on the page, and its value.
Series = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Head:
    """What is written once. `name` is that of the samples, so that of a counter ends in `_total`."""

    name: str
    kind: str  # "gauge", "counter" or "stateset"
    help: str


@dataclass(frozen=True, slots=True)
class Scalar(Head):
    """A family with at most one series for each run; None = it is not known."""

    value: Callable[[RunView], float | None]


@dataclass(frozen=True, slots=True)
class Family(Head):
    """A family with several series for each run."""

    read: Callable[[RunView], Iterable[Series]]
    labels: tuple[str, ...]  # beyond project and run


def label_value(text: str) -> str:
    """A label's value between its quotes: visible, encodable as UTF-8, and unable to end the quotes or the line."""
    return printable(text).translate(_ESCAPES)


def _gauge(name: str, help_text: str, value: Callable[[RunView], float | None]) -> Scalar:
    return Scalar(name, "gauge", help_text, value)


def _counter(name: str, help_text: str, value: Callable[[Tally], int]) -> Scalar:
    return Scalar(name, "counter", help_text, lambda view: value(view.tally))


def _info(view: RunView) -> Iterable[Series]:
    run = view.run
    dtype = view.dtype or run.tags.get("dtype", "")
    values = (run.tags.get("name", run.key.run), run.framework, run.strategy, dtype, str(run.attempts))
    return (("".join(f',{name}="{label_value(value)}"' for name, value in zip(_INFO, values, strict=True)), 1.0),)


def _state(view: RunView) -> Iterable[Series]:
    return [(labels, view.run.state is state) for state, labels in _STATES]


def _deviation(view: RunView) -> float | None:
    norm, baseline = view.tally.grad_norm, view.tally.grad_norm_baseline
    return norm / baseline if norm is not None and baseline is not None and baseline > 0 else None


def _skipped(view: RunView) -> Iterable[Series]:
    return (
        (',reason="found_inf"', view.tally.skipped_found_inf),
        (',reason="user"', view.tally.skipped_user),
    )


def _signatures(view: RunView) -> list[tuple[str, Signature]]:
    """Those that fire, that the run has had, or that are armed, with their labels."""
    shown: set[str] = {status.signature for status in view.statuses if status.visibility is _ARMED}
    shown.update(view.active, view.tally.signatures)
    return [each for each in _SIGNATURES if each[1] in shown]


def _signatures_total(view: RunView) -> Iterable[Series]:
    counts = view.tally.signatures
    return [(labels, counts.get(each, 0)) for labels, each in _signatures(view)]


def _signature_active(view: RunView) -> Iterable[Series]:
    active = view.active
    return [(labels, active.get(each, 0)) for labels, each in _signatures(view)]


RUN_STATE: tuple[Scalar | Family, ...] = (
    Family("seismograd_run_info", "gauge", "What is known of a run; always 1.", _info, _INFO),
    Family(
        "seismograd_run_state",
        "stateset",
        "Where a run is in its life: 1 for the state that it is in.",
        _state,
        ("seismograd_run_state",),
    ),
    _gauge("seismograd_run_step", "Last closed step.", lambda view: view.tally.step),
    _gauge("seismograd_run_start_timestamp_seconds", "When the run began.", lambda view: view.run.started_at),
    _gauge(
        "seismograd_run_last_record_timestamp_seconds",
        "When its last record arrived.",
        lambda view: view.run.last_record_at,
    ),
    _gauge("seismograd_run_world_size", "Ranks of its latest launch.", lambda view: view.run.world_size),
    _gauge(
        "seismograd_run_ranks_reporting",
        "Ranks that reported the last closed step.",
        lambda view: view.tally.ranks_reporting,
    ),
    _gauge(
        "seismograd_run_lowest_missing_rank",
        "Number of the lowest rank that did not report the last closed step; no series while all do.",
        lambda view: view.tally.lowest_missing_rank,
    ),
)

CLIENT: tuple[Scalar | Family, ...] = (
    _gauge(
        "seismograd_client_clock_skew_seconds",
        "How far the clock of the rank that is farthest off is ahead of the server's.",
        lambda view: view.clock_skew_seconds,
    ),
    _gauge(
        "seismograd_client_capture_ratio",
        "Share of its step time that capturing costs the training thread of the rank whom it costs most.",
        lambda view: view.capture_share,
    ),
)

GRADIENT: tuple[Scalar | Family, ...] = (
    _gauge(
        "seismograd_run_grad_norm",
        "Latest finite L2 norm of the whole gradient, before clipping and after unscaling.",
        lambda view: view.tally.grad_norm,
    ),
    _gauge(
        "seismograd_run_grad_norm_max",
        "Largest finite gradient element by magnitude, when sampled.",
        lambda view: view.tally.grad_norm_max,
    ),
    _gauge(
        "seismograd_run_grad_norm_baseline",
        "Robust baseline of the gradient norm.",
        lambda view: view.tally.grad_norm_baseline,
    ),
    _gauge("seismograd_run_grad_norm_deviation_ratio", "Gradient norm over its baseline.", _deviation),
    _gauge(
        "seismograd_run_grad_norm_window_max",
        "Largest gradient norm in the latest five minutes of the run's own clock.",
        lambda view: window_max(view.tally),
    ),
    _gauge(
        "seismograd_run_grad_norm_rank_spread_ratio",
        "Largest over median of the ranks' norms before the all-reduce, when sampled.",
        lambda view: view.tally.rank_spread_ratio,
    ),
    _gauge("seismograd_run_loss", "Latest loss, mean over ranks; NaN when it is.", lambda view: view.tally.loss),
    _gauge("seismograd_run_loss_scale", "Scale of the loss scaler.", lambda view: view.tally.loss_scale),
    _gauge("seismograd_run_learning_rate", "Latest learning rate.", lambda view: view.tally.learning_rate),
    _gauge(
        "seismograd_run_update_ratio",
        "Norm of the last sampled update over the norm of the weights.",
        lambda view: view.tally.update_ratio,
    ),
)

COUNTERS: tuple[Scalar | Family, ...] = (
    _counter("seismograd_run_steps_total", "Closed steps.", lambda tally: tally.steps),
    _counter(
        "seismograd_run_nonfinite_steps_total",
        "Steps with NaN or Inf in a gradient that the loss scaler does not explain.",
        lambda tally: tally.nonfinite_steps,
    ),
    Family(
        "seismograd_run_skipped_steps_total",
        "counter",
        "Steps that changed no weights, by reason.",
        _skipped,
        ("reason",),
    ),
    _counter("seismograd_run_clipped_steps_total", "Steps whose gradient was clipped.", lambda t: t.clipped_steps),
    _counter(
        "seismograd_run_missing_records_total",
        "Records that a closed step had to do without.",
        lambda tally: tally.missing_records,
    ),
)

DETECTION: tuple[Scalar | Family, ...] = (
    Family(
        "seismograd_run_signatures_total", "counter", "Alerts opened, by signature.", _signatures_total, ("signature",)
    ),
    Family(
        "seismograd_run_signature_active",
        "gauge",
        "Severity of the firing alert of a signature: 0 none, 1 info, 2 warning, 3 critical.",
        _signature_active,
        ("signature",),
    ),
)

RUN_FAMILIES: tuple[Scalar | Family, ...] = RUN_STATE + CLIENT + GRADIENT + COUNTERS + DETECTION

LAYER_NORM = Head(
    "seismograd_run_layer_grad_norm",
    "gauge",
    "Gradient norm of a layer in the last closed step, of those layers that are to be exported.",
)
LAYER_DEVIATION = Head(
    "seismograd_run_layer_grad_norm_deviation_ratio", "gauge", "Gradient norm of a layer over what is usual for it."
)
TRUNCATED = Head(
    "seismograd_exporter_truncated_runs",
    "gauge",
    "Runs that are not on this page because of the limit on exported runs.",
)
