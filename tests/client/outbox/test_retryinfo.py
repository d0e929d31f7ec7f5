"""RetryInfo as real servers send it, and as nobody should."""

from __future__ import annotations

import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from seismograd.outbox.retryinfo import DETAILS_KEY, retry_after


def packed(*details: object) -> list[tuple[str, str | bytes]]:
    status = status_pb2.Status(code=14, message="storage busy")
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)  # type: ignore[arg-type]  # each is a message
        status.details.append(wrapped)
    return [("other", "header"), (DETAILS_KEY, status.SerializeToString())]


def info(seconds: int, nanos: int = 0) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds, nanos=nanos))


def test_the_delay_is_read_from_what_grpc_status_writes() -> None:
    assert retry_after(packed(info(3, 250_000_000))) == pytest.approx(3.25)


def test_the_delay_is_found_behind_other_details() -> None:
    other = error_details_pb2.DebugInfo(detail="disk full")
    assert retry_after(packed(other, info(7))) == 7.0


def test_no_delay_is_found_where_there_is_none() -> None:
    assert retry_after([]) is None
    assert retry_after(packed()) is None
    assert retry_after(packed(error_details_pb2.DebugInfo(detail="x"))) is None


def test_a_negative_delay_is_ignored_and_an_absurd_one_is_cut() -> None:
    assert retry_after(packed(info(-5))) is None
    assert retry_after(packed(info(10**9))) == 3600.0


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(data: bytes) -> None:
    found = retry_after([(DETAILS_KEY, data)])
    assert found is None or 0.0 <= found <= 3600.0
