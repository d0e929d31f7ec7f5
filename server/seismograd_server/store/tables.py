"""A table of norms, float32 [steps, layers], to few bytes and back, exact to the bit. Pure.

    bit patterns, a layer after the other -> minus those of the layer that moves with it -> by scale -> pcodec

What scatters from one step to the next is the batch, and it moves many layers alike: the difference of two patterns,
which is about the logarithm of the ratio of two norms, varies far less than either. Layers of one scale share a stream,
because a stream has one code. On the norms of a real run the first saves 4 % of the bytes, the second another 5 %.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, DeltaSpec, standalone

from seismograd_server.model import Float32, UInt8, UInt32

# pcodec's default: beyond it it takes a multiple of the time for a few thousandths of the bytes.
LEVEL = 8
# A layer is foretold by a weighted sum of its last two values; the codec fits the weights. Plain differences take 1.3 %
# more bytes and are read in half of the time; eight weights save another per cent, and are read in twice of it.
_CONFIG = ChunkConfig(compression_level=LEVEL, delta_spec=DeltaSpec.try_conv1(2))
# How far ahead of a layer the one that it moves with is looked for: layers of one block of a model are neighbours.
_REACH = 64
# Steps that are looked at for that, and for the scale.
_SAMPLED_STEPS = 256
# A difference must vary less than this share of the layer's own variance, or it is not worth its noise.
_WORTH_IT = 0.9
# Streams of one table at most, and the least values of a stream: each has a code of a few hundred bytes.
_STREAMS, _LEAST_VALUES = 8, 8192
_COUNT = struct.Struct("<H")

Patterns = npt.NDArray[np.uint32]


def pack_table(table: Float32) -> bytes:
    """Serialise a table that has at least one step and one layer."""
    patterns = np.ascontiguousarray(table.T).view(np.uint32)
    shifts = _shifts(patterns)
    patterns = patterns >> shifts[:, None].astype(np.uint32)
    distances = _relate(patterns, shifts)
    residuals = _subtract(patterns, distances)
    streams = _streams(residuals)
    heads = [zlib.compress(column.tobytes(), 9) for column in (shifts, distances, streams)]
    bodies = [
        standalone.simple_compress(residuals[streams == stream].ravel(), _CONFIG)
        for stream in range(int(streams.max()) + 1)
    ]
    parts = heads + bodies
    lengths = np.array([len(part) for part in parts], np.uint32)
    return b"".join((_COUNT.pack(len(parts)), lengths.astype("<u4").tobytes(), *parts))


def unpack_table(data: bytes, steps: int, layers: int) -> Float32:
    """The table that `pack_table` was given.

    Raises:
        ValueError, struct.error, RuntimeError, TypeError, zlib.error: the bytes are damaged.
    """
    heads, bodies = _split(data)
    shifts, distances, streams = (np.frombuffer(zlib.decompress(head), np.uint8) for head in heads)
    if not len(shifts) == len(distances) == len(streams) == layers:
        raise ValueError(f"a stored table has {len(shifts)} layers where {layers} were written")
    patterns = np.empty((layers, steps), np.uint32)
    for stream, body in enumerate(bodies):
        decoded: npt.NDArray[Any] | None = standalone.simple_decompress(body)
        if decoded is None:
            raise ValueError("a stored table lacks a stream")
        patterns[streams == stream] = decoded.view(np.uint32).reshape(-1, steps)
    for layer in np.flatnonzero(distances).tolist():
        patterns[layer] += patterns[layer - int(distances[layer])]
    patterns <<= shifts[:, None].astype(np.uint32)
    return np.ascontiguousarray(patterns.T).view(np.float32)


def _shifts(patterns: Patterns) -> UInt8:
    """How many low bits are zero in every value of a layer: those that rounding has cleared."""
    used = np.bitwise_or.reduce(patterns, axis=1)
    lowest = used & (~used + np.uint32(1))
    return np.where(used == 0, 0, np.log2(np.maximum(lowest, 1))).astype(np.uint8)


def _relate(patterns: Patterns, shifts: UInt8) -> UInt8:
    """For each layer, how far ahead of it the layer is that it is told from; 0 = it is told by itself."""
    layers = len(patterns)
    distances = np.zeros(layers, np.uint8)
    moves = np.diff(patterns[:, : _SAMPLED_STEPS + 1].view(np.int32).astype(np.float32), axis=1)
    # What is not finite would outweigh all the rest.
    usual = np.median(np.abs(moves), axis=1, keepdims=True) if moves.shape[1] else np.zeros((layers, 1), np.float32)
    np.clip(moves, -8.0 * usual, 8.0 * usual, out=moves)
    squares = np.square(moves).sum(axis=1)
    for layer in range(1, layers):
        first = max(0, layer - _REACH)
        apart = squares[first:layer] + squares[layer] - 2.0 * (moves[first:layer] @ moves[layer])
        apart[shifts[first:layer] != shifts[layer]] = np.inf
        nearest = int(np.argmin(apart))
        if apart[nearest] < _WORTH_IT * squares[layer]:
            distances[layer] = layer - first - nearest
    return distances


def _subtract(patterns: Patterns, distances: UInt8) -> npt.NDArray[np.int32]:
    others = np.arange(len(patterns)) - distances
    residuals = np.where(distances[:, None] > 0, patterns - patterns[others], patterns)  # modulo 2^32: nothing is lost
    return residuals.view(np.int32)


def _streams(residuals: npt.NDArray[np.int32]) -> UInt8:
    """Which stream each layer goes into: equally many layers each, by the scale of their moves."""
    count = max(1, min(_STREAMS, len(residuals), residuals.size // _LEAST_VALUES))
    moves = np.abs(np.diff(residuals[:, : _SAMPLED_STEPS + 1].astype(np.float32), axis=1))
    scales = np.median(moves, axis=1) if moves.shape[1] else np.zeros(len(residuals))
    streams = np.empty(len(residuals), np.uint8)
    for stream, members in enumerate(np.array_split(np.argsort(scales, kind="stable"), count)):
        streams[members] = stream
    return streams


def _split(data: bytes) -> tuple[Sequence[bytes], Sequence[bytes]]:
    (count,) = _COUNT.unpack_from(data)
    lengths: UInt32 = np.frombuffer(data, "<u4", count, _COUNT.size)
    ends = _COUNT.size + 4 * count + np.cumsum(lengths, dtype=np.int64)
    parts = [data[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    return parts[:3], parts[3:]
