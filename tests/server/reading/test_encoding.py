from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seismograd_server.reading.encoding import column, dumps


@given(arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32, allow_nan=False)))
def test_a_float32_in_json_is_the_same_float32_when_it_is_read(values: np.ndarray) -> None:
    text = dumps(column(values))
    again = np.array([float(each) for each in json.loads(text)], np.float32)
    np.testing.assert_array_equal(again, values)


def test_a_float32_takes_nine_digits() -> None:
    values = np.array([0.1, 123456.789, 1e-30, -0.0, np.nan, np.inf], np.float32)
    assert dumps(column(values)) == '[0.100000001,123456.789,1e-30,-0.0,null,"Infinity"]'


def test_values_that_json_does_not_know_are_made_plain() -> None:
    assert dumps({"a": (1.0, float("nan")), 2: [float("-inf")]}) == '{"a":[1.0,"NaN"],"2":["-Infinity"]}'
