"""To cut the norms out of frames and parse the rest tells what parsing all of it does, whatever the bytes are."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from seismograd_proto.v1 import telemetry
from seismograd_server.ingest.cutting import cut

# A frame that is worth being cut holds some large column; which bytes it holds does not matter.
LARGE = st.integers(4_096, 4_300)
SMALL = st.integers(0, 40)


@st.composite
def step_batches(draw: st.DrawFn) -> bytes:
    batch = telemetry.StepBatch(
        rank_handle=draw(st.integers(0, 2**64 - 1)),
        first_step=draw(st.integers(-(2**63), 2**63 - 1)),
        count=draw(st.integers(0, 300)),
        times_unix_seconds=b"t" * draw(SMALL),
        gradient_norms=bytes([draw(st.integers(0, 255))]) * draw(LARGE | SMALL),
        total_norms=b"n" * draw(SMALL),
        scalars=[
            telemetry.ScalarColumn(quantity=telemetry.QUANTITY_LOSS, values=b"v" * draw(SMALL))
            for _ in range(draw(st.integers(0, 2)))
        ],
    )
    return batch.SerializeToString()


def field(number: int, content: bytes) -> bytes:
    head, length = bytearray([number << 3 | 2]), len(content)
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes(head) + bytes([length]) + content


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    pieces = [field(1, each) for each in draw(st.lists(step_batches(), min_size=1, max_size=3))]
    health = telemetry.ClientHealth(rank_handle=1, dropped_records={"queue_full": 3})
    others = [
        field(6, health.SerializeToString()),
        field(9, b"of a newer client"),
        b"\x50\x01",
        b"\x5d\0\0\0\0",
        b"\x0a\0",
    ]
    pieces += draw(st.lists(st.sampled_from(others), max_size=2))
    data = bytearray(b"".join(draw(st.permutations(pieces))))
    for _ in range(draw(st.integers(0, 2))):  # damage, mostly where the structure is
        place = draw(st.integers(0, min(len(data), 60) - 1) | st.integers(max(0, len(data) - 200), len(data) - 1))
        data[place] = draw(st.sampled_from([0, 1, 8, 0x6A, 0x0A, 0x7F, 0x80, 0xEA, 0xFF]) | st.integers(0, 255))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def parsed(data: bytes) -> telemetry.StreamStepsRequest | None:
    try:
        return telemetry.StreamStepsRequest.FromString(data)
    except DecodeError:
        return None


@given(st.lists(frames(), min_size=1, max_size=3))
def test_a_cut_frame_says_what_the_whole_one_does(sent: list[bytes]) -> None:
    found = cut(sent)
    if found is None:
        return
    rest, norms = found
    expected, message = parsed(b"".join(sent)), parsed(rest)
    assert (message is None) == (expected is None)
    if message is None or expected is None:
        return
    for batch, own in zip(message.batches, norms, strict=True):
        assert not batch.gradient_norms
        batch.gradient_norms = bytes(own)
    assert message.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)
