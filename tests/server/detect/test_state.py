"""Detector state as bytes: exact, comparable, and never trusted blindly."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
import pytest

from seismograd_server.detect.baseline import Baseline
from seismograd_server.detect.state import StateError, fill, pack, unpack


@dataclass
class Inner:
    values: list[float] = field(default_factory=list)


@dataclass
class Outer:
    count: int = 0
    height: float = 0.0
    inner: Inner = field(default_factory=Inner)
    table: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = field(
        default_factory=lambda: np.empty((0, 0), np.float32)
    )
    newer: str = "fresh"


def test_values_arrays_and_nested_parts_come_back_exactly() -> None:
    table = np.array([[1.5, np.nan], [-np.inf, 2.0**-149]], dtype=np.float32)
    saved = Outer(3, -math.inf, Inner([0.1, math.nan]), table)
    restored = Outer()
    fill(restored, unpack(pack({"outer": saved}))["outer"])
    assert (restored.count, restored.height) == (3, -math.inf)
    assert restored.inner.values[0] == 0.1
    assert math.isnan(restored.inner.values[1])
    assert restored.table.dtype == np.float32
    np.testing.assert_array_equal(restored.table, table)
    restored.table[0, 0] = 0.0  # it must be writable, unlike a view of the bytes


def test_a_field_that_an_older_state_lacks_keeps_its_fresh_value() -> None:
    restored = Outer()
    fill(restored, {"count": 7})
    assert (restored.count, restored.newer) == (7, "fresh")


def test_equal_states_have_equal_bytes() -> None:
    assert pack({"a": Outer(1)}) == pack({"a": Outer(1)})
    assert pack({"a": Outer(1)}) != pack({"a": Outer(2)})


FORMER = zlib.compress(b'{"a":{"count":3,"table":{"__array__":"<f4","shape":[1,2],"data":"AACAPwAAAEA="}}}')
COMPRESSED = zlib.compress(b'{"a":{"count":3,"table":{"__array__":"<f4","shape":[1,2],"at":0}}}')


@pytest.mark.parametrize(
    "data",
    [
        b"SGW1" + FORMER,
        b"SGW2" + struct.pack("<I", len(COMPRESSED)) + COMPRESSED + struct.pack("<ff", 1.0, 2.0),
    ],
    ids=["arrays within", "compressed"],
)
def test_what_former_formats_hold_is_read(data: bytes) -> None:
    restored = Outer()
    fill(restored, unpack(data)["a"])
    assert restored.count == 3
    np.testing.assert_array_equal(restored.table, np.array([[1.0, 2.0]], dtype=np.float32))


@pytest.mark.parametrize("count", [0, 5])
def test_a_long_list_of_numbers_comes_back_as_a_list_and_what_is_derived_is_made_anew(count: int) -> None:
    saved = Baseline()
    saved.accept_all([3.0, -1.5, 0.1, -0.0, 2.0**-1074][:count])
    restored = Baseline()
    fill(restored, unpack(pack({"norm": saved}))["norm"])
    assert repr(restored) == repr(saved)


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04", b"SGW1", b"SGW1damaged", b"SGW2", b"SGW3", pack({"a": 1})[:-3], pack({"a": np.ones(9)})[:-3]],
)
def test_damaged_bytes_are_refused_with_one_line(data: bytes) -> None:
    with pytest.raises(StateError, match=r"^detector state: .*start the detectors afresh$"):
        unpack(data)
