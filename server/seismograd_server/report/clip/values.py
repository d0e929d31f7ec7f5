"""A study of clipping as JSON values with stable keys, and as rows of words. Pure."""

from __future__ import annotations

from dataclasses import asdict

from seismograd_server.display.numbers import figure, octaves, share
from seismograd_server.reading.encoding import Json, plain
from seismograd_server.report.clip.types import (
    COEFFICIENT_FORMULA,
    MEAN_FORMULA,
    WEIGHTED_FORMULA,
    ClipStudy,
    Effect,
    Recommendation,
)


def clip_json(found: ClipStudy) -> Json:
    """The study; what is not known is null."""
    values: Json = {
        "steps": found.steps,
        "looked_at": found.looked_at,
        "closed_steps": found.closed,
        "first_step": found.first_step,
        "last_step": found.last_step,
        "onset_step": found.onset,
        "left_out": asdict(found.left_out),
        "threshold_in_force": found.in_force,
        "now": _effect_json(found.now),
        "recommended": _recommendation_json(found.recommendation),
        "thresholds": [
            {"threshold": each.threshold, **(_effect_json(each.effect) or {}), "clipped_from_onset": each.exploding}
            for each in found.counterfactuals
        ],
        "quantiles": [asdict(each) for each in found.quantiles],
        "histogram": {
            "start_octaves": found.histogram_start,
            "octaves_per_bin": 0.25,
            "steps": list(found.histogram),
        },
        "tenths": [
            {
                "first_step": each.first_step,
                "last_step": each.last_step,
                "steps": each.steps,
                "median": each.median,
                "high": each.high,
                "octaves": each.octaves,
                "now": _effect_json(each.effect),
            }
            for each in found.tenths
        ],
        "drift_octaves": found.drift_octaves,
        "cannot_know": list(found.limits),
        "formulas": [COEFFICIENT_FORMULA, MEAN_FORMULA, WEIGHTED_FORMULA],
    }
    return {name: plain(value) for name, value in values.items()}


def _effect_json(effect: Effect | None) -> Json | None:
    if effect is None:
        return None
    return {
        "clipped": effect.clipped,
        "mean_coefficient": effect.mean,
        "weighted_coefficient": effect.weighted,
        "rate_lost": 1.0 - effect.mean,
        "path_lost": 1.0 - effect.weighted,
    }


def _recommendation_json(recommended: Recommendation) -> Json:
    return {
        "threshold": recommended.threshold,
        "keep": recommended.keep,
        "settled": recommended.settled,
        "reason": recommended.reason,
    }


def threshold_rows(found: ClipStudy) -> list[tuple[str, str, str, str, str]]:
    """(threshold and what it is, steps clipped, mean coefficient, of the path left, clipped from the onset on)."""
    rows = []
    for each in found.counterfactuals:
        remarks = [
            "in force" if each.threshold == found.in_force else "",
            "recommended" if each.threshold == found.recommendation.threshold else "",
        ]
        said = ", ".join(remark for remark in remarks if remark)
        effect = each.effect
        rows.append(
            (
                figure(each.threshold) + (f" ({said})" if said else ""),
                share(effect.clipped),
                figure(effect.mean, 3),
                figure(effect.weighted, 3),
                "–" if each.exploding is None else share(each.exploding),
            )
        )
    return rows


def distribution_sentence(found: ClipStudy) -> str:
    """Where the norms lie, in octaves from their median; empty when none is known."""
    by_share = {each.share: each for each in found.quantiles}
    if not by_share:
        return ""
    low, high, top = by_share[0.1], by_share[0.9], by_share[0.99]
    return (
        f"Eight norms in ten lie between {figure(low.norm)} and {figure(high.norm)} ({octaves(low.octaves)} to "
        f"{octaves(high.octaves)} octaves from their median), one in a hundred above {figure(top.norm)} "
        f"({octaves(top.octaves)})."
    )


def drift_sentence(found: ClipStudy) -> str:
    """How the norm moved over the run; empty when it cannot be told."""
    known = [tenth for tenth in found.tenths if tenth.median is not None]
    if found.drift_octaves is None or len(known) < 2:
        return ""
    return (
        f"From the first tenth of the run to the last the median norm went from {figure(known[0].median)} to "
        f"{figure(known[-1].median)}, {octaves(found.drift_octaves)} octaves."
    )
