"""One optimizer of one run: its records are aligned, composed and watched here. In memory only; the spine stores."""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter
from dataclasses import dataclass

from seismograd_server.detect import tally as tallies
from seismograd_server.detect.align import Aligner, Patience
from seismograd_server.detect.closing import Position
from seismograd_server.detect.compose import Composer
from seismograd_server.detect.watch import Observation, RunWatch, WatchConfig
from seismograd_server.model import (
    Catalog,
    ClosedBlock,
    Float32,
    Launch,
    LayerLevels,
    Layout,
    StepBatch,
    Tally,
)
from seismograd_server.pipeline.ranks import Sender

# Of the header, and of all that follows the checksum. Schema revisions before 8 wrote SGP1, which has none.
_MAGIC, _UNCHECKED = b"SGP2", b"SGP1"
_HEADER = struct.Struct("<4sI")
_CHECKSUM = struct.Struct("<I")
# Steps times ranks of one block: its tables by rank hold that many numbers each, 32 MiB of float64.
_CELLS = 2**22


@dataclass(frozen=True, slots=True, eq=False)
class Closed:
    """A block that has just been closed, and where it belongs."""

    launch_row: int
    optimizer: int
    block: ClosedBlock


@dataclass(frozen=True, slots=True)
class SavedState:
    """What a checkpoint holds beside the detectors' own bytes.

    Attributes:
        attempt: the launch that was open; 0 = none yet.
        frontier: the last position closed in it.
        segment: everything that is stored in segments up to this one was closed or late.
        versions: catalog versions in use, by rank.
        tally: the run's gauges and counters.
        watch: the detectors' state.
    """

    attempt: int
    frontier: Position | None
    segment: int
    versions: dict[int, int]
    tally: Tally
    watch: bytes

    def to_bytes(self) -> bytes:
        """Serialise: a JSON header, then the detectors' bytes."""
        header = {
            "attempt": self.attempt,
            "frontier": self.frontier,
            "segment": self.segment,
            "versions": list(self.versions.items()),
            "tally": tallies.to_json(self.tally),
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        checksum = _CHECKSUM.pack(zlib.crc32(self.watch, zlib.crc32(text)))
        return _HEADER.pack(_MAGIC, len(text)) + checksum + text + self.watch

    @classmethod
    def from_bytes(cls, data: bytes) -> SavedState:
        """The inverse.

        Raises:
            ValueError: damaged, or of another version.
        """
        try:
            magic, length = _HEADER.unpack_from(data)
            start = _HEADER.size + (0 if magic == _UNCHECKED else _CHECKSUM.size)
            if magic not in (_MAGIC, _UNCHECKED):
                raise ValueError(f"detector checkpoint begins with {magic!r}")
            if magic == _MAGIC and _CHECKSUM.unpack_from(data, _HEADER.size)[0] != zlib.crc32(data[start:]):
                raise ValueError("detector checkpoint is damaged: its checksum is another one")
            header = json.loads(data[start : start + length])
            frontier = header["frontier"]
            return cls(
                attempt=int(header["attempt"]),
                frontier=None if frontier is None else (int(frontier[0]), int(frontier[1])),
                segment=int(header["segment"]),
                versions={int(rank): int(version) for rank, version in header["versions"]},
                tally=tallies.from_json(header["tally"]),
                watch=data[start + length :],
            )
        except (struct.error, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"detector checkpoint is damaged: {error}") from error


class Series:
    """The closed steps of one optimizer, over all launches of the run, as they come to be."""

    def __init__(self, optimizer: int, patience: Patience, config: WatchConfig) -> None:
        self.optimizer = optimizer
        self.watch = RunWatch(config)
        self.tally = Tally()
        self.ordinal = 0  # of the last block stored
        self.saved_at: float | None = None  # when the last checkpoint was stored; None = never
        self.unsaved_steps = 0  # closed since then
        self.latest_layers: tuple[Layout, Float32] | None = None  # float32[l] of the last closed step; None = not yet
        self.dtype = ""  # that most elements of the gradient have, as the first rank known holds them
        self.attempt = 0
        self._patience = patience
        self._config = config
        self._launch: Launch | None = None
        self._aligner: Aligner | None = None
        self._composer: Composer | None = None
        self._ready: list[Closed] = []

    @property
    def aligner(self) -> Aligner:
        """Of the launch that is open now."""
        assert self._aligner is not None  # noqa: S101 (`begin` comes first; for the type checker)
        return self._aligner

    @property
    def composer(self) -> Composer:
        """Of the launch that is open now."""
        assert self._composer is not None  # noqa: S101 (as above)
        return self._composer

    @property
    def oldest_arrival(self) -> float | None:
        """When the record that has waited longest for its step to close arrived."""
        return self._aligner.oldest_arrival if self._aligner is not None else None

    @property
    def waits(self) -> bool:
        """Whether any record is still to be judged."""
        return bool(self._ready) or (self._aligner is not None and self._aligner.pending)

    @property
    def waiting_records(self) -> int:
        """How many records are still to be judged."""
        return self._aligner.waiting_records if self._aligner is not None else 0

    def begin(
        self,
        launch: Launch,
        now: float,
        frontier: Position | None = None,
        versions: dict[int, int] | None = None,
    ) -> None:
        """Go on with a launch. What still waits of the one before is closed: its processes are gone."""
        while self._aligner is not None and self._aligner.pending:
            self._ready += self._close(now, everything=True)
        self._launch = launch
        self.attempt = launch.attempt
        self._aligner = Aligner(launch.world_size, self._patience, now=now, frontier=frontier)
        self._composer = Composer(launch.world_size, launch.attempt, versions=dict(versions or {}))

    def know(self, sender: Sender) -> None:
        """Learn a rank's host and its catalogs."""
        self.composer.hostnames[sender.rank.rank] = sender.rank.hostname
        for (optimizer, version), catalog in sender.catalogs.items():
            if optimizer == self.optimizer:
                self.composer.catalogs[sender.rank.rank, version] = catalog
                self.dtype = self.dtype or _dtype_of(catalog)

    def offer(self, sender: Sender, batch: StepBatch, now: float, segment: int) -> None:
        """Take new records of a rank of the open launch."""
        if (sender.rank.rank, batch.catalog_version) not in self.composer.catalogs:
            self.know(sender)
        self.aligner.offer(sender.rank.rank, batch, now=now, segment=segment)

    def layers(self) -> LayerLevels | None:
        """The norms by layer of the last closed step; None = none has closed since the run came into memory."""
        if self.latest_layers is None:
            return None
        layout, norms = self.latest_layers
        return LayerLevels(layout.names, norms, self.watch.usual_layers(len(norms)))

    @property
    def width(self) -> int:
        """How many layers are watched: in the last closed step, or in the largest catalog while there is none."""
        if self.latest_layers is not None:
            return len(self.latest_layers[0].names)
        catalogs = self._composer.catalogs.values() if self._composer is not None else ()
        return max((len(catalog.parameters) for catalog in catalogs), default=0)

    @property
    def saving_order(self) -> tuple[float, int]:
        """To sort by when not all can be saved: first who has waited longest; of several, who has closed most steps."""
        return self.saved_at or 0.0, -self.unsaved_steps

    @property
    def behind(self) -> bool:
        """Whether more could have been closed than was asked for."""
        return self._aligner is not None and self._aligner.capped

    def close(self, now: float, *, everything: bool = False, most: int | None = None) -> list[Closed]:
        """Give the blocks that close now, in order; about `most` steps of them."""
        ready, self._ready = self._ready, []
        return ready + self._close(now, everything=everything, most=most)

    def take(self, block: ClosedBlock, observation: Observation) -> None:
        """Fold a block into the tally, and what the detectors said of it."""
        self.tally = tallies.fold(self.tally, block, observation.latest_baseline)
        if block.count:
            self.latest_layers = block.layout, block.layer_norms[-1].copy()  # a view would keep the block in memory

    def restore(self, state: SavedState, ordinal: int) -> None:
        """Go back to a checkpoint. Raises ValueError when it cannot be read."""
        self.watch = RunWatch.from_bytes(state.watch, self._config)
        self.tally, self.ordinal = state.tally, ordinal

    def watch_for(self, config: WatchConfig) -> None:
        """Look for something else from the next step on; what has been learnt stays."""
        if config != self._config:
            self.watch, self._config = RunWatch.from_bytes(self.watch.to_bytes(), config), config

    def state(self, last_segment: int) -> SavedState:
        """What a checkpoint must hold now; `last_segment` is the newest one that is stored."""
        waiting = self._aligner.lowest_segment if self._aligner is not None else None
        return SavedState(
            attempt=self.attempt,
            frontier=self._aligner.frontier if self._aligner is not None else None,
            segment=last_segment if waiting is None else min(waiting, last_segment),
            versions=dict(self._composer.versions) if self._composer is not None else {},
            tally=self.tally,
            watch=self.watch.to_bytes(),
        )

    def follow_clock(self, seconds: float) -> None:
        """The clock has been set: what has waited goes on waiting as long as it would have."""
        if self.saved_at is not None:
            self.saved_at += seconds
        if self._aligner is not None:
            self._aligner.follow_clock(seconds)

    def _close(self, now: float, *, everything: bool, most: int | None = None) -> list[Closed]:
        if self._launch is None or self._aligner is None or self._composer is None:
            return []
        bound = max(1, _CELLS // self._launch.world_size)
        most = bound if most is None else min(most, bound)
        closings = self._aligner.close_all(most=most) if everything else self._aligner.close(now, most=most)
        return [
            Closed(self._launch.launch_row, self.optimizer, block)
            for closing in closings
            for block in self._composer.compose(closing)
        ]


def _dtype_of(catalog: Catalog) -> str:
    elements = Counter[str]()
    for parameter in catalog.parameters:
        elements[parameter.dtype] += parameter.numel
    return max(elements, key=lambda dtype: elements[dtype], default="")
