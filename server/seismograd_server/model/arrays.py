"""Array types by the name of their elements, and columns of which nothing is known."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Bool = npt.NDArray[np.bool_]

_NAN, _NAN32 = np.float64(np.nan).tobytes(), np.float32(np.nan).tobytes()


@lru_cache(maxsize=256)  # most blocks of a server are of a few shapes
def unknown(*shape: int) -> Float64:
    """NaN everywhere, read-only: one number however large the shape, because to fill an array costs more."""
    return np.ndarray(shape, np.float64, _NAN, strides=(0,) * len(shape))


@lru_cache(maxsize=256)
def unknown32(*shape: int) -> Float32:
    """The same in single precision."""
    return np.ndarray(shape, np.float32, _NAN32, strides=(0,) * len(shape))


def is_unknown(column: npt.NDArray[Any]) -> bool:
    """Whether it can be told at once that nothing is known: of what `unknown` made, and of empty columns."""
    return column.size == 0 or (not any(column.strides) and math.isnan(column.item(0)))
