"""Buckets of steps: what is kept of a long run so that any range of it is drawn at once."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from seismograd_server.model.arrays import Float32, Float64, Int64


class SummaryKind(enum.IntEnum):
    """What a summary is of (numbers as in the store)."""

    SERIES = 1  # the run's own series
    LAYERS = 2  # the gradient norm of every layer


# Steps a bucket, at which summaries are stored; sixteen apart, so that what is read is never more than sixteen times
# what is shown, and all the coarser ones together cost a fifteenth of the finest. Steps between the finest and one are
# read as they are. The series start finer, because a chart is wider in points than a heatmap is in columns, and because
# a dozen numbers beside hundreds of layers cost next to nothing; three numbers of a layer cost at 256 steps a bucket
# 0.03 bytes a norm.
SUMMARY_SIZES = {SummaryKind.SERIES: (64, 1024, 16384), SummaryKind.LAYERS: (256, 4096, 65536)}
# Columns of `Summary.tallies`.
TALLIES = ("nonfinite", "nonfinite_steps", "skipped_by_scaler", "skipped_by_user", "clipped")


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """Numbers of some columns over buckets of `size` steps; k buckets that have any step, c columns.

    Bucket b covers the steps from b * size to (b + 1) * size - 1, wherever batches and blocks were cut. A minimum and a
    maximum are exact, and Inf is a value to them; NaN = nothing is known of the column in the bucket.
    """

    size: int
    names: tuple[str, ...]
    buckets: Int64  # [k], rising
    first_steps: Int64  # [k], the first step there is in the bucket
    last_steps: Int64  # [k]
    steps: Int64  # [k], how many there are
    minimum: Float64 | Float32  # [k, c]
    maximum: Float64 | Float32  # [k, c]
    mean: Float64 | Float32  # [k, c], of the finite values
    known: Int64  # [k, c], number of finite values
    nonfinite: Int64  # [k, c], number of values that are not finite; of a layer: of steps in which an element was not
    tallies: Int64  # [k, 5] for the run's own series, see TALLIES; [k, 0] for layers

    @property
    def count(self) -> int:
        """Number of buckets, k."""
        return len(self.buckets)


@dataclass(frozen=True, slots=True)
class Line:
    """The steps that one branch of one attempt has made; a later line hides steps of those before it."""

    optimizer: int
    attempt: int
    branch: int
    first_step: int
    last_step: int
    summarised_to: int | None  # steps up to this one are in the summaries; None = none is
