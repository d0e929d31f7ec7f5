"""Which rank moved first: every rank against the median of the others. Pure."""

from __future__ import annotations

import numpy as np

from seismograd_server.model import Alert, Float64
from seismograd_server.reading.history import RankWindow
from seismograd_server.report.contents import RankView

# Four times the median of the others. Local norms of equal shards differ by tens of percent, seldom by two.
_NORM_RATIO = 4.0
# Losses of equal shards lie closer together than norms.
_LOSS_RATIO = 3.0
# A rank is suspected when it stays out for this share of the next samples: any batch can be odd once.
_STAYED = 0.5


def compare_ranks(window: RankWindow | None, onset: int | None, lead: Alert | None) -> RankView | None:
    """The ranks around the onset, and the one that left the others first; None with a single rank.

    A detector's word on the leading rank, which has seen the whole run, stands above what the window shows.
    """
    if window is None or window.norm.shape[1] < 2 or not len(window.steps):
        return None
    # A loss of NaN is the worst of losses, while NaN in these arrays means "not known".
    loss = np.where(window.loss_known, np.where(np.isnan(window.loss), np.inf, window.loss), np.nan)
    rank, step, ratio, quantity = _first_apart(window, loss, onset)
    named = None if lead is None else lead.evidence.leading_rank
    if named is not None and named < window.norm.shape[1] and named != rank:
        rank, step, ratio, quantity = named, None, None, "local gradient norm"
    return RankView(window.steps, loss, window.norm, rank, step, ratio, quantity, window.hostnames)


def _first_apart(
    window: RankWindow, loss: Float64, onset: int | None
) -> tuple[int | None, int | None, float | None, str]:
    best: tuple[int, float, int, str] | None = None
    for values, limit, quantity in ((window.norm, _NORM_RATIO, "local gradient norm"), (loss, _LOSS_RATIO, "loss")):
        ratios = ratio_to_others(values)
        # Ranks that all explode together leave each other too; only what begins around the onset counts.
        eligible = np.ones(len(window.steps), np.bool_) if onset is None else window.steps >= onset - 2
        for rank in range(values.shape[1]):
            row = _first_lasting(ratios[:, rank], limit, eligible)
            if row is None:
                continue
            candidate = (int(window.steps[row]), -float(ratios[row, rank]), rank, quantity)
            best = candidate if best is None or candidate < best else best
        if best is not None:
            break  # local norms are the better witness: losses of single batches scatter more
    if best is None:
        return None, None, None, ""
    return best[2], best[0], -best[1], best[3]


def ratio_to_others(values: Float64) -> Float64:
    """[w, r]: each rank's value over the median of the other ranks; Inf for a non-finite value among finite ones."""
    ranks = values.shape[1]
    ratios = np.full(values.shape, np.nan)
    for rank in range(ranks):
        others = np.delete(values, rank, axis=1)
        usable = np.isfinite(others) & (others > 0)
        rows = np.flatnonzero(usable.any(axis=1))
        if not len(rows):
            continue
        median = np.nanmedian(np.where(usable, others, np.nan)[rows], axis=1)
        own = values[rows, rank]
        ratios[rows, rank] = np.where(np.isinf(own), np.inf, own / median)
    return ratios


def _first_lasting(ratios: Float64, limit: float, eligible: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int | None:
    sampled = ~np.isnan(ratios)
    out = sampled & (ratios >= limit) & eligible
    for row in np.flatnonzero(out).tolist():
        following = out[row:][sampled[row:]][:4]
        if following.mean() >= _STAYED:
            return int(row)
    return None
