"""The families about runs: each name that is promised, its help, and the series that one run gives to it.

Labels are `project` and `run`, and where said one more. Never a rank (there may be ten thousand) and never a layer.
A number that is not known has no series, because 0 would be a lie and NaN is data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from seismograd_server.detect.tally import window_max
from seismograd_server.model import RunState, RunView, Signature, Tally, Visibility

# Beyond this a run would cost its Prometheus more than its worth; the fixed families need 29.
SERIES_PER_RUN = 64

# A series of one run in a family: what it has besides `project` and `run`, and its value.
Series = tuple[Mapping[str, str], float]
_NO_LABELS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Family:
    """A family of metrics about runs. `name` is that of its samples, so that of a counter ends in `_total`."""

    name: str
    kind: str  # "gauge", "counter" or "stateset"
    help: str
    read: Callable[[RunView], Iterable[Series]]


def _gauge(name: str, help_text: str, value: Callable[[RunView], float | None]) -> Family:
    return Family(name, "gauge", help_text, lambda view: _known(value(view)))


def _counter(name: str, help_text: str, value: Callable[[Tally], int]) -> Family:
    return Family(name, "counter", help_text, lambda view: [(_NO_LABELS, value(view.tally))])


def _known(value: float | None) -> Iterable[Series]:
    return () if value is None else ((_NO_LABELS, value),)


def _info(view: RunView) -> Iterable[Series]:
    run = view.run
    labels = {
        "name": run.tags.get("name", run.key.run),
        "framework": run.framework,
        "strategy": run.strategy,
        "dtype": view.dtype or run.tags.get("dtype", ""),
        "attempt": str(run.attempts),
    }
    return ((labels, 1.0),)


def _state(view: RunView) -> Iterable[Series]:
    return [({"seismograd_run_state": state.value}, float(view.run.state is state)) for state in RunState]


def _deviation(view: RunView) -> float | None:
    norm, baseline = view.tally.grad_norm, view.tally.grad_norm_baseline
    return norm / baseline if norm is not None and baseline is not None and baseline > 0 else None


def _skipped(view: RunView) -> Iterable[Series]:
    return (
        ({"reason": "found_inf"}, view.tally.skipped_found_inf),
        ({"reason": "user"}, view.tally.skipped_user),
    )


def _signatures(view: RunView) -> list[Signature]:
    """Those that fire, then those that the run has had, then those armed; as many as the series limit has room for."""
    firing = sorted(view.active, key=lambda signature: (-view.active[signature], signature.value))
    had = sorted(signature for signature in Signature if signature.value in view.tally.signatures)
    armed = sorted(status.signature for status in view.statuses if status.visibility is Visibility.ARMED)
    room = (SERIES_PER_RUN - _FIXED_SERIES) // 2  # each is a series of two families
    return list(dict.fromkeys([*firing, *had, *armed]))[:room]


def _signatures_total(view: RunView) -> Iterable[Series]:
    counts = view.tally.signatures
    return [({"signature": each.value}, counts.get(each.value, 0)) for each in _signatures(view)]


def _signature_active(view: RunView) -> Iterable[Series]:
    return [({"signature": each.value}, float(view.active.get(each, 0))) for each in _signatures(view)]


RUN_STATE: tuple[Family, ...] = (
    Family("seismograd_run_info", "gauge", "What is known of a run; always 1.", _info),
    Family("seismograd_run_state", "stateset", "Where a run is in its life: 1 for the state that it is in.", _state),
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
)

CLIENT: tuple[Family, ...] = (
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

GRADIENT: tuple[Family, ...] = (
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

COUNTERS: tuple[Family, ...] = (
    _counter("seismograd_run_steps_total", "Closed steps.", lambda tally: tally.steps),
    _counter(
        "seismograd_run_nonfinite_steps_total",
        "Steps with NaN or Inf in a gradient that the loss scaler does not explain.",
        lambda tally: tally.nonfinite_steps,
    ),
    Family("seismograd_run_skipped_steps_total", "counter", "Steps that changed no weights, by reason.", _skipped),
    _counter("seismograd_run_clipped_steps_total", "Steps whose gradient was clipped.", lambda t: t.clipped_steps),
    _counter(
        "seismograd_run_missing_records_total",
        "Records that a closed step had to do without.",
        lambda tally: tally.missing_records,
    ),
)

# One series each, but for the info's one, the four states and the two reasons for skipping a step.
_FIXED_SERIES = len(RUN_STATE) + len(CLIENT) + len(GRADIENT) + len(COUNTERS) + (len(RunState) - 1) + 1

DETECTION: tuple[Family, ...] = (
    Family("seismograd_run_signatures_total", "counter", "Alerts opened, by signature.", _signatures_total),
    Family(
        "seismograd_run_signature_active",
        "gauge",
        "Severity of the firing alert of a signature: 0 none, 1 info, 2 warning, 3 critical.",
        _signature_active,
    ),
)

RUN_FAMILIES: tuple[Family, ...] = RUN_STATE + CLIENT + GRADIENT + COUNTERS + DETECTION
