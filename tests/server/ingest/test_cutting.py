"""Gradient norms are left where they lie in a large frame, and nothing else than ours is cut."""

from __future__ import annotations

import numpy as np
import pytest

from seismograd_proto.v1 import telemetry
from seismograd_server.ingest.cutting import cut
from seismograd_server.ingest.decode import Decoder
from seismograd_server.ingest.limits import IngestLimits
from seismograd_server.model import Catalog
from tests.support.synthetic import parameters

COUNT, LAYERS = 600, 3
NORMS = (np.arange(COUNT * LAYERS, dtype="<f4") + 1.0).tobytes()


def batch(first: int = 0, norms: bytes = NORMS, count: int = COUNT) -> telemetry.StepBatch:
    return telemetry.StepBatch(
        rank_handle=7,
        kind=telemetry.RECORD_KIND_STEP,
        first_sequence=first,
        count=count,
        first_step=first,
        times_unix_seconds=np.arange(count, dtype="<f8").tobytes(),
        sources=bytes([telemetry.NORM_SOURCE_CLIP] * count),
        flags=bytes(2 * count),
        gradient_norms=norms,
    )


def frame(*batches: telemetry.StepBatch) -> bytes:
    return telemetry.StreamStepsRequest(batches=batches).SerializeToString()


def test_the_norms_of_a_large_frame_are_not_copied() -> None:
    sent = frame(batch())
    decoder = Decoder(lambda _handle, optimizer, version: Catalog(optimizer, version, parameters()), IngestLimits())
    (decoded,) = decoder.decode([sent]).batches
    assert decoded.gradient_norms is not None
    assert np.shares_memory(decoded.gradient_norms, np.frombuffer(sent, np.uint8))
    assert decoded.gradient_norms.tobytes() == NORMS


def test_frames_of_a_stream_are_cut_one_by_one_and_decoded_as_one() -> None:
    frames = [frame(batch(0), batch(COUNT)), frame(batch(2 * COUNT, norms=b"")), frame(batch(3 * COUNT))]
    found = cut(frames)
    assert found is not None
    rest, norms = found
    assert [bytes(each) for each in norms] == [NORMS, NORMS, b"", NORMS]
    assert [each.first_sequence for each in telemetry.StreamStepsRequest.FromString(rest).batches] == [
        0,
        COUNT,
        2 * COUNT,
        3 * COUNT,
    ]


def test_norms_that_are_not_most_of_a_frame_are_copied_and_do_not_keep_it() -> None:
    found = cut([frame(batch(0), batch(COUNT), batch(2 * COUNT))])
    assert found is not None
    assert [type(each) for each in found[1]] == [bytes] * 3


@pytest.mark.parametrize(
    "many",
    [b"\x0a\x00" * 5_000, b"\xa2\x01\x00" * 5_000, b"\x0a\xa0\x9c\x01" + b"\x08\x01" * 10_000],
    ids=["empty batches", "unknown fields", "fields of a batch"],
)
def test_what_has_more_fields_than_a_client_sends_is_left_to_the_parser(many: bytes) -> None:
    """Each takes the parser some nanoseconds, and half a microsecond here, on a thread that all streams share."""
    telemetry.StreamStepsRequest.FromString(many)  # it is a message all the same
    assert cut([many]) is None


def test_small_frames_are_parsed_as_they_are() -> None:
    assert cut([frame(batch(count=1, norms=bytes(12)))] * 100) is None


@pytest.mark.parametrize(
    "odd",
    [
        frame(batch())[:-1],
        frame(batch()) + b"\x0a",
        frame(batch()) + b"\x0a\x82\x80\x80\x80\x80\x00\x08\x01",  # a length of two in six bytes
        frame(batch()) + b"\x0a\x02\x6a\x05",  # norms that reach beyond their batch
        b"\x50\x02\x0a\x00" + frame(batch()),  # a number, and then a batch that is empty
        frame(batch()) + b"\x0a\x09\x6d" + bytes(4) + b"\x69\x01\x00",  # fixed numbers within a batch
        frame(batch()) + b"\x0a\x04\x6a\x00\x6a\x00",  # norms twice
    ],
    ids=["cut short", "no length", "long length", "beyond the batch", "a number", "fixed numbers", "twice"],
)
def test_what_is_not_laid_out_like_ours_is_left_to_the_parser(odd: bytes) -> None:
    assert cut([odd]) is None
