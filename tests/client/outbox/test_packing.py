"""The codec of records and the frames of files: every bit comes back, and what is no record is told apart."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd.outbox.frames import Framing, consecutive, entry_at, frame, scattered
from seismograd.outbox.packing import PackedError, name_of, pack, unpack
from seismograd.record import Nonfinite, NormSource, Quantity, RecordFlag, RecordKind, StepRecord
from tests.support.records import make_record

FLOATS = st.floats(width=64)
COLUMNS = st.lists(st.floats(width=32), max_size=9).map(lambda values: np.array(values, "<f4"))
COUNTS = st.integers(0, 2**64 - 1)


@st.composite
def nonfinites(draw: st.DrawFn) -> Nonfinite:
    rows = draw(st.lists(st.tuples(st.integers(0, 2**32 - 1), COUNTS, COUNTS, COUNTS), max_size=4))
    parameters, *counts = zip(*rows, strict=True) if rows else [()] * 4
    return Nonfinite(np.array(parameters, np.uint32), *(np.array(each, np.uint64) for each in counts))


RECORDS = st.builds(
    StepRecord,
    optimizer=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(RecordKind),
    branch=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**64 - 1),
    step=st.integers(-(2**63), 2**63 - 1),
    time_unix_seconds=FLOATS,
    source=st.sampled_from(NormSource),
    flags=st.integers(0, 31).map(RecordFlag),
    catalog_version=st.integers(0, 2**32 - 1),
    gradient_norms=st.none() | COLUMNS,
    total_norm=st.none() | FLOATS,
    digest=st.none() | COUNTS,
    nonfinite=st.none() | nonfinites(),
    scalars=st.dictionaries(st.sampled_from(Quantity), FLOATS),
    tensors=st.dictionaries(st.sampled_from(Quantity), COLUMNS, max_size=4),
    data_ids=st.none() | st.text(st.characters(), max_size=20),
)


def bits(value: object) -> object:
    """A value in a form whose equality is equality of bits: NaN equals itself, and 0.0 is not -0.0."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.tobytes())
    if isinstance(value, dict):
        return [(key, bits(each)) for key, each in value.items()]
    if isinstance(value, Nonfinite):
        return [bits(getattr(value, each.name)) for each in fields(Nonfinite)]
    return value


def same(one: StepRecord, other: StepRecord) -> bool:
    return all(bits(getattr(one, each.name)) == bits(getattr(other, each.name)) for each in fields(StepRecord))


@given(RECORDS)
def test_every_bit_of_a_record_comes_back(record: StepRecord) -> None:
    packed = pack(record)

    assert same(unpack(packed), record)
    assert name_of(packed) == (record.optimizer, record.kind, record.sequence, record.step)


@given(RECORDS, st.data())
def test_a_record_cut_off_anywhere_is_refused(record: StepRecord, data: st.DataObject) -> None:
    packed = pack(record)
    kept = data.draw(st.integers(0, len(packed) - 1))

    with pytest.raises(PackedError):
        unpack(packed[:kept])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_record_or_refused(content: bytes) -> None:
    for packed in (content, b"\x01" + content):
        try:
            record = unpack(packed)
        except PackedError:
            continue
        assert same(unpack(pack(record)), record)


def test_another_layout_is_refused_by_its_number() -> None:
    packed = bytearray(pack(make_record(1)))
    packed[0] = 9

    with pytest.raises(PackedError, match="a record of layout 9, expected 1"):
        unpack(bytes(packed))


@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=40)), max_size=5), st.data())
def test_a_file_cut_off_anywhere_gives_the_entries_before_the_cut(
    entries: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    framed = [frame(tag, payload) for tag, payload in entries]
    content = b"".join(framed)
    kept = data.draw(st.integers(0, len(content)))
    whole = 0
    while whole < len(framed) and sum(map(len, framed[: whole + 1])) <= kept:
        whole += 1

    found = [(entry.tag, entry.payload) for entry in consecutive(content[:kept])]

    # The zeros behind the last entry may be missing.
    assert found in (entries[:whole], entries[: whole + 1])


def written(payload: bytes, tag: int = 1) -> bytes:
    """An entry as a training thread writes it."""
    framing = Framing(tag, len(payload))
    buffer = bytearray(framing.size)
    framing.write(buffer, 0, payload)
    return bytes(buffer)


@given(st.lists(st.binary(min_size=9, max_size=9), max_size=3), st.integers(0, 9))
def test_entries_written_into_a_buffer_are_found_there_and_touch_nothing_else(payloads: list[bytes], tag: int) -> None:
    framing = Framing(tag, 9)
    buffer = bytearray(b"x" * (8 + framing.size * len(payloads) + 8))

    for number, payload in enumerate(payloads):
        framing.write(buffer, 8 + framing.size * number, payload)

    found = list(scattered(bytes(buffer)))
    assert [(entry.offset, entry.size) for entry in found] == [
        (8 + framing.size * number, framing.size) for number in range(len(payloads))
    ]
    assert [(entry.tag, entry.payload) for entry in found] == [(tag, payload) for payload in payloads]
    assert buffer[:8] == buffer[-8:] == b"x" * 8


@given(st.integers(0, 2**32 - 1), st.integers(16, 80))
def test_the_beginning_of_an_entry_before_the_end_of_an_older_one_is_none(seed: int, torn_at: int) -> None:
    generator = np.random.default_rng(seed)
    older, newer = generator.bytes(64), generator.bytes(64)
    torn = written(newer)[:torn_at] + written(older)[torn_at:]

    entry = entry_at(torn, 0)

    assert (entry is not None) == (torn[16:] == newer)


@given(
    st.binary(min_size=1, max_size=40), st.sampled_from([frame, lambda tag, payload: written(payload, tag)]), st.data()
)
def test_a_flipped_bit_anywhere_is_seen(
    payload: bytes, made: Callable[[int, bytes], bytes], data: st.DataObject
) -> None:
    entry = made(3, payload)
    position = data.draw(st.integers(0, 8 * (16 + len(payload)) - 1))
    broken = bytearray(entry)
    broken[position // 8] ^= 1 << position % 8

    assert entry_at(bytes(broken), 0) is None


def test_entries_are_found_between_the_remains_of_others() -> None:
    first, second = frame(1, b"one"), written(b"two", 2)
    content = second[8:] + first + first[:8] + second + second[:16]

    assert [entry.payload for entry in scattered(content)] == [b"one", b"two"]
